"""On-policy Maximum a Posteriori Policy Optimization, V-MPO (Song et al., arXiv 1909.12238)."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from policy_gradients.algorithms.learner import (
    LOSS_METRICS,
    STEP_METRICS,
    at_present,
    descend,
    finish_update,
    init_learner,
    judge,
)
from policy_gradients.estimation import normalization as norm
from policy_gradients.estimation.batches import Batch, flatten, masked_means, shuffle, standardize
from policy_gradients.estimation.weights import best_half, exponential_weights, temperature_loss, weight_metrics
from policy_gradients.optimization.duals import Duals, positive, raw_of
from policy_gradients.optimization.schedules import current_rate
from policy_gradients.types import ActorCritic, Algorithm, Array, Key, LearnerState, Metrics, Params, Transition


@dataclass(frozen=True)
class VMPOConfig:
    """Hyperparameters of V-MPO. The paper's were chosen for billions of steps; these are for millions (docs/vmpo.md).

    Attributes:
        num_steps: T, environment steps per environment and update.
        num_epochs: E, passes over each batch. Not in the paper, which uses a batch once: KL(π_old ‖ π) holds the policy
            near the one that acted, so a batch can be used again.
        num_minibatches: M, gradient steps per epoch; must divide T·N.
        target_period: Updates between two copies of the learning policy to the one that acts and from which the KL is
            measured. 1 refreshes it for every batch.
        learning_rate: Adam's step size for the networks.
        lr_schedule: "constant", or "linear" (to 0 over the run's environment steps).
        dual_learning_rate: Adam's step size for η and α.
        eps_eta: ε_η, how far the weights may be from uniform, nats. Larger: only the very best actions are learnt.
        eps_mean: ε_μ, bound on the KL by the mean, nats summed over action coordinates; for Discrete, on the whole KL.
        eps_std: ε_Σ, bound on the KL by the standard deviation; without effect for Discrete.
        eta_init: η at the start, in units of the (standardised) advantage.
        alpha_init: α at the start.
        gamma: γ, the discount.
        gamma_start: γ of the first update, from where it goes to `gamma` in a line over the run's environment steps, or
            None: `gamma` throughout. A shorter horizon learns sooner (arXiv 1512.02011).
        gae_lambda: λ of the advantage estimate (the paper has n-step returns).
        value_coef: c_V, weight of the critic's loss.
        max_grad_norm: Bound on the global norm of the networks' gradient; the duals are not in it.
        advantages: Standardise them per "batch" (then η has the same unit in every task), or "none".
        adam_eps: ε of Adam.
        normalization: What is normalised.
    """

    num_steps: int = 64
    num_epochs: int = 5
    num_minibatches: int = 4
    target_period: int = 1
    learning_rate: float = 3e-4
    lr_schedule: Literal["constant", "linear"] = "constant"
    dual_learning_rate: float = 1e-2
    eps_eta: float = 0.01
    eps_mean: float = 0.01
    eps_std: float = 1e-4
    eta_init: float = 1.0
    alpha_init: float = 1.0
    gamma: float = 0.99
    gamma_start: float | None = None
    gae_lambda: float = 0.95
    value_coef: float = 0.5
    max_grad_norm: float = 0.5
    advantages: Literal["none", "batch"] = "batch"
    adam_eps: float = 1e-5
    normalization: norm.NormalizationConfig = field(default_factory=norm.NormalizationConfig)


class VMPOState(NamedTuple):
    """What the learner keeps beside `LearnerState.params`, which hold the target: the policy that acts."""

    online: Params  # parameters that learn
    optimizer: optax.OptState
    duals: Duals
    dual_optimizer: optax.OptState
    age: Array  # int32: updates since the target was refreshed


class VMPORows(NamedTuple):
    """Transitions with their weights and the policy that drew them; leading axes [B]."""

    batch: Batch
    weight: Array  # ψ · B: its mean over a minibatch estimates the sum over the batch
    old: Any  # the distribution at each row


def vmpo_loss(agent: ActorCritic, config: VMPOConfig, alpha: Array, params: Params, rows: VMPORows) -> tuple:
    """L_π + Σ sg[α] ⟨KL⟩ + c_V ½⟨(R̂ − V)²⟩, and [L_π, value loss, the KLs].

    L_π = −Σ_D̃ ψ log π_θ(a|s);  the KLs are means over **all** valid rows. No entropy bonus, no probability ratio.
    """
    batch = rows.batch
    new, value = agent.policy(params, batch.obs), agent.value(params, batch.obs)
    error = 0.5 * (value - batch.target) ** 2
    weighted = -rows.weight * new.log_prob(batch.action)
    parts = masked_means((error, *rows.old.kl_parts(new).values()), batch.valid)
    policy_loss = jnp.mean(weighted)
    loss = policy_loss + config.value_coef * parts[0] + jnp.vdot(jax.lax.stop_gradient(alpha), parts[1:])
    return loss, jnp.concatenate([policy_loss[None], parts])


def vmpo(agent: ActorCritic, config: VMPOConfig, *, num_envs: int, total_steps: int) -> Algorithm:
    """V-MPO as `(init, update)`: weights for the better half of the rows, then E epochs of M minibatches towards them.

    Args:
        agent: The networks.
        config: Hyperparameters.
        num_envs: N, environments in a trajectory.
        total_steps: Environment steps of the whole run, for the schedules.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=config.adam_eps))
    dual_optimizer = optax.adam(config.dual_learning_rate)
    names = _kl_names(agent)
    bounds = jnp.array([config.eps_mean, config.eps_std][: len(names)], jnp.float32)

    def init(key: Key) -> LearnerState:
        state = init_learner(agent, optimizer, config, num_envs, key)
        alpha = jnp.full(len(names), config.alpha_init, jnp.float32)
        duals = Duals(raw_of(jnp.float32(config.eta_init)), raw_of(alpha))
        online = jax.tree.map(jnp.copy, state.params)  # a buffer of its own: both are given away to the next update
        own = VMPOState(online, state.opt_state, duals, dual_optimizer.init(duals), jnp.int32(0))
        return state._replace(opt_state=own)

    def dual_loss(duals: Duals, batch: Batch, selected: Array, kl: Array) -> tuple[Array, Array]:
        eta_loss = temperature_loss(positive(duals.eta), batch.advantage, selected, config.eps_eta)
        return eta_loss + jnp.vdot(positive(duals.alpha), bounds - kl), eta_loss

    def update(key: Key, state: LearnerState, trajectory: Transition) -> tuple[LearnerState, Metrics]:
        own: Any = state.opt_state
        now = at_present(config, state, total_steps)
        seen = norm.normalize_transition(config.normalization, state.statistics, trajectory)
        judged = judge(agent, now, own.online, state.statistics, seen)
        advantage = standardize(judged.advantage, seen.valid) if config.advantages == "batch" else judged.advantage
        batch = flatten(Batch(seen.obs, seen.action, seen.log_prob, advantage, *judged[1:], seen.valid))
        old = agent.policy(state.params, batch.obs)
        selected = best_half(batch.advantage, batch.valid)
        rate = current_rate(config.lr_schedule, config.learning_rate, state, total_steps)

        def weigh(duals: Duals) -> Array:
            return exponential_weights(positive(duals.eta), batch.advantage, selected)[0]

        def gradient_step(carry: tuple, rows: VMPORows) -> tuple[tuple, Array]:
            learner, duals, dual_state = carry
            loss_of = partial(vmpo_loss, agent, config, positive(duals.alpha))
            (loss, parts), gradient = jax.value_and_grad(loss_of, has_aux=True)(learner[0], rows)
            learner, checks = descend(optimizer, config.max_grad_norm, rate, learner, loss, gradient)
            gradient, eta_loss = jax.grad(dual_loss, has_aux=True)(duals, batch, selected, parts[2:])
            step, dual_state = dual_optimizer.update(gradient, dual_state)
            return (learner, optax.apply_updates(duals, step), dual_state), jnp.stack([*parts, *checks, eta_loss])

        def epoch(carry: tuple, epoch_key: Key) -> tuple[tuple, Array]:
            rows = VMPORows(batch, weigh(carry[1]) * batch.valid.size, old)
            return jax.lax.scan(gradient_step, carry, shuffle(epoch_key, rows, config.num_minibatches))

        start = (own.online, own.optimizer), own.duals, own.dual_optimizer
        keys = jax.random.split(key, config.num_epochs)
        ((online, opt_state), duals, dual_state), steps = jax.lax.scan(epoch, start, keys)

        count = state.n_updates + config.num_epochs * config.num_minibatches
        kept = VMPOState(online, opt_state, duals, dual_state, (own.age + 1) % config.target_period)
        learnt = state._replace(params=online, opt_state=kept, learning_rate=rate, n_updates=count)
        after, metrics = finish_update(agent, now, state, learnt, trajectory, seen, judged)
        renewed = own.age + 1 == config.target_period
        acts = jax.tree.map(lambda new, kept: jnp.where(renewed, new, kept), after.params, state.params)
        named = (*LOSS_METRICS, *(f"train/{name}" for name in names), *STEP_METRICS, "train/temperature_loss")
        steps = dict(zip(named, jnp.mean(steps, axis=(0, 1)), strict=True))
        alphas = {name.replace("kl", "train/alpha"): a for name, a in zip(names, positive(duals.alpha), strict=True)}
        weights = {"train/temperature": positive(duals.eta), **weight_metrics(weigh(duals), selected, batch.valid)}
        return after._replace(params=acts), {**steps, **metrics, **alphas, **weights}

    return Algorithm(init, update)


def _kl_names(agent: ActorCritic) -> tuple[str, ...]:
    """The KLs that are bounded: of mean and standard deviation, or one for discrete actions."""
    obs = jnp.zeros(agent.obs.shape, agent.obs.dtype)
    policy = lambda: agent.policy(agent.init(jax.random.key(0)), obs)  # noqa: E731
    return tuple(jax.eval_shape(lambda: policy().kl_parts(policy())))
