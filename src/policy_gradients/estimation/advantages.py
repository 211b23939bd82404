"""Returns and advantages of a trajectory, with both kinds of episode end treated as what they are.

A terminated step is followed by nothing: V(s′) counts as 0. A truncated step is followed by a state that was merely not
visited: V(s′) is taken from the state before the reset. The trace is cut at both. If a row is both, it is terminated.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gae(
    reward: Float[Array, "T N"],
    value: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    valid: Bool[Array, "T N"],
    *,
    gamma: float | Float[Array, ""],
    gae_lambda: float | Float[Array, ""],
) -> Float[Array, "T N"]:
    """Generalised advantage estimates Â, in units of the return.

        δ_t = r_t + γ (1 − d_t) V(s′_t) − V(s_t)
        Â_t = δ_t + γ λ (1 − d_t ∨ u_t) Â_{t+1},   Â_T = 0

    The critic's target is Â + V(s).

    Args:
        reward: r_t.
        value: V(s_t).
        next_value: V(s′_t), of the state before any reset.
        terminated: d_t, the decision process ended.
        truncated: u_t, a limit cut the episode.
        valid: w_t; a row that is False gets advantage 0 and passes nothing on, whatever numbers stand in it.
        gamma: γ ∈ [0, 1], the discount.
        gae_lambda: λ ∈ [0, 1]; 0 gives the one-step error, 1 the discounted sum less V(s).

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage Estimation, arXiv 1506.02438.
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    delta = jnp.where(valid, delta, 0.0)
    decay = jnp.where(terminated | truncated | ~valid, 0.0, gamma * gae_lambda)
    return _accumulate(delta, decay.astype(delta.dtype))


def discounted_returns(
    reward: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    valid: Bool[Array, "T N"],
    *,
    gamma: float | Float[Array, ""],
) -> Float[Array, "T N"]:
    """Discounted returns-to-go G, in units of the reward.

        G_t = r_t + γ [(1 − e_t) G_{t+1} + (1 − d_t) u_t V(s′_t)],   e = d ∨ u

    The last row of the rollout bootstraps like a truncated one. Arguments as in `gae`.
    """
    last_row = jnp.arange(reward.shape[0]) == reward.shape[0] - 1
    cut = truncated | jnp.broadcast_to(last_row[:, None], truncated.shape)
    delta = reward + gamma * jnp.where(cut & ~terminated, next_value, 0.0)
    decay = jnp.where(terminated | cut | ~valid, 0.0, gamma)
    return _accumulate(jnp.where(valid, delta, 0.0), decay.astype(delta.dtype))


def _accumulate(delta: Float[Array, "T N"], decay: Float[Array, "T N"]) -> Float[Array, "T N"]:
    """x_t = delta_t + decay_t x_{t+1}, x_T = 0."""

    def step(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        total = row[0] + row[1] * later
        return total, total

    return jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True, unroll=8)[1]
