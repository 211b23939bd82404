"""Masked means, standardisation and shuffled minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.estimation.batches import (
    Batch,
    flatten,
    masked_mean,
    masked_means,
    masked_std,
    permutation,
    shuffle,
    standardize,
)

T, N = 6, 4


def numbers(seed=0, size=T * N):
    return np.random.default_rng(seed).normal(3.0, 2.0, size).astype(np.float32)


VALID = np.random.default_rng(9).random(T * N) > 0.4


def with_nonsense(x):
    """`x` where valid; NaN, infinities and huge numbers elsewhere."""
    nonsense = np.resize(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), x.shape)
    return jnp.asarray(np.where(VALID, x, nonsense))


def test_means_and_deviations_are_those_of_the_valid_rows_alone():
    """Trap 15."""
    x, valid = numbers(), jnp.asarray(VALID)
    np.testing.assert_allclose(masked_mean(with_nonsense(x), valid), x[VALID].mean(), rtol=1e-6)
    np.testing.assert_allclose(masked_std(with_nonsense(x), valid), x[VALID].std(), rtol=1e-5)


def test_many_means_at_once_are_the_means_one_by_one():
    columns = [numbers(seed) for seed in range(3)]
    means = masked_means([with_nonsense(x) for x in columns], jnp.asarray(VALID))
    np.testing.assert_allclose(means, [x[VALID].mean() for x in columns], rtol=1e-6)


def test_a_mean_over_no_rows_is_not_a_number():
    """Trap 33: never 0."""
    assert jnp.isnan(masked_mean(jnp.ones(3), jnp.zeros(3, bool)))


def test_a_loss_over_no_rows_moves_nothing():
    none = jnp.zeros(3, bool)
    assert masked_means([jnp.ones(3)], none) == 0
    np.testing.assert_array_equal(jax.grad(lambda x: masked_means([x], none)[0])(jnp.ones(3)), 0)


def test_standardising_a_masked_batch_is_standardising_the_short_one():
    """Trap 15: the same numbers on the valid rows, 0 elsewhere."""
    x = numbers()
    result = np.asarray(standardize(with_nonsense(x), jnp.asarray(VALID)))
    np.testing.assert_allclose(result[VALID], (x[VALID] - x[VALID].mean()) / x[VALID].std(), rtol=1e-5, atol=1e-6)
    assert not result[~VALID].any()


@pytest.mark.parametrize("constant", [0.0, 3.0, -1e4])
def test_constants_become_zeros(constant):
    """Trap 15: no division by a standard deviation of 0."""
    result = standardize(with_nonsense(np.full(T * N, constant, np.float32)), jnp.asarray(VALID))
    np.testing.assert_allclose(result, 0.0, atol=1e-5)


def numbered_batch():
    """A batch [T·N] in which every leaf says which row it is."""
    row = jnp.arange(T * N).reshape(T, N)
    real = row.astype(jnp.float32)
    wide = jnp.stack([real, -real], axis=-1)
    return flatten(Batch(wide, wide + 0.5, real, 2 * real, 3 * real, 4 * real, row % 2 == 0))


def test_flattening_keeps_each_transition_together():
    batch = numbered_batch()
    np.testing.assert_array_equal(batch.log_prob, np.arange(T * N))
    np.testing.assert_array_equal(batch.obs[:, 0], batch.log_prob)
    np.testing.assert_array_equal(batch.valid, np.arange(T * N) % 2 == 0)


@pytest.mark.parametrize("num_minibatches", [1, 3, 8])
def test_a_shuffle_puts_every_row_into_one_minibatch_and_keeps_it_whole(num_minibatches):
    """Trap 19: each row once, with its own action, advantage and flags."""
    result = shuffle(jax.random.key(0), numbered_batch(), num_minibatches)
    rows = np.asarray(result.log_prob)
    assert rows.shape == (num_minibatches, T * N // num_minibatches)
    assert sorted(rows.reshape(-1)) == list(range(T * N))
    np.testing.assert_array_equal(result.obs, np.stack([rows, -rows], axis=-1))
    np.testing.assert_array_equal(result.action, np.stack([rows, -rows], axis=-1) + 0.5)
    for leaf, factor in ((result.advantage, 2), (result.target, 3), (result.value, 4)):
        np.testing.assert_array_equal(leaf, factor * rows)
    np.testing.assert_array_equal(result.valid, rows % 2 == 0)


def test_two_keys_give_two_orders_and_one_key_one():
    """Trap 19: the same permutation in each epoch would be no shuffle."""
    order = lambda seed: shuffle(jax.random.key(seed), numbered_batch(), 4).log_prob.reshape(-1)  # noqa: E731
    np.testing.assert_array_equal(order(0), order(0))
    assert (order(0) != order(1)).any()
    assert (order(0) != np.arange(T * N, dtype=np.float32)).any()


def test_a_minibatch_mixes_environments_and_steps():
    """Trap 19: a minibatch of one environment's contiguous steps is strongly correlated."""
    rows = np.asarray(shuffle(jax.random.key(0), numbered_batch(), 4).log_prob, int)
    assert all(len(set(minibatch % N)) > 1 and len(set(minibatch // N)) > 1 for minibatch in rows)


def test_every_row_is_as_likely_in_every_place():
    """Over 2,000 keys row 0 lands in each of 24 places 83 times, give or take five standard deviations of 9."""
    place = jax.vmap(lambda key: jnp.argmin(shuffle(key, numbered_batch(), 1).log_prob[0]))
    counts = np.bincount(place(jax.random.split(jax.random.key(0), 2000)), minlength=T * N)
    assert np.abs(counts - 2000 / (T * N)).max() < 45


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1000, 4096, 5000])
def test_a_permutation_holds_every_index_once(size):
    """Indices and noise share one word: neither may spill into the other, at powers of two and between them."""
    order = np.asarray(permutation(jax.random.key(1), size))
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@pytest.mark.parametrize("size", [4096, 5000])
def test_neighbours_do_not_stay_neighbours(size):
    """With too few random bits, runs of indices would move together."""
    order = np.asarray(permutation(jax.random.key(2), size))
    assert (np.diff(order) == 1).mean() < 5 / size**0.5
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 5 / size**0.5
