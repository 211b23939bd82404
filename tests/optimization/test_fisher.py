"""Fisher-vector products against matrices that small networks allow to be written down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from policy_gradients.distributions import Categorical, Normal
from policy_gradients.networks import NetworkConfig, actor_critic
from policy_gradients.optimization.fisher import fisher_vector_product

ROWS, DAMPING = 5, 0.3
NETWORKS = {
    "normal": (2, NetworkConfig(hidden=(4,), distribution="normal", policy_gain=1.0)),
    "state-dependent σ": (2, NetworkConfig(hidden=(4,), distribution="normal", state_dependent_std=True)),
    "categorical": (None, NetworkConfig(hidden=(4,), distribution="categorical", policy_gain=1.0)),
}


def small_policy(name):
    """θ ↦ the distribution at five observations, and θ."""
    actions, config = NETWORKS[name]
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    agent = actor_critic(spec, (actions or 1,), None if actions else 3, config)
    flat, unravel = ravel_pytree(jax.jit(agent.init)(jax.random.key(1))["policy"])
    obs = jax.random.normal(jax.random.key(2), (ROWS, 3))
    return lambda theta: agent.policy({"policy": unravel(theta), "value": None}, obs), flat


def mean_kl(policy, old):
    return lambda theta: jnp.mean(old.kl(policy(theta)))


def product_at(policy, theta, damping=DAMPING):
    old = jax.lax.stop_gradient(policy(theta))
    return fisher_vector_product(policy, lambda new: jnp.mean(old.kl(new)), theta, damping)


def information(distribution):
    """F of one row in the distribution's own parameters, by hand."""
    if isinstance(distribution, Categorical):
        p = np.exp(np.asarray(distribution.log_probs, np.float64))
        return np.stack([np.diag(row) - np.outer(row, row) for row in p])
    precision = np.exp(-2 * np.asarray(distribution.log_std, np.float64))
    return np.stack([np.diag([*row, *(2 * np.ones_like(row))]) for row in precision])


def own_parameters(distribution):
    if isinstance(distribution, Normal):
        return jnp.concatenate([distribution.mean, distribution.log_std], axis=-1)
    return distribution.logits


@pytest.mark.parametrize("name", NETWORKS)
def test_a_product_is_that_of_the_dense_hessian_and_of_the_fisher_matrix(name):
    """Trap 29 and 23: at θ_old, ∇²⟨KL⟩ = ⟨Jᵀ F J⟩ + ζ I."""
    policy, flat = small_policy(name)
    kl = mean_kl(policy, jax.lax.stop_gradient(policy(flat)))
    product = jax.jit(jax.vmap(product_at(policy, flat)))(jnp.eye(flat.size))
    hessian = np.asarray(jax.jit(jax.hessian(kl))(flat), np.float64)
    np.testing.assert_allclose(product, hessian + DAMPING * np.eye(flat.size), rtol=1e-4, atol=1e-5)

    jacobian = np.asarray(jax.jit(jax.jacobian(lambda theta: own_parameters(policy(theta))))(flat), np.float64)
    fisher = np.mean(np.swapaxes(jacobian, 1, 2) @ information(policy(flat)) @ jacobian, axis=0)
    np.testing.assert_allclose(hessian, fisher, rtol=1e-4, atol=1e-5)
    assert np.linalg.eigvalsh(fisher).max() > 0.1


def test_the_gradient_is_zero_where_the_policy_is_the_old_one():
    """Trap 23."""
    policy, flat = small_policy("normal")
    gradient = jax.jit(lambda theta: jax.grad(mean_kl(policy, jax.lax.stop_gradient(policy(theta))))(theta))
    np.testing.assert_allclose(gradient(flat), 0, atol=1e-6)


def test_damped_products_have_positive_curvature_in_every_direction():
    policy, flat = small_policy("categorical")
    directions = jax.random.normal(jax.random.key(3), (20, flat.size))

    @jax.jit
    def products(theta):
        return jax.vmap(product_at(policy, theta))(directions)

    curvature = jnp.sum(directions * products(flat), axis=-1)
    assert (curvature >= 0.99 * DAMPING * jnp.sum(directions**2, axis=-1)).all()


def test_a_coordinate_that_the_policy_does_not_use_sees_the_damping_alone():
    product = product_at(lambda theta: Normal(theta[None, :1], jnp.zeros((1, 1))), jnp.zeros(2))
    np.testing.assert_allclose(product(jnp.array([1.0, 1.0])), [1 + DAMPING, DAMPING], rtol=1e-6)
