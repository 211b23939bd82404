"""Proximal Policy Optimization with the clipped surrogate (Schulman et al., arXiv 1707.06347)."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from policy_gradients.algorithms.learner import (
    STEP_METRICS,
    at_present,
    descend,
    entropy_bonus,
    finish_update,
    init_learner,
    judge,
)
from policy_gradients.estimation import normalization as norm
from policy_gradients.estimation.batches import Batch, flatten, masked_means, shuffle, standardize
from policy_gradients.optimization.schedules import Schedule, current_rate, kl_adaptive
from policy_gradients.types import ActorCritic, Algorithm, Array, Key, LearnerState, Metrics, Params, Transition

STOP_AT = 1.5  # epochs end once the mean KL of one exceeds this multiple of target_kl (Stable-Baselines3's multiple)
LOSS_METRICS = ("train/policy_gradient_loss", "train/value_loss", "train/clip_fraction", "train/approx_kl")
METRICS = (*LOSS_METRICS, *STEP_METRICS)


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO. Defaults are the field's for MuJoCo (Stable-Baselines3, CleanRL) unless said otherwise.

    Attributes:
        num_steps: T, environment steps per environment and update. Longer: less bias, staler data.
        num_epochs: E, passes over each batch.
        num_minibatches: M, gradient steps per epoch; must divide T·N.
        learning_rate: Adam's step size.
        lr_schedule: "constant", "linear" (to 0 over the run's environment steps), or towards target_kl after every
            gradient step ("kl_adaptive") or after every update ("kl_update", steadier with many gradient steps).
        gamma: γ, the discount.
        gamma_start: γ of the first update, from where it goes to `gamma` in a line over the run's environment steps, or
            None: `gamma` throughout. A shorter horizon learns sooner (arXiv 1512.02011).
        gae_lambda: λ of the advantage estimate.
        clip_eps: ε, how far a probability ratio may move a sample's objective.
        value_clip_eps: ε_V, the same for the critic, or None (arXiv 2006.05990 finds that clipping values hurts).
        value_coef: c_V, weight of the critic's loss.
        entropy_coef: c_H, weight of the entropy bonus.
        entropy_schedule: "constant", or "linear": c_H falls to 0 over the run's environment steps.
        max_grad_norm: Bound on the global norm of the gradient.
        target_kl: KL per update, nats: epochs stop past 1.5 times it, or the learning rate follows it.
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
    gamma_start: float | None = None
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    value_clip_eps: float | None = None
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    entropy_schedule: Literal["constant", "linear"] = "constant"
    max_grad_norm: float = 0.5
    target_kl: float | None = None
    advantages: Literal["none", "batch", "minibatch"] = "minibatch"
    recompute_advantages: bool = False
    adam_eps: float = 1e-5
    normalization: norm.NormalizationConfig = field(default_factory=norm.NormalizationConfig)


def ppo_loss(agent: ActorCritic, config: PPOConfig, params: Params, batch: Batch) -> tuple[Array, Array]:
    """L = L_π + c_V L_V − c_H ⟨H⟩ and its parts (`LOSS_METRICS`), with means over valid rows.

    ρ = exp(log π_θ(a|s) − log π_old(a|s)),  L_π = −⟨min(ρ Â, clip(ρ, 1−ε, 1+ε) Â)⟩,  L_V = ½⟨(V(s) − R̂)²⟩
    """
    distribution, value = agent.policy(params, batch.obs), agent.value(params, batch.obs)
    log_ratio = jnp.where(batch.valid, distribution.log_prob(batch.action) - batch.log_prob, 0.0)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - config.clip_eps, 1.0 + config.clip_eps)
    surrogate = jnp.minimum(ratio * batch.advantage, clipped * batch.advantage)
    error = (value - batch.target) ** 2
    if config.value_clip_eps is not None:
        near = batch.value + jnp.clip(value - batch.value, -config.value_clip_eps, config.value_clip_eps)
        error = jnp.maximum(error, (near - batch.target) ** 2)

    outside = (jnp.abs(ratio - 1.0) > config.clip_eps).astype(jnp.float32)
    parts = masked_means((-surrogate, 0.5 * error, outside, (ratio - 1.0) - log_ratio), batch.valid)
    loss = parts[0] + config.value_coef * parts[1] - entropy_bonus(config, distribution, batch.valid)
    return loss, parts


def ppo(agent: ActorCritic, config: PPOConfig, *, num_envs: int, total_steps: int) -> Algorithm:
    """PPO as `(init, update)`; `update(key, state, trajectory [T, N])` runs E epochs of M shuffled minibatches.

    Args:
        agent: The networks.
        config: Hyperparameters.
        num_envs: N, environments in a trajectory.
        total_steps: Environment steps of the whole run, for the schedules.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=config.adam_eps))
    target_kl = math.inf if config.target_kl is None else config.target_kl
    stop_at = math.inf if config.lr_schedule in ("kl_adaptive", "kl_update") else STOP_AT * target_kl

    def gradient_step(config: PPOConfig, carry: tuple, batch: Batch) -> tuple[tuple, Array]:
        learner, rate = carry
        if config.advantages == "minibatch":
            batch = batch._replace(advantage=standardize(batch.advantage, batch.valid))
        objective = partial(ppo_loss, agent, config)
        (loss, parts), gradient = jax.value_and_grad(objective, has_aux=True)(learner[0], batch)
        learner, checks = descend(optimizer, config.max_grad_norm, rate, learner, loss, gradient)
        if config.lr_schedule == "kl_adaptive":
            rate = kl_adaptive(rate, parts[3], target_kl)
        return (learner, rate), jnp.concatenate([parts, checks])

    def update(key: Key, state: LearnerState, trajectory: Transition) -> tuple[LearnerState, Metrics]:
        now = at_present(config, state, total_steps)
        statistics, keys = state.statistics, jax.random.split(key, config.num_epochs)
        seen = norm.normalize_transition(config.normalization, statistics, trajectory)
        first = judge(agent, now, state.params, statistics, seen)

        def epoch(carry: tuple) -> tuple:
            index, learner, sums, _ = carry
            judged = first
            if config.recompute_advantages:
                judged = judge(agent, now, learner[0][0], statistics, seen)
            if config.advantages == "batch":
                judged = judged._replace(advantage=standardize(judged.advantage, seen.valid))
            batch = Batch(seen.obs, seen.action, seen.log_prob, *judged, seen.valid)
            minibatches = shuffle(keys[index], flatten(batch), config.num_minibatches)
            learner, steps = jax.lax.scan(partial(gradient_step, now), learner, minibatches)
            return index + 1, learner, sums + jnp.mean(steps, axis=0), jnp.mean(steps[:, 3])

        def goes_on(carry: tuple) -> Array:
            return (carry[0] < config.num_epochs) & (carry[3] <= stop_at)

        rate = current_rate(config.lr_schedule, config.learning_rate, state, total_steps)
        learner = (state.params, state.opt_state), rate
        start = (jnp.int32(0), learner, jnp.zeros(len(METRICS), jnp.float32), jnp.float32(0))
        epochs_run, ((params, opt_state), rate), sums, last_kl = jax.lax.while_loop(goes_on, epoch, start)
        if config.lr_schedule == "kl_update":
            rate = kl_adaptive(rate, last_kl, target_kl)

        count = state.n_updates + epochs_run * config.num_minibatches
        learnt = state._replace(params=params, opt_state=opt_state, learning_rate=rate, n_updates=count)
        state, metrics = finish_update(agent, now, state, learnt, trajectory, seen, first)
        ran = epochs_run.astype(jnp.float32)
        return state, {**metrics, **dict(zip(METRICS, sums / ran, strict=True)), "train/epochs_run": ran}

    return Algorithm(partial(init_learner, agent, optimizer, config, num_envs), update)
