"""The KL by cause, as V-MPO bounds it: by the mean, by the standard deviation, or whole for discrete actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.distributions import Categorical, Normal, TanhNormal

GAUSSIANS = pytest.mark.parametrize("law", [Normal, TanhNormal])


def pair(law, dims, batch=(4,)):
    """Two laws with unlike means and standard deviations, and their parameters in float64."""
    rng = np.random.default_rng(dims)
    numbers = rng.normal(0, 0.5, (4, *batch, dims)).astype(np.float32)
    p, q = law(*map(jnp.asarray, numbers[:2])), law(*map(jnp.asarray, numbers[2:]))
    return p, q, numbers.astype(np.float64)


@GAUSSIANS
@pytest.mark.parametrize("dims", [1, 3, 17])
def test_the_parts_are_the_sums_of_the_paper(law, dims):
    """D_μ = ½ Σ (μ_q − μ_p)²/σ_p², D_Σ = Σ [log(σ_q/σ_p) + σ_p²/(2σ_q²) − ½], p the old law: arXiv 1909.12238."""
    p, q, (mean_p, log_p, mean_q, log_q) = pair(law, dims)
    parts = p.kl_parts(q)
    assert set(parts) == {"kl_mean", "kl_std"}
    by_mean = 0.5 * ((mean_q - mean_p) ** 2 * np.exp(-2 * log_p)).sum(-1)
    by_std = (log_q - log_p + np.exp(2 * (log_p - log_q)) / 2 - 0.5).sum(-1)
    np.testing.assert_allclose(parts["kl_mean"], by_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts["kl_std"], by_std, rtol=1e-5, atol=1e-6)


@GAUSSIANS
def test_each_part_is_blind_to_the_other_cause(law):
    p, q, _ = pair(law, 3)
    other_mean, other_std = p.kl_parts(law(q.mean, p.log_std)), p.kl_parts(law(p.mean, q.log_std))
    np.testing.assert_array_equal(other_mean["kl_std"], 0)
    np.testing.assert_array_equal(other_std["kl_mean"], 0)
    np.testing.assert_allclose(other_mean["kl_mean"], p.kl_parts(q)["kl_mean"], rtol=1e-6)
    np.testing.assert_allclose(other_std["kl_std"], p.kl_parts(q)["kl_std"], rtol=1e-6)


@GAUSSIANS
def test_where_only_one_cause_differs_its_part_is_the_whole_kl(law):
    p, q, _ = pair(law, 3)
    for other in (law(q.mean, p.log_std), law(p.mean, q.log_std)):
        np.testing.assert_allclose(sum(p.kl_parts(other).values()), p.kl(other), rtol=1e-6)


@GAUSSIANS
def test_the_parts_have_a_direction(law):
    """Trap 23: σ_p = 1, σ_q = 2, means one apart, by hand in both directions."""
    p, q = law(jnp.zeros(1), jnp.zeros(1)), law(jnp.ones(1), jnp.full(1, np.log(2), jnp.float32))
    np.testing.assert_allclose(list(p.kl_parts(q).values()), [1 / 2, np.log(2) + 1 / 8 - 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(list(q.kl_parts(p).values()), [1 / 8, -np.log(2) + 2 - 1 / 2], rtol=1e-6)


@GAUSSIANS
def test_the_parts_of_a_law_with_itself_and_their_gradients_are_zero(law):
    p, _, _ = pair(law, 3)
    for name, part in p.kl_parts(p).items():
        np.testing.assert_array_equal(part, 0)
        gradient = jax.grad(lambda q, name=name: p.kl_parts(q)[name].sum())(p)
        np.testing.assert_allclose(gradient.mean, 0, atol=1e-6)
        np.testing.assert_allclose(gradient.log_std, 0, atol=1e-6)


@GAUSSIANS
def test_the_gradient_of_each_part_reaches_its_own_parameter_alone(law):
    p, q, _ = pair(law, 2)
    by_mean = jax.grad(lambda q: p.kl_parts(q)["kl_mean"].sum())(q)
    by_std = jax.grad(lambda q: p.kl_parts(q)["kl_std"].sum())(q)
    assert by_mean.mean.any() and by_std.log_std.any()
    assert not by_mean.log_std.any() and not by_std.mean.any()


def test_discrete_actions_have_one_part_the_whole_kl():
    p, q = (Categorical(jnp.log(jnp.array(probs))) for probs in ([0.5, 0.5], [0.9, 0.1]))
    assert set(p.kl_parts(q)) == {"kl"}
    np.testing.assert_allclose(p.kl_parts(q)["kl"], 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), rtol=1e-5)
    np.testing.assert_allclose(q.kl_parts(p)["kl"], 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5), rtol=1e-5)
