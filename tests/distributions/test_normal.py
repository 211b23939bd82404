"""The diagonal Gaussian against SciPy; every quantity in nats is a sum over action coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from policy_gradients.distributions import Normal

DIMS = pytest.mark.parametrize("dims", [1, 3, 17])

# name: (mean, log σ) of every coordinate before it is spread a little
CASES = {
    "standard": (0.0, 0.0),
    "shifted": (-7.0, 0.3),
    "narrow, at the floor of log σ": (0.4, -5.0),
    "wide, at its ceiling": (1.0, 2.0),
}
GRID = pytest.mark.parametrize("case", CASES)


def normal(case, dims, batch=(4,), seed=0):
    mean, log_std = CASES[case]
    rng = np.random.default_rng(seed)
    spread = lambda centre: jnp.asarray(centre + 0.1 * rng.standard_normal((*batch, dims)), jnp.float32)  # noqa: E731
    return Normal(spread(mean), spread(log_std))


def frozen(p):
    """SciPy's float64 view of the same parameters."""
    return stats.norm(np.asarray(p.mean, np.float64), np.exp(np.asarray(p.log_std, np.float64)))


@DIMS
@GRID
def test_log_prob_is_scipys_summed_over_dims(case, dims):
    p = normal(case, dims)
    action = p.sample(jax.random.key(0))
    expected = frozen(p).logpdf(np.asarray(action, np.float64)).sum(-1)
    # at σ = e⁻⁵ the float32 spacing of an action of 0.4 is 5e-6 σ
    np.testing.assert_allclose(p.log_prob(action), expected, rtol=1e-5, atol=1e-4)


@DIMS
@GRID
def test_entropy_is_scipys_summed_over_dims(case, dims):
    p = normal(case, dims)
    np.testing.assert_allclose(p.entropy(), frozen(p).entropy().sum(-1), rtol=1e-5, atol=1e-5)


@DIMS
def test_kl_is_the_integral_of_its_definition_summed_over_dims(dims):
    p, q = normal("standard", dims, (1,)), normal("shifted", dims, (1,), seed=1)
    q = q._replace(mean=q.mean + 6)
    u = np.linspace(-9, 9, 20_001)[:, None]  # where p, around 0 with σ of about 1, has all its mass
    integrand = frozen(p).pdf(u) * (frozen(p).logpdf(u) - frozen(q).logpdf(u))
    np.testing.assert_allclose(p.kl(q)[0], integrate.trapezoid(integrand, u, axis=0).sum(), rtol=1e-5)


def test_kl_has_a_direction():
    """KL(N(0,1) ‖ N(1,2²)) = log 2 + (1 + 1)/8 − ½ by hand, and the other way round −log 2 + (4 + 1)/2 − ½."""
    p = Normal(jnp.zeros(1), jnp.zeros(1))
    q = Normal(jnp.ones(1), jnp.log(2.0) * jnp.ones(1))
    np.testing.assert_allclose(p.kl(q), np.log(2) + 2 / 8 - 0.5, rtol=1e-6)
    np.testing.assert_allclose(q.kl(p), -np.log(2) + 5 / 2 - 0.5, rtol=1e-6)


def test_kl_to_oneself_is_exactly_zero():
    p = normal("wide, at its ceiling", 17)
    np.testing.assert_array_equal(p.kl(p), np.zeros(4))


@DIMS
def test_at_equality_the_gradient_of_the_kl_is_zero_and_its_hessian_the_fisher_matrix(dims):
    """Fisher matrix of (μ, log σ): diag(1/σ², 2)."""
    p = normal("shifted", dims, ())

    def kl(flat):
        return p.kl(Normal(flat[:dims], flat[dims:]))

    flat = jnp.concatenate([p.mean, p.log_std])
    gradient, hessian = jax.jit(lambda flat: (jax.grad(kl)(flat), jax.hessian(kl)(flat)))(flat)
    np.testing.assert_array_equal(gradient, np.zeros(2 * dims))
    fisher = np.diag(np.concatenate([np.exp(-2 * np.asarray(p.log_std)), np.full(dims, 2.0)]))
    np.testing.assert_allclose(hessian, fisher, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("quantity", ["log_prob", "entropy", "kl"])
def test_doubling_identical_dims_doubles(quantity):
    def value(dims):
        p, q = (Normal(jnp.full((dims,), m), jnp.full((dims,), s)) for m, s in ((0.3, -0.5), (-0.2, 0.4)))
        arguments = {"log_prob": (jnp.full((dims,), 0.9),), "entropy": (), "kl": (q,)}[quantity]
        return getattr(p, quantity)(*arguments)

    np.testing.assert_allclose(value(6), 2 * value(3), rtol=1e-6)


def test_samples_have_the_mean_and_spread_of_the_law():
    mean, log_std = jnp.array([-2.0, 3.0]), jnp.array([-1.0, 0.5])
    p = Normal(jnp.broadcast_to(mean, (20_000, 2)), jnp.broadcast_to(log_std, (20_000, 2)))
    samples = np.asarray(p.sample(jax.random.key(0)))
    for i in range(2):
        assert stats.kstest(samples[:, i], stats.norm(mean[i], np.exp(log_std[i])).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.03, "coordinates are independent"


def test_a_sample_is_differentiable_in_its_parameters():
    p = Normal(jnp.array([0.5, -1.0]), jnp.array([0.2, -0.4]))
    key = jax.random.key(1)
    gradient = jax.grad(lambda p: p.sample(key).sum())(p)
    np.testing.assert_allclose(gradient.mean, [1, 1])
    np.testing.assert_allclose(gradient.log_std, p.sample(key) - p.mean, rtol=1e-5)


def test_the_mode_is_the_mean():
    p = normal("shifted", 3)
    assert p.mode() is p.mean
