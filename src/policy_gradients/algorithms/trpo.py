"""Trust Region Policy Optimization (Schulman et al., arXiv 1502.05477)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from policy_gradients.algorithms.learner import at_present, down, finish_update, init_learner, judge
from policy_gradients.estimation import normalization as norm
from policy_gradients.estimation.batches import Batch, flatten, masked_means, pool, shuffle, standardize
from policy_gradients.optimization.conjugate_gradient import conjugate_gradient
from policy_gradients.optimization.fisher import fisher_vector_product
from policy_gradients.optimization.line_search import backtrack
from policy_gradients.optimization.schedules import current_rate
from policy_gradients.types import ActorCritic, Algorithm, Array, Key, LearnerState, Metrics, Transition


@dataclass(frozen=True)
class TRPOConfig:
    """Hyperparameters of TRPO. Defaults are Tianshou's for MuJoCo unless said otherwise.

    Attributes:
        num_steps: T, environment steps per environment and update; 1,024 to 2,048 over all environments work well.
        max_kl: δ, bound on the mean KL of an update, nats **summed** over action coordinates.
        cg_iterations: K, conjugate-gradient products per update.
        cg_damping: ζ, added to the Fisher matrix's diagonal: larger is a shorter, safer step.
        line_search_steps: J, trials of a step before the update is given up.
        line_search_shrink: κ, each trial's length over the last one's.
        value_epochs: Passes of the critic over a batch, after the policy's step.
        num_minibatches: Gradient steps of the critic per pass; must divide T·N.
        learning_rate: The critic's Adam step size. The policy has none: its step follows from δ.
        lr_schedule: "constant", or "linear" (to 0 over the run's environment steps).
        gamma: γ, the discount.
        gamma_start: γ of the first update, from where it goes to `gamma` in a line over the run's environment steps, or
            None: `gamma` throughout. A shorter horizon learns sooner (arXiv 1512.02011).
        gae_lambda: λ of the advantage estimate (not in the paper: arXiv 1506.02438).
        advantages: Standardise them per "batch", or "none". The scale does not change the direction nor the length.
        adam_eps: ε of Adam.
        normalization: What is normalised.
    """

    num_steps: int = 128
    max_kl: float = 0.01
    cg_iterations: int = 10
    cg_damping: float = 0.1
    line_search_steps: int = 10
    line_search_shrink: float = 0.8
    value_epochs: int = 20
    num_minibatches: int = 1
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "linear"] = "linear"
    gamma: float = 0.99
    gamma_start: float | None = None
    gae_lambda: float = 0.95
    advantages: Literal["none", "batch"] = "batch"
    adam_eps: float = 1e-8
    normalization: norm.NormalizationConfig = field(default_factory=norm.NormalizationConfig)


class CriticRows(NamedTuple):
    """What the critic learns from; leading axes [B]."""

    obs: Array
    target: Array  # R̂, in units of the critic's output
    valid: Array


def trust_region_step(
    policy: Callable[[Array, Array], Any], config: TRPOConfig, flat: Array, batch: Batch
) -> tuple[Array, Metrics]:
    """The parameters after one natural-gradient step inside KL ≤ δ, and what it was like; `flat` itself if rejected.

        L(θ) = ⟨ρ Â⟩,  g = ∇L(θ_old),  D̄(θ) = ⟨KL(π_old ‖ π_θ)⟩,  x ≈ (F + ζI)⁻¹ g,  β = √(2δ / xᵀ(F + ζI)x)
        the first θ_old + κʲ β x with D̄ ≤ δ and L > L(θ_old)

    Args:
        policy: (θ, observations) -> distribution, on flat parameters.
        config: Hyperparameters.
        flat: θ_old. Coordinates that the policy does not use stay as they are, bit for bit.
        batch: Rows [B] under π_old.
    """
    old = jax.lax.stop_gradient(policy(flat, batch.obs))

    def objective(theta: Array) -> Array:
        log_ratio = policy(theta, batch.obs).log_prob(batch.action) - old.log_prob(batch.action)
        return masked_means((jnp.exp(log_ratio) * batch.advantage,), batch.valid)[0]

    def divergence(new: Any) -> Array:
        return masked_means((old.kl(new),), batch.valid)[0]

    def kl(theta: Array) -> Array:
        return divergence(policy(theta, batch.obs))

    before, gradient = jax.value_and_grad(objective)(flat)
    product = fisher_vector_product(lambda theta: policy(theta, batch.obs), divergence, flat, config.cg_damping)
    solution = conjugate_gradient(product, gradient, config.cg_iterations)
    curvature = jnp.vdot(solution.x, product(solution.x))
    possible = jnp.isfinite(curvature) & (curvature > 0.0)
    scale = jnp.where(possible, jnp.sqrt(2.0 * config.max_kl / jnp.where(possible, curvature, 1.0)), 0.0)

    def accepts(theta: Array) -> Array:
        return possible & (kl(theta) <= config.max_kl) & (objective(theta) > before)

    found = backtrack(accepts, flat, scale * solution.x, config.line_search_shrink, config.line_search_steps)
    return found.point, {
        "train/policy_gradient_loss": -before,
        "train/policy_objective": objective(found.point) - before,
        "train/kl_divergence_loss": kl(found.point),
        "train/is_line_search_success": found.success.astype(jnp.float32),
        "train/line_search_step": found.fraction,
        "train/step_scale": scale,
        "train/cg_residual": solution.residual,
        "train/cg_iterations": solution.iterations.astype(jnp.float32),
        "train/grad_norm": optax.tree.norm(gradient),
        "train/nonfinite": (~jnp.isfinite(before + optax.tree.norm(gradient))).astype(jnp.float32),
    }


def value_loss(value: Array, rows: CriticRows) -> Array:
    """½⟨(R̂ − V(s))²⟩ over valid rows."""
    return masked_means((0.5 * (rows.target - value) ** 2,), rows.valid)[0]


def trpo(agent: ActorCritic, config: TRPOConfig, *, num_envs: int, total_steps: int) -> Algorithm:
    """TRPO as `(init, update)`; `update(key, state, trajectory [T, N])` takes one policy step, then fits the critic.

    Args:
        agent: The networks. Policy and critic may share no parameters: fitting the critic would move the policy out of
            the trust region (this function cannot see whether they do; the configuration refuses it).
        config: Hyperparameters.
        num_envs: N, environments in a trajectory.
        total_steps: Environment steps of the whole run, for the schedules.
    """
    optimizer = optax.scale_by_adam(eps=config.adam_eps)

    def update(key: Key, state: LearnerState, trajectory: Transition) -> tuple[LearnerState, Metrics]:
        now = at_present(config, state, total_steps)
        seen = norm.normalize_transition(config.normalization, state.statistics, trajectory)
        judged = judge(agent, now, state.params, state.statistics, seen)
        advantage = standardize(judged.advantage, seen.valid) if config.advantages == "batch" else judged.advantage
        batch = pool(Batch(seen.obs, seen.action, seen.log_prob, advantage, *judged[1:], seen.valid))
        flat, unravel = ravel_pytree(state.params)

        with jax.default_matmul_precision("highest"):  # conjugate directions are lost at lower precision
            flat, metrics = trust_region_step(lambda theta, obs: agent.policy(unravel(theta), obs), config, flat, batch)
        params = unravel(flat)

        rate = current_rate(config.lr_schedule, config.learning_rate, state, total_steps)

        def fit(critic: tuple, rows: CriticRows) -> tuple[tuple, Array]:
            params, opt_state = critic
            loss, gradient = jax.value_and_grad(lambda p: value_loss(agent.value(p, rows.obs), rows))(params)
            step, opt_state = optimizer.update(gradient, opt_state)
            return (down(params, rate, step), opt_state), loss

        def epoch(critic: tuple, epoch_key: Key) -> tuple[tuple, Array]:
            rows = flatten(CriticRows(seen.obs, judged.target, seen.valid))
            return jax.lax.scan(fit, critic, shuffle(epoch_key, rows, config.num_minibatches))

        keys = jax.random.split(key, config.value_epochs)
        (params, opt_state), losses = jax.lax.scan(epoch, (params, state.opt_state), keys)
        learnt = state._replace(
            params=params, opt_state=opt_state, learning_rate=rate, n_updates=state.n_updates + losses.size
        )
        after, told = finish_update(agent, now, state, learnt, trajectory, seen, judged)
        broken = metrics["train/nonfinite"] + jnp.mean(~jnp.isfinite(losses), dtype=jnp.float32)
        return after, {**told, **metrics, "train/value_loss": jnp.mean(losses), "train/nonfinite": broken}

    return Algorithm(partial(init_learner, agent, optimizer, config, num_envs), update)
