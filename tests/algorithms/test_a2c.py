"""A2C's loss against its sum in NumPy, and what one update does with it."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_agents import (
    assert_gradient_is_that_of_differences,
    assert_neither_loss_reaches_the_others_parameters,
    experience,
    float64_gradient,
    gaussian_entropy,
    linear_agent,
    log_probs,
    loss_by_terms,
    numpy_batch,
    numpy_params,
    slow_gae,
)

from policy_gradients.algorithms import A2CConfig, a2c
from policy_gradients.algorithms.a2c import a2c_loss
from policy_gradients.estimation.normalization import NormalizationConfig

T, N = 4, 4
KEY = jax.random.key(5)
AGENT = linear_agent()
TERMS = {
    "policy": A2CConfig(value_coef=0.0),
    "value": A2CConfig(value_coef=0.7),
    "entropy": A2CConfig(value_coef=0.0, entropy_coef=0.1),
    "all": A2CConfig(value_coef=0.5, entropy_coef=0.01),
}
PLAIN = A2CConfig(
    num_steps=T,
    learning_rate=0.05,
    lr_schedule="constant",
    max_grad_norm=1e9,
    rms_eps=0.1,
    normalization=NormalizationConfig(obs=False, reward=False),
)
LINEAR = replace(PLAIN, lr_schedule="linear", advantages="batch", value_coef=0.0)


def slow_loss(config, params, batch):
    rows = batch.valid
    log_prob = log_probs(params, batch.obs, batch.action)
    error = 0.5 * (batch.target - batch.obs @ params["v"]) ** 2
    parts = np.mean((-log_prob * batch.advantage)[rows]), np.mean(error[rows])
    return parts[0] + config.value_coef * parts[1] - config.entropy_coef * gaussian_entropy(params), parts


loss_and_gradient = loss_by_terms(a2c_loss, TERMS)


@pytest.mark.parametrize("terms", TERMS)
def test_the_loss_and_its_parts_are_the_papers_sums(terms):
    (loss, parts), _ = loss_and_gradient(terms)
    params = numpy_params()
    expected, expected_parts = slow_loss(TERMS[terms], params, numpy_batch(params))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(parts, expected_parts, rtol=1e-6)


@pytest.mark.parametrize("terms", TERMS)
def test_the_gradient_is_that_of_finite_differences(terms):
    """Trap 36: the sign of the entropy, and each coefficient on its own term."""
    params = numpy_params()
    slow = lambda p: slow_loss(TERMS[terms], p, numpy_batch(params))[0]  # noqa: E731
    assert_gradient_is_that_of_differences(loss_and_gradient(terms)[1], slow, params)


def test_the_policys_loss_does_not_reach_the_critic_nor_the_critics_the_policy():
    """Trap 37: advantages and targets are data."""
    assert_neither_loss_reaches_the_others_parameters(loss_and_gradient("policy")[1], loss_and_gradient("value")[1])


@cache
def updater(config):
    return jax.jit(a2c(AGENT, config, num_envs=N, total_steps=5 * T * N).update)


@cache
def beginning(config=PLAIN):
    return jax.jit(a2c(AGENT, config, num_envs=N, total_steps=5 * T * N).init)(jax.random.key(0))


def gradient_of(config, params, rows):
    """Of the loss on a whole rollout, with the advantages of a slow loop, float64."""
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    advantage, target = slow_gae(params["v"], rows, config.gamma, config.gae_lambda)
    flat = lambda x: np.array(x, x.dtype if x.dtype == bool else float).reshape(T * N, *x.shape[2:])  # noqa: E731
    batch = numpy_batch(params)._replace(
        obs=flat(rows.obs), action=flat(rows.action), advantage=flat(advantage), target=flat(target),
        valid=flat(rows.valid),
    )  # fmt: skip
    batch = batch._replace(log_prob=batch.advantage, value=batch.target)  # neither is read
    return float64_gradient(a2c_loss, AGENT, config, params, batch)[1]


def test_two_updates_are_two_steps_of_pytorchs_rmsprop_on_whole_rollouts():
    """v ← α v + (1 − α) g²; θ ← θ − η g / (√v + ε): ε beside the root, where TensorFlow's is inside."""
    learner = beginning()
    params = {name: np.asarray(leaf, np.float64) for name, leaf in learner.params.items()}
    square = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    for seed in range(2):
        rows = experience(params, (T, N), seed)
        gradient = gradient_of(PLAIN, params, rows)
        learner, metrics = updater(PLAIN)(KEY, learner, rows)
        for name, g in gradient.items():
            square[name] = PLAIN.rms_decay * square[name] + (1 - PLAIN.rms_decay) * g**2
            params[name] = params[name] - PLAIN.learning_rate * g / (np.sqrt(square[name]) + PLAIN.rms_eps)
            np.testing.assert_allclose(learner.params[name], params[name], rtol=1e-4, atol=1e-5, err_msg=name)
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=1e-4)
    assert learner.n_updates == 2


def test_nothing_is_drawn():
    learner, rows = beginning(), experience(beginning().params, (T, N))
    one, other = (updater(PLAIN)(jax.random.key(seed), learner, rows)[0] for seed in (1, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_linear_rate_ends_with_the_run():
    """Trap 18: counted in environment steps, so five updates use 1, 4/5, … 1/5 of the rate."""
    learner, rates = beginning(), []
    for _ in range(6):
        learner, metrics = updater(LINEAR)(KEY, learner, experience(learner.params, (T, N)))
        rates.append(float(metrics["train/learning_rate"]))
    np.testing.assert_allclose(rates, LINEAR.learning_rate * np.array([1, 0.8, 0.6, 0.4, 0.2, 0]), rtol=1e-5, atol=1e-9)
    assert metrics["train/update_norm"] == 0


def test_standardised_advantages_know_no_scale_nor_shift_of_rewards():
    """Episodes of one step and V = 0 make rewards of advantages."""
    learner = beginning()._replace(params=beginning().params | {"v": jnp.zeros(3)})
    rows = experience(learner.params, (T, N))._replace(terminated=np.ones((T, N), bool))
    plain, one = updater(LINEAR)(KEY, learner, rows)
    moved, other = updater(LINEAR)(KEY, learner, rows._replace(reward=3 * rows.reward + 7))
    np.testing.assert_allclose(moved.params["w"], plain.params["w"], rtol=1e-4)
    np.testing.assert_allclose(other["train/grad_norm"], one["train/grad_norm"], rtol=1e-4)
    raw = updater(PLAIN)(KEY, learner, rows)[1]["train/grad_norm"]
    scaled = updater(PLAIN)(KEY, learner, rows._replace(reward=3 * rows.reward))[1]["train/grad_norm"]
    np.testing.assert_allclose(scaled, 3 * raw, rtol=1e-4, err_msg="left as they are where not asked for")
