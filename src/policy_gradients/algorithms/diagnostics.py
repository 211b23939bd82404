"""What every algorithm reports of an update, from the same quantities and under the same names (docs/metrics.md)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from policy_gradients.estimation.batches import masked_mean, masked_std
from policy_gradients.types import ActorCritic, Array, LearnerState, Metrics, Params, Transition


def learning_metrics(
    agent: ActorCritic,
    config: Any,
    old: Params,
    state: LearnerState,
    seen: Transition,
    *,
    advantage: Array,
    returns: Array,
) -> Metrics:
    """Metrics of the step from `old` to `state.params`, over the valid rows of the trajectory.

    Args:
        agent: The networks.
        config: The algorithm's hyperparameters.
        old: Parameters before the update, those that acted.
        state: The learner after the update.
        seen: The trajectory as the networks saw it (normalised).
        advantage: Â before standardisation, from the critic before the update.
        returns: R̂ in units of the (scaled) return; returns − advantage is what the critic said.
    """
    valid = seen.valid
    before, after = agent.policy(old, seen.obs), agent.policy(state.params, seen.obs)
    drawn = before.log_prob(seen.action) - seen.log_prob
    spread = masked_std(returns, valid) ** 2
    moved = jax.tree.map(jnp.subtract, state.params, old)
    metrics = {
        "train/kl": masked_mean(before.kl(after), valid),
        "train/ratio_max_deviation_start": jnp.max(jnp.where(valid, jnp.abs(jnp.expm1(drawn)), 0.0)),
        "train/entropy": masked_mean(after.entropy(), valid),
        "train/explained_variance": jnp.where(
            spread > 0.0, 1.0 - masked_std(advantage, valid) ** 2 / spread, jnp.float32(jnp.nan)
        ),
        "train/advantage_mean": masked_mean(advantage, valid),
        "train/advantage_std": masked_std(advantage, valid),
        "train/return_mean": masked_mean(returns, valid),
        "train/update_norm": optax.tree.norm(moved),
        "train/learning_rate": state.learning_rate,
        "train/n_updates": state.n_updates.astype(jnp.float32),
    }
    if hasattr(after, "log_std"):  # not a Categorical, nor every distribution of a user's own
        std = jnp.exp(after.log_std)
        metrics |= {"train/std": jnp.mean(std), "train/std_min": jnp.min(std)}
    statistics = state.statistics
    if statistics.obs is not None:
        metrics["normalizer/obs_count"] = statistics.obs.count.as_float()
        clipped = jnp.abs(seen.obs).reshape(*valid.shape, -1) >= config.normalization.obs_clip
        metrics["normalizer/obs_clip_fraction"] = masked_mean(jnp.mean(clipped, axis=-1, dtype=jnp.float32), valid)
    if statistics.reward is not None:
        metrics["normalizer/return_std"] = statistics.reward.std
    return metrics
