"""The squashed Gaussian at extreme actions, and as a density of a = tanh u."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from policy_gradients.distributions import Normal, TanhNormal
from policy_gradients.distributions.tanh_normal import log_det_tanh

EXTREMES = [0.0, 1.0, -1.0, 10.0, -10.0, 50.0, -50.0]


def exact_log_det(u):
    """log(1 − tanh² u) = −2 log cosh u in float64."""
    u = np.asarray(u, np.float64)
    return -2 * (np.logaddexp(u, -u) - np.log(2))


def one(mean, std):
    return TanhNormal(jnp.array([mean], jnp.float32), jnp.log(jnp.array([std], jnp.float32)))


def density(a, mean, std):
    """π(a), by the change of variables written in a = tanh u, float64."""
    return stats.norm.pdf(np.arctanh(a), mean, std) / (1 - a**2)


def test_the_log_determinant_is_exact_at_extreme_actions():
    np.testing.assert_allclose(log_det_tanh(jnp.array(EXTREMES)), exact_log_det(EXTREMES), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("u", EXTREMES)
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.5), (-3.0, 1.0)])
@pytest.mark.parametrize("dims", [1, 3, 17])
def test_log_prob_is_exact_at_extreme_actions_and_summed_over_dims(dims, mean, log_std, u):
    p = TanhNormal(jnp.full((dims,), mean), jnp.full((dims,), log_std))
    expected = dims * (stats.norm.logpdf(u, mean, np.exp(log_std)) - exact_log_det(u))
    np.testing.assert_allclose(p.log_prob(jnp.full((dims,), u)), expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.4, 0.3), (-0.8, 0.6)])
def test_the_density_of_the_squashed_action_integrates_to_one(mean, std):
    p = one(mean, std)
    edges = np.linspace(-1, 1, 40_001)
    middle = (edges[1:] + edges[:-1]) / 2
    log_probs = jax.vmap(p.log_prob)(jnp.asarray(np.arctanh(middle)[:, None], jnp.float32))
    assert np.sum(np.exp(np.asarray(log_probs, np.float64)) * np.diff(edges)) == pytest.approx(1, abs=1e-4)


@given(mean=st.floats(-20, 20, width=32), log_std=st.floats(-5, 2, width=32), u=st.floats(-50, 50, width=32))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_log_probs_and_their_gradients_are_finite(mean, log_std, u):
    value, gradients = _value_and_gradients(jnp.array([mean]), jnp.array([log_std]), jnp.array([u]))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@jax.jit
def _value_and_gradients(mean, log_std, u):
    def total(mean, log_std, u):
        p = TanhNormal(mean, log_std)
        return p.log_prob(u) + p.entropy() + p.kl(TanhNormal(mean * 0.5, log_std * 0.5))

    return jax.value_and_grad(total, argnums=(0, 1, 2))(mean, log_std, u)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.05), (0.0, 0.5), (1.0, 0.5), (-2.0, 1.0), (0.5, 2.0)])
def test_entropy_is_that_of_the_squashed_density(mean, std):
    def integrand(u):  # −∫ π(a) log π(a) da, over u
        return -stats.norm.pdf(u, mean, std) * (stats.norm.logpdf(u, mean, std) - exact_log_det(u))

    expected = integrate.quad(integrand, mean - 10 * std, mean + 10 * std, limit=200)[0]
    np.testing.assert_allclose(one(mean, std).entropy(), expected, atol=2e-4)  # 32 nodes: 1e-6 up to σ = 1, 2e-4 at 2


def test_entropy_is_summed_over_dims():
    p = TanhNormal(jnp.full((2, 3), 0.4), jnp.full((2, 3), -0.3))
    np.testing.assert_allclose(p.entropy(), 3 * one(0.4, np.exp(-0.3)).entropy() * np.ones(2), rtol=1e-5)


def test_entropy_does_not_reward_an_ever_wider_base():
    """Past σ of about 1 a wider base only drives the squashed action to its bounds; the base entropy rewards it."""
    slope = jax.grad(lambda log_std: TanhNormal(jnp.zeros(1), log_std).entropy())
    assert slope(jnp.array([-1.0])) > 0 > slope(jnp.array([1.0]))
    assert jax.grad(lambda log_std: Normal(jnp.zeros(1), log_std).entropy())(jnp.array([1.0])) > 0


def test_kl_of_two_squashed_gaussians_is_the_integral_over_the_squashed_action():
    p, q = (0.2, 0.5), (-0.3, 0.8)
    integrand = lambda a: density(a, *p) * np.log(density(a, *p) / density(a, *q))  # noqa: E731
    expected = integrate.quad(integrand, -0.9999, 0.9999, limit=200)[0]
    np.testing.assert_allclose(one(*p).kl(one(*q)), expected, rtol=1e-4)
    np.testing.assert_array_equal(one(*p).kl(one(*q)), one(*p).base.kl(one(*q).base))


def test_a_draw_is_kept_before_the_squash_so_its_log_prob_comes_back_bit_for_bit():
    p = TanhNormal(jnp.full((1000, 2), 8.0), jnp.full((1000, 2), 1.0))
    u = p.sample(jax.random.key(0))
    assert np.mean(np.abs(np.tanh(u)) == 1) > 0.2, "many of these draws cannot be had back from tanh u"
    np.testing.assert_array_equal(u, p.base.sample(jax.random.key(0)))
    assert np.isfinite(p.log_prob(u)).all()


def test_the_mode_is_the_median_of_the_squashed_law():
    p = TanhNormal(jnp.full((20_001, 1), 0.6), jnp.full((20_001, 1), 0.2))
    squashed = np.tanh(p.sample(jax.random.key(0)))
    assert np.median(squashed) == pytest.approx(np.tanh(p.mode()[0, 0]), abs=0.02)
