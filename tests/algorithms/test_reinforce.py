"""REINFORCE's loss against its sum in NumPy, what its two baselines do at cuts, and how returns are standardised."""

from dataclasses import replace
from functools import cache, partial

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
    slow_returns,
)

from policy_gradients.algorithms import REINFORCEConfig, reinforce
from policy_gradients.algorithms.reinforce import judge_by_returns, reinforce_loss
from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import Count, Moments, NormalizationConfig, Statistics

T, N = 6, 4
KEY = jax.random.key(5)
AGENT = linear_agent()
TERMS = {
    "policy": REINFORCEConfig(),
    "value": REINFORCEConfig(baseline="value", value_coef=0.7),
    "entropy": REINFORCEConfig(entropy_coef=0.1),
    "all": REINFORCEConfig(baseline="value", value_coef=0.5, entropy_coef=0.01),
}
PURE = REINFORCEConfig(
    num_steps=T,
    learning_rate=0.05,
    lr_schedule="constant",
    max_grad_norm=1e9,
    normalization=NormalizationConfig(obs=False, reward=False, value=True),
)
CRITIC = replace(PURE, baseline="value", normalization=NormalizationConfig(obs=False, reward=False))
MEAN, STD = 2.0, 3.0
SEEN = Statistics(None, None, Moments(Count(jnp.int32(0), jnp.int32(100)), jnp.float32(MEAN), jnp.float32(STD**2)))


def slow_loss(config, params, batch):
    rows = batch.valid
    policy = np.mean((-log_probs(params, batch.obs, batch.action) * batch.advantage)[rows])
    error = 0.5 * (batch.target - batch.obs @ params["v"]) ** 2
    value = np.mean(error[rows]) if config.baseline == "value" else 0.0
    return policy + config.value_coef * value - config.entropy_coef * gaussian_entropy(params), (policy, value)


loss_and_gradient = loss_by_terms(reinforce_loss, TERMS)


@pytest.mark.parametrize("terms", TERMS)
def test_the_loss_and_its_parts_are_the_sums_of_the_definition(terms):
    (loss, parts), _ = loss_and_gradient(terms)
    params = numpy_params()
    expected, expected_parts = slow_loss(TERMS[terms], params, numpy_batch(params))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(parts, expected_parts, rtol=1e-6)


@pytest.mark.parametrize("terms", TERMS)
def test_the_gradient_is_that_of_finite_differences(terms):
    """Trap 36."""
    params = numpy_params()
    slow = lambda p: slow_loss(TERMS[terms], p, numpy_batch(params))[0]  # noqa: E731
    assert_gradient_is_that_of_differences(loss_and_gradient(terms)[1], slow, params)


def test_the_policys_loss_does_not_reach_the_critic_nor_the_critics_the_policy():
    """Trap 37: returns and baselines are data."""
    assert_neither_loss_reaches_the_others_parameters(loss_and_gradient("policy")[1], loss_and_gradient("value")[1])


@cache
def updater(config):
    return jax.jit(reinforce(AGENT, config, num_envs=N, total_steps=5 * T * N).update)


@cache
def beginning(config):
    return jax.jit(reinforce(AGENT, config, num_envs=N, total_steps=5 * T * N).init)(jax.random.key(0))


def judged(config, statistics):
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in numpy_params().items()}
    rows = experience(params, (T, N))
    assert rows.truncated[:-1].any() and rows.terminated.any()
    judge = jax.jit(partial(judge_by_returns, AGENT, config))
    return judge(params, statistics, jax.tree.map(jnp.asarray, rows)), rows, numpy_params()["v"]


def test_where_an_episode_is_cut_the_pure_form_goes_on_with_the_running_mean_of_returns():
    """0 there would bias long tasks downwards; after a termination follows nothing."""
    found, rows, _ = judged(PURE, SEEN)
    returns = slow_returns(np.full((T, N), MEAN), rows, PURE.gamma)
    np.testing.assert_allclose(found.advantage, returns - MEAN, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.target, (returns - MEAN) / STD, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.value, 0)


def test_with_a_critic_it_goes_on_with_the_value_of_the_state_before_the_reset():
    found, rows, v = judged(CRITIC, Statistics(None, None, None))
    returns = slow_returns(rows.next_obs @ v, rows, CRITIC.gamma)
    np.testing.assert_allclose(found.target, returns, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.advantage, returns - rows.obs @ v, rtol=1e-5, atol=1e-5)


def test_a_normalised_critic_is_read_in_units_of_the_return():
    found, rows, v = judged(replace(CRITIC, normalization=PURE.normalization), SEEN)
    value, after = MEAN + STD * (rows.obs @ v), MEAN + STD * (rows.next_obs @ v)
    returns = slow_returns(after, rows, CRITIC.gamma)
    np.testing.assert_allclose(found.advantage, returns - value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.target, (returns - MEAN) / STD, rtol=1e-4, atol=1e-4)


def first_step(config, params, rows, weight):
    """Parameters after Adam's first step, −η g/(|g| + ε), on −⟨log π Ψ⟩."""
    flat = lambda x: np.asarray(x, np.float64).reshape(T * N, *np.shape(x)[2:])  # noqa: E731
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    batch = numpy_batch(params)._replace(
        obs=flat(rows.obs), action=flat(rows.action), advantage=flat(weight), target=flat(weight),
        log_prob=flat(weight), value=flat(weight), valid=np.ones(T * N, bool),
    )  # fmt: skip
    gradient = float64_gradient(reinforce_loss, AGENT, TERMS["policy"], params, batch)[1]
    return {k: p - config.learning_rate * gradient[k] / (np.abs(gradient[k]) + 1e-8) for k, p in params.items()}


def test_the_pure_form_weighs_log_probs_by_returns_standardised_with_the_running_statistics():
    """Ψ = (G − m)/s of all returns before this batch, not of the batch: its mean is not 0."""
    learner = beginning(PURE)._replace(statistics=SEEN)
    rows = experience(learner.params, (T, N))
    weight = (slow_returns(np.full((T, N), MEAN), rows, PURE.gamma) - MEAN) / STD
    assert abs(weight.mean()) > 0.1
    after, metrics = updater(PURE)(KEY, learner, rows)
    expected = first_step(PURE, learner.params, rows, weight)
    for name in ("w", "log_std"):
        np.testing.assert_allclose(after.params[name], expected[name], rtol=1e-4, err_msg=name)
    mean_log_prob = np.mean(weight * rows.log_prob)
    np.testing.assert_allclose(metrics["train/policy_gradient_loss"], -mean_log_prob, rtol=1e-4)
    np.testing.assert_allclose([metrics["train/baseline_mean"], metrics["train/baseline_std"]], [MEAN, STD], rtol=1e-5)


def test_the_pure_form_leaves_the_critic_alone_and_does_not_speak_of_one():
    learner = beginning(PURE)
    after, metrics = updater(PURE)(KEY, learner, experience(learner.params, (T, N)))
    np.testing.assert_array_equal(after.params["v"], learner.params["v"])
    assert not {"train/value_loss", "train/explained_variance"} & set(metrics)


def test_the_running_statistics_take_in_the_returns_afterwards():
    learner = beginning(PURE)._replace(statistics=SEEN)
    rows = experience(learner.params, (T, N))
    returns = slow_returns(np.full((T, N), MEAN), rows, PURE.gamma)
    after = updater(PURE)(KEY, learner, rows)[0].statistics.value
    count = 100 + T * N
    mean = (100 * MEAN + returns.sum()) / count
    square = (100 * (STD**2 + MEAN**2) + (returns**2).sum()) / count
    assert int(after.count) == count
    np.testing.assert_allclose(after.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(after.var, square - mean**2, rtol=1e-4)


def test_with_a_critic_weights_are_standardised_over_the_batch_and_the_critic_learns():
    learner = beginning(CRITIC)
    rows = experience(learner.params, (T, N))
    v = np.asarray(learner.params["v"], np.float64)
    advantage = slow_returns(rows.next_obs @ v, rows, CRITIC.gamma) - rows.obs @ v
    weight = (advantage - advantage.mean()) / advantage.std()
    after, metrics = updater(CRITIC)(KEY, learner, rows)
    expected = first_step(CRITIC, learner.params, rows, weight)
    np.testing.assert_allclose(after.params["w"], expected["w"], rtol=1e-4)
    expected_loss = -np.mean(weight * rows.log_prob)  # Adam's first step knows no scale; the loss does
    np.testing.assert_allclose(metrics["train/policy_gradient_loss"], expected_loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["train/value_loss"], np.mean(advantage**2) / 2, rtol=1e-4)
    assert (after.params["v"] != learner.params["v"]).all()


def test_the_pure_form_without_running_statistics_is_refused():
    with pytest.raises(UserError, match=r"normalization\.value"):
        reinforce(AGENT, replace(PURE, normalization=NormalizationConfig()), num_envs=N, total_steps=1)
