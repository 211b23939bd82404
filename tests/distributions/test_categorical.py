"""The categorical distribution against SciPy and hand-made sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from policy_gradients.distributions import Categorical

# name: logits [B, K]
CASES = {
    "two even": np.zeros((1, 2)),
    "five random": np.random.default_rng(0).normal(0, 2, (6, 5)),
    "large logits": np.array([[1000.0, 1001.0, 998.0]]),
    "one certain": np.array([[0.0, 300.0, -300.0]]),
    "single action": np.array([[3.0]]),
    "seventeen": np.random.default_rng(1).normal(0, 1, (2, 3, 17)),
}
GRID = pytest.mark.parametrize("case", CASES)


def law(case):
    return Categorical(jnp.asarray(CASES[case], jnp.float32)), special.log_softmax(CASES[case], axis=-1)


@GRID
def test_log_prob_is_the_log_softmax_of_the_action(case):
    p, log_probs = law(case)
    for k in range(log_probs.shape[-1]):
        action = jnp.full(log_probs.shape[:-1], k, jnp.int32)
        np.testing.assert_allclose(p.log_prob(action), log_probs[..., k], rtol=1e-5, atol=1e-6)


@GRID
def test_entropy_is_scipys(case):
    p, log_probs = law(case)
    np.testing.assert_allclose(p.entropy(), stats.entropy(np.exp(log_probs), axis=-1), rtol=1e-5, atol=1e-6)


@GRID
def test_kl_is_the_sum_of_its_definition(case):
    p, log_p = law(case)
    other = CASES[case][..., ::-1] * 0.5
    log_q = special.log_softmax(other, axis=-1)
    expected = np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
    np.testing.assert_allclose(p.kl(Categorical(jnp.asarray(other, jnp.float32))), expected, rtol=1e-5, atol=1e-5)


def test_kl_has_a_direction():
    p, q = (Categorical(jnp.log(jnp.array(probs))) for probs in ([0.5, 0.5], [0.9, 0.1]))
    np.testing.assert_allclose(p.kl(q), 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), rtol=1e-5)
    np.testing.assert_allclose(q.kl(p), 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5), rtol=1e-5)


def test_at_equality_the_gradient_of_the_kl_is_zero_and_its_hessian_the_fisher_matrix():
    """Fisher matrix of the logits: diag(p) − p pᵀ."""
    logits = jnp.array([0.3, -1.2, 0.8, 0.0])
    kl = lambda x: Categorical(logits).kl(Categorical(x))  # noqa: E731
    probs = special.softmax(np.asarray(logits, np.float64))
    gradient, hessian = jax.jit(lambda x: (jax.grad(kl)(x), jax.hessian(kl)(x)))(logits)
    np.testing.assert_allclose(gradient, np.zeros(4), atol=1e-7)
    np.testing.assert_allclose(hessian, np.diag(probs) - np.outer(probs, probs), atol=1e-6)


def test_an_impossible_action_is_never_drawn_and_leaves_everything_finite():
    p = Categorical(jnp.array([0.0, -jnp.inf, 1.0]))
    possible = Categorical(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(p.entropy(), possible.entropy(), rtol=1e-6)
    np.testing.assert_array_equal(p.kl(p), 0)
    samples = Categorical(jnp.broadcast_to(p.logits, (500, 3))).sample(jax.random.key(0))
    assert set(np.asarray(samples).tolist()) == {0, 2}


def test_gradients_are_finite_where_an_action_is_impossible():
    logits = jnp.array([0.0, -jnp.inf, 1.0])
    q = Categorical(jnp.array([1.0, -jnp.inf, 0.0]))

    def everything(logits):
        p = Categorical(logits)
        return p.entropy() + p.kl(q) + q.kl(p)

    assert np.isfinite(jax.jit(jax.grad(everything))(logits)).all()


def test_gradients_are_finite_where_an_action_is_all_but_impossible():
    logits = jnp.array([[0.0, -200.0, 200.0]])
    q = Categorical(jnp.zeros((1, 3)))

    def everything(logits):
        p = Categorical(logits)
        return (p.log_prob(jnp.array([1], jnp.int32)) + p.entropy() + p.kl(q)).sum()

    assert np.isfinite(jax.jit(jax.grad(everything))(logits)).all()


def test_samples_have_the_frequencies_of_the_law():
    probs = np.array([0.1, 0.6, 0.3])
    p = Categorical(jnp.broadcast_to(jnp.log(jnp.asarray(probs, jnp.float32)), (20_000, 3)))
    samples = p.sample(jax.random.key(0))
    assert samples.dtype == jnp.int32
    assert stats.chisquare(np.bincount(samples, minlength=3), 20_000 * probs).pvalue > 1e-3


def test_the_mode_is_the_most_probable_action_and_the_first_among_equals():
    mode = Categorical(jnp.array([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0]])).mode()
    assert mode.dtype == jnp.int32
    assert mode.tolist() == [1, 0]
