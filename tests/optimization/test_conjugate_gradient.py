"""Conjugate gradients against NumPy's solver, and where they stop."""

import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.optimization.conjugate_gradient import conjugate_gradient


def system(size, seed):
    """A symmetric positive definite matrix with eigenvalues from 1 to 10, and a right-hand side; float32."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    matrix = basis @ np.diag(np.linspace(1, 10, size)) @ basis.T
    return matrix.astype(np.float32), rng.normal(size=size).astype(np.float32)


def solve(matrix, b, iterations, **options):
    return conjugate_gradient(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(b), iterations, **options)


@pytest.mark.parametrize("size", [1, 3, 12])
@pytest.mark.parametrize("seed", range(3))
def test_as_many_products_as_unknowns_solve_the_system(size, seed):
    """Trap 29."""
    matrix, b = system(size, seed)
    np.testing.assert_allclose(solve(matrix, b, size).x, np.linalg.solve(matrix, b), rtol=1e-4, atol=1e-5)


def test_each_iterate_is_the_best_of_its_krylov_space():
    """After k products x minimises ½ xᵀHx − bᵀx over span{b, Hb, … Hᵏ⁻¹b}: the definition of the method."""
    matrix, b = system(6, 0)
    for k in range(1, 6):
        krylov = np.stack([np.linalg.matrix_power(matrix.astype(np.float64), i) @ b for i in range(k)], axis=1)
        basis = np.linalg.qr(krylov)[0]
        best = basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
        np.testing.assert_allclose(solve(matrix, b, k).x, best, rtol=1e-3, atol=1e-4)


def test_the_residual_and_the_count_are_those_of_the_iterate():
    matrix, b = system(12, 1)
    found = solve(matrix, b, 4)
    left = np.linalg.norm(b - matrix @ np.asarray(found.x)) / np.linalg.norm(b)
    assert found.iterations == 4
    assert left > 0.01, "not yet solved"
    np.testing.assert_allclose(found.residual, left, rtol=1e-3)


def test_it_stops_where_the_squared_residual_is_below_the_tolerance():
    """A matrix with two eigenvalues is solved by two products."""
    found = solve(np.diag([2.0, 2.0, 2.0, 5.0]).astype(np.float32), np.ones(4, np.float32), 50)
    assert found.iterations == 2
    np.testing.assert_allclose(found.x, [0.5, 0.5, 0.5, 0.2], rtol=1e-5)
    matrix, b = system(12, 2)
    loose = solve(matrix, b, 12, tolerance=1e-2 * float(b @ b))
    assert 0 < loose.iterations < 12
    assert loose.residual**2 <= 1e-2


def test_no_right_hand_side_has_the_solution_zero_without_a_product():
    found = solve(*system(3, 0)[:1], np.zeros(3, np.float32), 10)
    np.testing.assert_array_equal(found.x, 0)
    assert (found.iterations, found.residual) == (0, 0)


@pytest.mark.parametrize("curvature", [-1.0, 0.0, np.nan])
def test_a_direction_that_does_not_curve_upwards_is_not_followed(curvature):
    found = solve(np.diag([curvature, curvature]).astype(np.float32), np.ones(2, np.float32), 10)
    np.testing.assert_array_equal(found.x, 0)
    assert found.iterations == 1


def test_what_was_found_before_a_negative_curvature_is_kept():
    """b has most of its weight where H curves upwards, so that the first step is one of descent."""
    matrix, b = np.diag([1.0, -1.0]).astype(np.float32), np.array([2.0, 1.0], np.float32)
    found = solve(matrix, b, 10)
    np.testing.assert_allclose(found.x, b * (b @ b) / (b @ matrix @ b), rtol=1e-6)
    assert found.iterations == 2
