"""From a trajectory [T, N] to shuffled minibatches of single transitions, and means over their valid rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray, Shaped

from policy_gradients.types import ENV_AXIS


class Batch(NamedTuple):
    """Transitions with what the losses need; leading axes [B], or [M, B/M] after `shuffle`."""

    obs: Shaped[Array, "*batch_and_obs"]  # normalised, or uint8 pixels
    action: Num[Array, "*batch_and_action"]
    log_prob: Float[Array, "*batch"]
    advantage: Float[Array, "*batch"]
    target: Float[Array, "*batch"]  # in units of the critic's output
    value: Float[Array, "*batch"]  # V(s) when collected, in units of the critic's output
    valid: Bool[Array, "*batch"]


def known_zero(coefficient: float | Float[Array, ""]) -> bool:
    """True where a coefficient is 0 when the program is made, so that its term need not be computed.

    An array may be another number in each run of the program, or in each member of a `vmap`, and is never known.
    """
    return not isinstance(coefficient, jax.Array) and coefficient == 0.0


def masked_mean(x: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """⟨x⟩ = Σ w x / Σ w over valid rows; NaN where there is none. What stands in other rows never matters."""
    return jnp.sum(jnp.where(valid, x, 0.0)) / jnp.sum(valid, dtype=x.dtype)


def masked_means(columns: Sequence[Float[Array, " B"]], valid: Bool[Array, " B"]) -> Float[Array, " n"]:
    """⟨x⟩ of n quantities at once: one product with the rows' weights, where n sums would be n small programs.

    Made for losses: 0 where no row is valid, so that a minibatch of dummy rows moves nothing.
    """
    rows = jnp.where(valid[:, None], jnp.stack(columns, axis=1), 0.0)
    weights = valid.astype(rows.dtype)
    return jnp.matmul(weights, rows, precision=jax.lax.Precision.HIGHEST) / jnp.maximum(jnp.sum(weights), 1.0)


def masked_std(x: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Population standard deviation over valid rows."""
    centred = x - masked_mean(x, valid)
    return jnp.sqrt(masked_mean(centred * centred, valid))


def standardize(x: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(x − ⟨x⟩) / std over valid rows, 0 elsewhere; constants become zeros.

    Shifted by one of its values first: else the rounding of a constant's mean would be divided by a std as small.
    """
    x = x - x.reshape(-1)[jnp.argmax(valid.reshape(-1))]
    return jnp.where(valid, (x - masked_mean(x, valid)) / (masked_std(x, valid) + 1e-8), 0.0)


def flatten(tree: Any) -> Any:
    """[T, N, …] arrays as [T·N, …]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def pool(tree: Any) -> Any:
    """[T, N, …] arrays as rows [T·N, …] for means over all of them, in whichever order needs nothing sent.

    Over several devices the rows of an environment stay together on its device; `flatten` would put the rows of a step
    together, which lie on all of them.
    """
    if _devices() == 1:
        return flatten(tree)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), spread(tree, axis=1))


def spread(rows: Any, axis: int = 0) -> Any:
    """The same rows, laid out over the devices of the program's mesh, so that each computes its share of a gradient.

    The arrays themselves where the program has no mesh with the axis `ENV_AXIS`, or the rows do not divide evenly.

    Args:
        rows: A pytree of arrays.
        axis: Their axis that counts rows.
    """
    devices = _devices()
    if devices == 1 or jax.tree.leaves(rows)[0].shape[axis] % devices:
        return rows
    layout = PartitionSpec(*(None,) * axis, ENV_AXIS)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, layout), rows)


def _devices() -> int:
    """Over how many devices the program that is being traced spreads environments."""
    return jax.sharding.get_abstract_mesh().shape.get(ENV_AXIS, 1)


def shuffle(key: PRNGKeyArray, rows: Any, num_minibatches: int) -> Any:
    """A fresh permutation of the rows, cut into minibatches: leaves [B, …] become [M, B/M, …].

    Every row is in exactly one minibatch. B must be a multiple of M. Over several devices the permutation is of all
    rows: it costs one gathering of the batch, after which each device holds its share of every minibatch.
    """
    order = permutation(key, jax.tree.leaves(rows)[0].shape[0])
    return spread(jax.tree.map(lambda x: x[order].reshape(num_minibatches, -1, *x.shape[1:]), rows), axis=1)


def permutation(key: PRNGKeyArray, size: int) -> Int[Array, " B"]:
    """0 … size − 1 in random order.

    Each index is sorted as the low bits of one word whose high bits are random: a sort of plain numbers is an order of
    magnitude faster on a CPU than one of pairs. Indices with equal random bits keep their order; a second round breaks
    these ties where more than one index in 256 would have one.
    """
    index_bits = max(1, (size - 1).bit_length())
    low = jnp.uint32((1 << index_bits) - 1)
    order = jnp.arange(size, dtype=jnp.int32)
    for round_key in jax.random.split(key, 1 if index_bits <= 12 else 2):
        noise = jax.random.bits(round_key, (size,), jnp.uint32) & ~low
        words = jax.lax.sort(noise | jnp.arange(size, dtype=jnp.uint32), is_stable=False)
        order = order[(words & low).astype(jnp.int32)]
    return order
