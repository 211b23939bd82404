"""What the algorithms share: how a learner begins, how its critic judges a rollout, and how an update ends."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from policy_gradients.algorithms.diagnostics import learning_metrics
from policy_gradients.estimation import normalization as norm
from policy_gradients.estimation.advantages import gae
from policy_gradients.estimation.batches import Batch, known_zero, masked_means, pool
from policy_gradients.optimization.schedules import current_rate, linear
from policy_gradients.types import ActorCritic, Array, Distribution, Key, LearnerState, Metrics, Params, Transition


class Judgement(NamedTuple):
    """What the critic makes of a rollout; [T, N] each."""

    advantage: Array  # Â, in units of the (scaled) return
    target: Array  # R̂ = Â + V(s), in units of the critic's output
    value: Array  # V(s), in units of the critic's output


def init_learner(
    agent: ActorCritic, optimizer: optax.GradientTransformation, config: Any, num_envs: int, key: Key
) -> LearnerState:
    """A learner that has seen nothing."""
    params = agent.init(key)
    return LearnerState(
        params=params,
        opt_state=optimizer.init(params),
        statistics=norm.init_statistics(config.normalization, agent.obs, num_envs),
        step=norm.Count.zero(),
        learning_rate=jnp.asarray(config.learning_rate, jnp.float32),
        n_updates=jnp.zeros((), jnp.int32),
    )


def judge(agent: ActorCritic, config: Any, params: Params, statistics: norm.Statistics, seen: Transition) -> Judgement:
    """Advantages, targets and values of a (normalised) rollout under one critic.

    V(s_t) and V(s′_t) come from the same parameters, and V(s′_t) from the state before any reset.
    """
    value = agent.value(params, seen.obs)
    real = norm.denormalize_value(statistics, value)
    after = norm.denormalize_value(statistics, _values_after(agent, params, seen, value))
    advantage = gae(
        seen.reward, real, after, seen.terminated, seen.truncated, seen.valid,
        gamma=config.gamma, gae_lambda=config.gae_lambda,
    )  # fmt: skip
    return Judgement(advantage, norm.normalize_value(statistics, advantage + real), value)


def _values_after(agent: ActorCritic, params: Params, seen: Transition, value: Array) -> Array:
    """V(s′_t) [T, N], right in every row that is valid and not terminated.

    While an episode goes on, s′_t is s_{t+1}, whose value is known. Only where a row holds another s′, because a limit
    cut its episode, does the network judge the whole of them: half of a critic's work is spared in most updates.
    """
    known = jnp.concatenate([value[1:], agent.value(params, seen.next_obs[-1:])])
    equal = seen.next_obs[:-1] == seen.obs[1:]
    same = jnp.all(equal, axis=tuple(range(seen.valid.ndim, equal.ndim)))
    missing = jnp.any(seen.valid[:-1] & ~seen.terminated[:-1] & ~same)
    return jax.lax.cond(missing, lambda: agent.value(params, seen.next_obs), lambda: known)


def at_present(config: Any, state: LearnerState, total_steps: int) -> Any:
    """The hyperparameters with γ and c_H as their schedules have them at the start of this update."""
    step, present = state.step.as_float(), {}
    if config.gamma_start is not None:
        present["gamma"] = config.gamma + linear(config.gamma_start - config.gamma, step, total_steps)
    falls = getattr(config, "entropy_schedule", "constant") == "linear"  # TRPO and V-MPO have no bonus
    if falls and not known_zero(config.entropy_coef):
        present["entropy_coef"] = linear(config.entropy_coef, step, total_steps)
    return replace(config, **present) if present else config


def entropy_bonus(config: Any, distribution: Distribution, valid: Array) -> Array | float:
    """c_H ⟨H⟩ over valid rows; the entropy is not computed where c_H is known to be 0."""
    if known_zero(config.entropy_coef):
        return 0.0
    return config.entropy_coef * masked_means((distribution.entropy(),), valid)[0]


STEP_METRICS = ("train/grad_norm", "train/grad_clipped_fraction", "train/nonfinite")
"""What `descend` tells of a gradient step: ‖g‖ before the clip, whether it was clipped, whether it was not finite."""


def descend(
    optimizer: optax.GradientTransformation,
    max_grad_norm: float,
    rate: Array,
    learner: tuple[Params, optax.OptState],
    loss: Array,
    gradient: Params,
) -> tuple[tuple[Params, optax.OptState], Array]:
    """One step: θ ← θ − rate · optimizer(g), and `STEP_METRICS` [3].

    Args:
        optimizer: Without a learning rate; clips the gradient to `max_grad_norm`.
        max_grad_norm: The bound, to count when it was exceeded.
        rate: Learning rate.
        learner: Parameters and the optimiser's state.
        loss: Its value, to see whether it is finite.
        gradient: With respect to the parameters.
    """
    params, opt_state = learner
    size = optax.tree.norm(gradient)
    step, opt_state = optimizer.update(gradient, opt_state)
    checks = jnp.stack([size > max_grad_norm, ~jnp.isfinite(loss + size)]).astype(jnp.float32)
    return (down(params, rate, step), opt_state), jnp.concatenate([size[None], checks])


def down(params: Params, rate: Array, step: Params) -> Params:
    """θ − rate · step."""
    return jax.tree.map(lambda p, s: p - rate * s, params, step)


LOSS_METRICS = ("train/policy_gradient_loss", "train/value_loss")
"""The parts of a loss that `one_step` expects."""


def one_step(
    optimizer: optax.GradientTransformation,
    config: Any,
    total_steps: int,
    loss: Callable[[Any, Params, Batch], tuple[Array, Array]],
    state: LearnerState,
    batch: Batch,
) -> tuple[LearnerState, Metrics]:
    """One gradient step on a whole batch: the learner after it (its statistics and step count as before), and metrics.

    Args:
        optimizer: Without a learning rate.
        config: The algorithm's hyperparameters, `at_present`.
        total_steps: Environment steps of the whole run, for the learning rate's schedule.
        loss: (config, params, batch) -> loss and `LOSS_METRICS` [2].
        state: The learner.
        batch: Leading axes [T, N].
    """
    objective = partial(loss, config)
    (value, parts), gradient = jax.value_and_grad(objective, has_aux=True)(state.params, pool(batch))
    rate = current_rate(config.lr_schedule, config.learning_rate, state, total_steps)
    learner = state.params, state.opt_state
    (params, opt_state), checks = descend(optimizer, config.max_grad_norm, rate, learner, value, gradient)
    learnt = state._replace(params=params, opt_state=opt_state, learning_rate=rate, n_updates=state.n_updates + 1)
    return learnt, dict(zip((*LOSS_METRICS, *STEP_METRICS), jnp.concatenate([parts, checks]), strict=True))


def finish_update(
    agent: ActorCritic,
    config: Any,
    before: LearnerState,
    learnt: LearnerState,
    trajectory: Transition,
    seen: Transition,
    judgement: Judgement,
) -> tuple[LearnerState, Metrics]:
    """Counts the steps, moves the statistics (last, see `estimation.normalization`) and measures the update.

    Args:
        agent: The networks.
        config: The algorithm's hyperparameters, `at_present`.
        before: The learner before the update.
        learnt: The learner with new parameters, optimiser state, learning rate and count of gradient steps.
        trajectory: As collected.
        seen: As the networks saw it.
        judgement: By the critic before the update.
    """
    returns = judgement.advantage + norm.denormalize_value(before.statistics, judgement.value)
    after = learnt._replace(
        statistics=norm.advance(config.normalization, before.statistics, trajectory, returns, config.gamma),
        step=before.step.add(jnp.sum(trajectory.valid, dtype=jnp.int32)),
    )
    return after, learning_metrics(
        agent, config, before.params, after, seen, advantage=judgement.advantage, returns=returns
    )
