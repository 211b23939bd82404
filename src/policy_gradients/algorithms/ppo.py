"""Proximal Policy Optimization with the clipped surrogate (Schulman et al., arXiv 1707.06347)."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from policy_gradients.algorithms.diagnostics import learning_metrics
from policy_gradients.estimation import normalization as norm
from policy_gradients.estimation.advantages import gae
from policy_gradients.estimation.batches import Batch, flatten, masked_mean, shuffle, standardize
from policy_gradients.optimization.schedules import Schedule, kl_adaptive, linear
from policy_gradients.types import ActorCritic, Algorithm, Array, Key, LearnerState, Metrics, Params, Transition

STOP_AT = 1.5
"""Epochs end once the mean KL of one exceeds this multiple of `target_kl` (Stable-Baselines3's multiple)."""

_STEP_METRICS = (
    "train/policy_gradient_loss", "train/value_loss", "train/clip_fraction", "train/approx_kl",
    "train/grad_norm", "train/grad_clipped_fraction", "train/nonfinite",
)  # fmt: skip


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO. Defaults are the field's for MuJoCo (Stable-Baselines3, CleanRL) unless said otherwise.

    Attributes:
        num_steps: T, environment steps per environment and update. Longer: less bias, staler data.
        num_epochs: E, passes over each batch.
        num_minibatches: M, gradient steps per epoch; must divide T·N.
        learning_rate: Adam's step size.
        lr_schedule: "constant", "linear" (to 0 over the run's environment steps) or "kl_adaptive" (towards target_kl).
        gamma: γ, the discount.
        gae_lambda: λ of the advantage estimate.
        clip_eps: ε, how far a probability ratio may move a sample's objective.
        value_clip_eps: ε_V, the same for the critic; None for no clipping (arXiv 2006.05990 finds that it hurts).
        value_coef: c_V, weight of the critic's loss.
        entropy_coef: c_H, weight of the entropy bonus.
        max_grad_norm: Bound on the global norm of the gradient.
        target_kl: KL per update, nats: epochs stop past 1.5 times it, or the learning rate follows it ("kl_adaptive").
        advantages: Standardise them per "batch", per "minibatch", or "none".
        recompute_advantages: Judge the rollout anew with the current critic before every epoch (arXiv 2006.05990, C5).
        adam_eps: ε of Adam (1e-5 as in OpenAI's baselines).
        normalization: What is normalised.
    """

    num_steps: int = 256
    num_epochs: int = 10
    num_minibatches: int = 32
    learning_rate: float = 3e-4
    lr_schedule: Schedule = "linear"
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    value_clip_eps: float | None = None
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    max_grad_norm: float = 0.5
    target_kl: float | None = None
    advantages: Literal["none", "batch", "minibatch"] = "minibatch"
    recompute_advantages: bool = False
    adam_eps: float = 1e-5
    normalization: norm.NormalizationConfig = field(default_factory=norm.NormalizationConfig)


def ppo_loss(agent: ActorCritic, config: PPOConfig, params: Params, batch: Batch) -> tuple[Array, tuple[Array, ...]]:
    """L = L_π + c_V L_V − c_H ⟨H⟩, with means over valid rows.

    ρ = exp(log π_θ(a|s) − log π_old(a|s)),  L_π = −⟨min(ρ Â, clip(ρ, 1−ε, 1+ε) Â)⟩,  L_V = ½⟨(V(s) − R̂)²⟩
    """
    mean = partial(masked_mean, valid=batch.valid)
    distribution = agent.policy(params, batch.obs)
    log_ratio = jnp.where(batch.valid, distribution.log_prob(batch.action) - batch.log_prob, 0.0)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - config.clip_eps, 1.0 + config.clip_eps)
    policy_loss = -mean(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage))

    value = agent.value(params, batch.obs)
    error = (value - batch.target) ** 2
    if config.value_clip_eps is not None:
        near = batch.value + jnp.clip(value - batch.value, -config.value_clip_eps, config.value_clip_eps)
        error = jnp.maximum(error, (near - batch.target) ** 2)
    value_loss = 0.5 * mean(error)

    loss = policy_loss + config.value_coef * value_loss
    if config.entropy_coef:
        loss -= config.entropy_coef * mean(distribution.entropy())
    clip_fraction = mean((jnp.abs(ratio - 1.0) > config.clip_eps).astype(jnp.float32))
    return loss, (policy_loss, value_loss, clip_fraction, mean((ratio - 1.0) - log_ratio))


def ppo(agent: ActorCritic, config: PPOConfig, *, num_envs: int, total_steps: int) -> Algorithm:
    """PPO as `(init, update)`.

    Args:
        agent: The networks.
        config: Hyperparameters.
        num_envs: N, environments in a trajectory.
        total_steps: Environment steps of the whole run, for the linear schedule.

    Returns:
        An Algorithm whose `update(key, state, trajectory [T, N])` runs E epochs of M minibatches.
    """
    optimizer = optax.flatten(
        optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=config.adam_eps))
    )
    loss_and_gradient = jax.value_and_grad(partial(ppo_loss, agent, config), has_aux=True)

    def init(key: Key) -> LearnerState:
        params = agent.init(key)
        statistics = norm.init_statistics(config.normalization, agent.obs, num_envs)
        rate = jnp.asarray(config.learning_rate, jnp.float32)
        return LearnerState(
            params, optimizer.init(params), statistics, norm.Count.zero(), rate, jnp.zeros((), jnp.int32)
        )

    def judge(params: Params, statistics: norm.Statistics, seen: Transition) -> tuple[Array, Array, Array]:
        """Advantages Â, targets R̂ and values V(s) in units of the critic's output; [T, N] each."""
        value = agent.value(params, seen.obs)
        real, after = (norm.denormalize_value(statistics, v) for v in (value, agent.value(params, seen.next_obs)))
        advantage = gae(
            seen.reward, real, after, seen.terminated, seen.truncated, seen.valid,
            gamma=config.gamma, gae_lambda=config.gae_lambda,
        )  # fmt: skip
        return advantage, norm.normalize_value(statistics, advantage + real), value

    def gradient_step(learner: tuple, batch: Batch) -> tuple[tuple, Metrics]:
        params, opt_state, rate = learner
        if config.advantages == "minibatch":
            batch = batch._replace(advantage=standardize(batch.advantage, batch.valid))
        (loss, parts), gradient = loss_and_gradient(params, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: -rate * u, updates))
        if config.lr_schedule == "kl_adaptive":
            rate = kl_adaptive(rate, parts[3], config.target_kl)
        size = optax.global_norm(gradient)
        clipped = (size > config.max_grad_norm).astype(jnp.float32)
        bad = 1.0 - jnp.isfinite(loss + size).astype(jnp.float32)
        return (params, opt_state, rate), dict(zip(_STEP_METRICS, (*parts, size, clipped, bad), strict=True))

    def update(key: Key, state: LearnerState, trajectory: Transition) -> tuple[LearnerState, Metrics]:
        statistics, old, keys = state.statistics, state.params, jax.random.split(key, config.num_epochs)
        seen = norm.normalize_transition(config.normalization, statistics, trajectory)
        first = judge(old, statistics, seen)

        def epoch(carry: tuple) -> tuple:
            index, learner, sums, _ = carry
            advantage, target, value = judge(learner[0], statistics, seen) if config.recompute_advantages else first
            if config.advantages == "batch":
                advantage = standardize(advantage, seen.valid)
            batch = Batch(seen.obs, seen.action, seen.log_prob, advantage, target, value, seen.valid)
            minibatches = shuffle(keys[index], flatten(batch), config.num_minibatches)
            learner, metrics = jax.lax.scan(gradient_step, learner, minibatches)
            metrics = jax.tree.map(jnp.mean, metrics)
            return index + 1, learner, jax.tree.map(jnp.add, sums, metrics), metrics["train/approx_kl"]

        def go_on(carry: tuple) -> Array:
            index, _, _, kl = carry
            stop = config.target_kl is not None and config.lr_schedule != "kl_adaptive"
            return (index < config.num_epochs) & (kl <= STOP_AT * config.target_kl if stop else True)

        rate = state.learning_rate
        if config.lr_schedule == "linear":
            rate = linear(config.learning_rate, state.step.as_float(), total_steps)
        start = (jnp.int32(0), (old, state.opt_state, rate), dict.fromkeys(_STEP_METRICS, jnp.float32(0)), jnp.float32(0))
        epochs_run, (params, opt_state, rate), sums, _ = jax.lax.while_loop(go_on, epoch, start)

        returns = first[0] + norm.denormalize_value(statistics, first[2])
        state = LearnerState(
            params, opt_state, norm.advance(config.normalization, statistics, trajectory, returns, config.gamma),
            state.step.add(jnp.sum(trajectory.valid, dtype=jnp.int32)), rate,
            state.n_updates + epochs_run * config.num_minibatches,
        )  # fmt: skip
        return state, {
            **{name: total / epochs_run for name, total in sums.items()},
            **learning_metrics(agent, old, state, seen, advantage=first[0], returns=returns),
            "train/epochs_run": epochs_run.astype(jnp.float32),
            "train/clip_range": jnp.float32(config.clip_eps),
        }

    return Algorithm(init, update)
