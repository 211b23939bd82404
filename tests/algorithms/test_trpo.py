"""TRPO's step against dense matrices in NumPy, what it refuses, and what the critic's fit leaves alone."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from linear_agents import (
    ACTIONS,
    OBS,
    experience,
    float64,
    linear_agent,
    log_probs,
    numpy_batch,
    numpy_params,
    slow_gae,
    slow_kl,
)

from policy_gradients.algorithms import TRPOConfig, trpo
from policy_gradients.algorithms.trpo import trust_region_step
from policy_gradients.distributions import Normal
from policy_gradients.estimation.batches import Batch
from policy_gradients.estimation.normalization import NormalizationConfig

T, N = 6, 4
KEY = jax.random.key(5)
AGENT = linear_agent()
EXACT = TRPOConfig(cg_iterations=20)
PLAIN = TRPOConfig(
    num_steps=T,
    max_kl=0.3,
    cg_damping=1e-3,
    value_epochs=3,
    num_minibatches=2,
    lr_schedule="constant",
    learning_rate=0.01,
    normalization=NormalizationConfig(obs=False, reward=False),
)
NO_STEP = replace(PLAIN, max_kl=0.0, value_epochs=1, num_minibatches=1)


def slow_objective(old, new, batch):
    ratio = np.exp(log_probs(new, batch.obs, batch.action) - log_probs(old, batch.obs, batch.action))
    return np.mean((ratio * batch.advantage)[batch.valid])


def flat_of(tree):
    """In the order of `ravel_pytree`: by name."""
    return np.concatenate([np.asarray(tree[name]).reshape(-1) for name in sorted(tree)])


def dense_system(params, batch):
    """The gradient of L and the Fisher matrix at θ_old, in the order log σ, v, w; the critic has no part in either."""
    obs, z = batch.obs[batch.valid], (batch.action - batch.obs @ params["w"])[batch.valid] / np.exp(params["log_std"])
    advantage, precision = batch.advantage[batch.valid], np.exp(-2 * params["log_std"])
    gradient = {
        "log_std": np.mean(advantage[:, None] * (z**2 - 1), axis=0),
        "v": np.zeros(OBS),
        "w": np.mean((advantage[:, None] * obs)[:, :, None] * (z / np.exp(params["log_std"]))[:, None], axis=0),
    }
    fisher = np.zeros((ACTIONS + OBS + OBS * ACTIONS,) * 2)
    fisher[:ACTIONS, :ACTIONS] = 2 * np.eye(ACTIONS)
    fisher[ACTIONS + OBS :, ACTIONS + OBS :] = np.kron(obs.T @ obs / len(obs), np.diag(precision))
    return flat_of(gradient), fisher


@cache
def stepper(config):
    unravel = ravel_pytree(numpy_params())[1]

    def step(flat, batch):
        return trust_region_step(lambda theta, obs: AGENT.policy(unravel(theta), obs), config, flat, batch)

    return jax.jit(step)


def take_step(config, params, batch):
    with jax.enable_x64(True):
        return jax.device_get(stepper(config)(jnp.asarray(flat_of(params)), jax.tree.map(jnp.asarray, batch)))


@pytest.mark.parametrize("max_kl", [0.01, 3.0])
def test_the_step_is_the_natural_gradient_to_the_bound_shortened_until_it_fits(max_kl):
    """x = (F + ζI)⁻¹ g and β = √(2δ / xᵀ(F + ζI)x) by dense algebra; then the first κʲ β x with KL ≤ δ and L better."""
    config, params = replace(EXACT, max_kl=max_kl), numpy_params()
    batch = numpy_batch(params)
    gradient, fisher = dense_system(params, batch)
    system = fisher + config.cg_damping * np.eye(len(fisher))
    direction = np.linalg.solve(system, gradient)
    scale = np.sqrt(2 * max_kl / (direction @ system @ direction))
    for j in range(config.line_search_steps):
        point = flat_of(params) + config.line_search_shrink**j * scale * direction
        new = {"log_std": point[:2], "w": point[5:].reshape(OBS, ACTIONS)}
        fits = np.mean(slow_kl(params, new, batch.obs)[batch.valid]) <= max_kl
        if fits and slow_objective(params, new, batch) > slow_objective(params, params, batch):
            break

    found, metrics = take_step(config, params, batch)
    np.testing.assert_allclose(metrics["train/step_scale"], scale, rtol=1e-4)
    np.testing.assert_allclose(found, point, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["train/line_search_step"], config.line_search_shrink**j, rtol=1e-6)
    assert metrics["train/is_line_search_success"] == 1
    assert metrics["train/cg_residual"] < 1e-3
    gain = slow_objective(params, new, batch) - slow_objective(params, params, batch)
    np.testing.assert_allclose(metrics["train/policy_objective"], gain, rtol=1e-3)
    np.testing.assert_allclose(
        metrics["train/kl_divergence_loss"], np.mean(slow_kl(params, new, batch.obs)[batch.valid]), rtol=1e-3
    )
    assert (j > 0) == (max_kl > 0.1), "far from θ_old the quadratic model promises too much"


def test_parameters_that_the_policy_does_not_use_stay_bit_for_bit():
    params = numpy_params()
    found, _ = take_step(EXACT, params, numpy_batch(params))
    np.testing.assert_array_equal(found[2:5], params["v"])
    assert (found[5:] != params["w"].reshape(-1)).all()


def test_the_scale_of_advantages_changes_nothing():
    params = numpy_params()
    batch = numpy_batch(params)
    once, _ = take_step(EXACT, params, batch)
    seven, _ = take_step(EXACT, params, batch._replace(advantage=7 * batch.advantage))
    np.testing.assert_allclose(seven, once, rtol=1e-4, atol=1e-5)


BENDS = {
    # slope 1 at θ = 0, so the quadratic model takes θ = √(2δ/(1 + ζ)) ≈ 0.13 for the bound
    "worsens the objective": lambda theta: jnp.sin(30 * theta) / 30,  # is below 0 there, well within the KL
    "leaves the trust region": lambda theta: theta + 1000 * theta**3,
}


@cache
def bent_step(bend, trials):
    """One parameter whose policy has the mean `bend(θ)` everywhere; larger actions are better."""

    def policy(theta, obs):
        mean = jnp.broadcast_to(BENDS[bend](theta)[None], (obs.shape[0], 1))
        return Normal(mean, jnp.zeros_like(mean))

    config = TRPOConfig(line_search_steps=trials)
    return jax.jit(partial(trust_region_step, policy, config))


def bent(bend, trials, advantage=None):
    action = np.random.default_rng(0).normal(size=64).astype(np.float32)
    advantage = action if advantage is None else np.full(64, advantage, np.float32)
    batch = Batch(action[:, None], action[:, None], action, advantage, action, action, np.ones(64, bool))
    return bent_step(bend, trials)(jnp.zeros(1), jax.tree.map(jnp.asarray, batch))


@pytest.mark.parametrize("bend", BENDS)
def test_a_step_that_worsens_the_objective_or_leaves_the_trust_region_is_not_taken(bend):
    """Trap 27: one trial; the parameters after are those before, bit for bit."""
    point, metrics = bent(bend, trials=1)
    np.testing.assert_array_equal(point, jnp.zeros(1))
    assert metrics["train/step_scale"] > 0
    for name in ("is_line_search_success", "line_search_step", "kl_divergence_loss", "policy_objective"):
        assert metrics[f"train/{name}"] == 0, name


@pytest.mark.parametrize("bend", BENDS)
def test_more_trials_find_a_shorter_step_that_fits(bend):
    point, metrics = bent(bend, trials=10)
    assert point > 0
    assert 0 < metrics["train/line_search_step"] < 1
    assert metrics["train/policy_objective"] > 0
    assert metrics["train/kl_divergence_loss"] <= 0.01


@pytest.mark.parametrize("advantage", [0.0, np.nan, np.inf])
def test_without_a_direction_there_is_no_step(advantage):
    point, metrics = bent("worsens the objective", 10, advantage)
    np.testing.assert_array_equal(point, jnp.zeros(1))
    assert metrics["train/is_line_search_success"] == 0
    assert bool(metrics["train/nonfinite"]) == (not np.isfinite(advantage))


@cache
def updater(config):
    return jax.jit(trpo(AGENT, config, num_envs=N, total_steps=5 * T * N).update)


@cache
def beginning():
    return jax.jit(trpo(AGENT, PLAIN, num_envs=N, total_steps=5 * T * N).init)(jax.random.key(0))


def test_the_kl_stays_within_its_bound_in_every_update_of_a_run():
    """Trap 28, measured from the parameters in float64, with a bound so wide that steps have to be shortened."""
    learner, fractions = beginning(), []
    for seed in range(25):
        old, rows = float64(learner.params), experience(learner.params, (T, N), seed)
        learner, metrics = updater(PLAIN)(jax.random.key(seed), learner, rows)
        kl = slow_kl(old, float64(learner.params), rows.obs).mean()
        assert kl <= PLAIN.max_kl * (1 + 1e-5)
        np.testing.assert_allclose([metrics["train/kl"], metrics["train/kl_divergence_loss"]], kl, rtol=1e-3, atol=1e-6)
        fractions.append(float(metrics["train/line_search_step"]))
    assert min(fractions) < 1 and max(fractions) > 0
    assert learner.n_updates == 25 * PLAIN.value_epochs * PLAIN.num_minibatches


def products_in_loops(program, in_loop=False):
    """Every matrix product within a loop of a program."""
    for equation in program.eqns:
        if in_loop and equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products_in_loops(inner, in_loop or equation.primitive.name in ("while", "scan"))


def test_conjugate_gradients_and_trials_ask_for_products_of_full_precision():
    """Trap 41: an accelerator's default has 10 bits or fewer; here every product is full, so the program is read."""
    learner = beginning()
    rows = experience(learner.params, (T, N))
    program = jax.make_jaxpr(trpo(AGENT, PLAIN, num_envs=N, total_steps=5 * T * N).update)(KEY, learner, rows)
    of_the_policy = [
        equation
        for equation in products_in_loops(program.jaxpr)
        if any(variable.aval.shape == learner.params["w"].shape for variable in (*equation.invars, *equation.outvars))
    ]
    assert len(of_the_policy) == 3  # forward and back in conjugate gradients, forward in a trial
    for equation in of_the_policy:
        assert set(equation.params["precision"] or ()) == {jax.lax.Precision.HIGHEST}, equation


def test_fitting_the_critic_leaves_the_policy_bit_for_bit():
    """Trap 30: with a bound of 0 the policy takes no step; the critic learns all the same."""
    learner = beginning()
    after, metrics = updater(NO_STEP)(KEY, learner, experience(learner.params, (T, N)))
    for name in ("w", "log_std"):
        np.testing.assert_array_equal(after.params[name], learner.params[name])
    assert (after.params["v"] != learner.params["v"]).all()
    assert metrics["train/kl"] == 0


def test_the_critic_takes_adams_steps_on_half_the_mean_square_error():
    learner = beginning()
    rows = experience(learner.params, (T, N))
    v = np.asarray(learner.params["v"], np.float64)
    error = slow_gae(v, rows, NO_STEP.gamma, NO_STEP.gae_lambda)[0]  # R̂ − V
    after, metrics = updater(NO_STEP)(KEY, learner, rows)
    np.testing.assert_allclose(metrics["train/value_loss"], np.mean(error**2) / 2, rtol=1e-4)
    gradient = -np.mean(error[..., None] * rows.obs, axis=(0, 1))
    np.testing.assert_allclose(after.params["v"], v - NO_STEP.learning_rate * np.sign(gradient), rtol=1e-4)
