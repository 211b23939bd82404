"""V-MPO's loss against its sums in NumPy; its duals, its trust region, and the policy that acts."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_agents import (
    assert_gradient_is_that_of_differences,
    experience,
    float64,
    float64_gradient,
    linear_agent,
    log_probs,
    numpy_batch,
    numpy_params,
    slow_gae,
    slow_kl,
)

from policy_gradients.algorithms import VMPOConfig, vmpo
from policy_gradients.algorithms.vmpo import VMPORows, vmpo_loss
from policy_gradients.distributions import Normal
from policy_gradients.estimation.normalization import NormalizationConfig
from policy_gradients.optimization.duals import positive

T, N = 8, 4
KEY = jax.random.key(5)
AGENT = linear_agent()
NO_ALPHA, ALPHA = np.zeros(2), np.array([3.0, 0.2])
TERMS = {
    "policy": (VMPOConfig(value_coef=0.0), NO_ALPHA),
    "value": (VMPOConfig(value_coef=0.7), NO_ALPHA),
    "kl of the mean": (VMPOConfig(value_coef=0.0), ALPHA * [1, 0]),
    "kl of the deviation": (VMPOConfig(value_coef=0.0), ALPHA * [0, 1]),
    "all": (VMPOConfig(value_coef=0.5), ALPHA),
}
ONE_STEP = VMPOConfig(
    num_steps=T,
    num_epochs=1,
    num_minibatches=1,
    learning_rate=1e-2,
    max_grad_norm=0.1,
    normalization=NormalizationConfig(obs=False, reward=False),
)
SLOW_TARGET = replace(ONE_STEP, num_epochs=2, num_minibatches=4, target_period=3, eps_mean=1e-6, eps_std=1e-6)


def slow_parts(old, params, obs):
    """D_μ and D_Σ of each row, from the stored policy to this one, summed over action coordinates."""
    by_mean = 0.5 * ((obs @ (params["w"] - old["w"])) ** 2 * np.exp(-2 * old["log_std"])).sum(-1)
    by_std = params["log_std"] - old["log_std"] + np.exp(2 * (old["log_std"] - params["log_std"])) / 2 - 0.5
    return by_mean, np.full(len(obs), by_std.sum())


def slow_loss(config, alpha, params, rows, old):
    batch, valid = rows.batch, rows.batch.valid
    policy = np.mean(-rows.weight * log_probs(params, batch.obs, batch.action))
    value = np.mean(0.5 * (batch.target - batch.obs @ params["v"])[valid] ** 2)
    kls = [np.mean(part[valid]) for part in slow_parts(old, params, batch.obs)]
    return policy + config.value_coef * value + alpha @ kls, (policy, value, *kls)


@cache
def example():
    """Rows under an old policy, and parameters that have moved away from it."""
    old = numpy_params()
    batch = numpy_batch(old)
    weight = np.where(batch.valid, np.random.default_rng(2).exponential(size=len(batch.valid)), 0.0)
    law = Normal(batch.obs @ old["w"], np.broadcast_to(old["log_std"], (len(batch.obs), 2)).copy())
    moved = {name: leaf + 0.2 * np.random.default_rng(3).normal(size=leaf.shape) for name, leaf in old.items()}
    return old, moved, VMPORows(batch, weight, law)


def params_first(agent, config, params, alpha, rows):
    return vmpo_loss(agent, config, alpha, params, rows)


@cache
def loss_and_gradient(terms):
    config, alpha = TERMS[terms]
    _, params, rows = example()
    return float64_gradient(params_first, AGENT, config, params, alpha, rows)


@pytest.mark.parametrize("terms", TERMS)
def test_the_loss_and_its_parts_are_the_papers_sums(terms):
    (loss, parts), _ = loss_and_gradient(terms)
    old, params, rows = example()
    expected, expected_parts = slow_loss(*TERMS[terms], params, rows, old)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(parts, expected_parts, rtol=1e-6)


@pytest.mark.parametrize("terms", TERMS)
def test_the_gradient_is_that_of_finite_differences(terms):
    """Trap 36, and 24: the KL of the policy with itself would have none."""
    old, params, rows = example()
    slow = lambda p: slow_loss(*TERMS[terms], p, rows, old)[0]  # noqa: E731
    assert_gradient_is_that_of_differences(loss_and_gradient(terms)[1], slow, params)


def test_the_policys_loss_does_not_reach_the_critic_nor_the_critics_the_policy():
    """Trap 37: weights, targets and the old policy are data."""
    policy_alone, both = loss_and_gradient("policy")[1], loss_and_gradient("value")[1]
    assert not policy_alone["v"].any()
    assert both["v"].any()
    np.testing.assert_array_equal(both["w"], policy_alone["w"])


def test_the_policys_loss_does_not_reach_the_duals():
    """Trap 37: α follows its own loss, of the other sign."""
    _, params, rows = example()
    single = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, bool if x.dtype == bool else jnp.float32), tree)  # noqa: E731
    gradient = jax.grad(lambda alpha: vmpo_loss(AGENT, TERMS["all"][0], alpha, single(params), single(rows))[0])
    np.testing.assert_array_equal(jax.jit(gradient)(jnp.asarray(ALPHA, jnp.float32)), 0)


@cache
def updater(config, discrete=False):
    return jax.jit(
        vmpo(linear_agent(discrete) if discrete else AGENT, config, num_envs=N, total_steps=5 * T * N).update
    )


@cache
def beginning(config=ONE_STEP, discrete=False):
    agent = linear_agent(discrete) if discrete else AGENT
    return jax.jit(vmpo(agent, config, num_envs=N, total_steps=5 * T * N).init)(jax.random.key(0))


def still(learner):
    """With a learning rate of 0 for the networks: only the duals move."""
    return learner._replace(learning_rate=jnp.float32(0))


def online(learner):
    """The parameters that learn; `learner.params` are those that act."""
    return learner.opt_state.online


def slow_e_step(learner, rows):
    """Â, the better half of all rows by standardised Â, and ψ at the learner's temperature."""
    advantage, _ = slow_gae(float64(online(learner))["v"], rows, ONE_STEP.gamma, ONE_STEP.gae_lambda)
    scaled = ((advantage - advantage.mean()) / advantage.std()).reshape(-1)
    best = np.argsort(-scaled)[: scaled.size // 2]
    weight = np.zeros(scaled.size)
    weight[best] = np.exp(scaled[best] / float(positive(learner.opt_state.duals.eta)))
    return advantage, best, weight / weight.sum()


@pytest.mark.parametrize("config", [ONE_STEP, SLOW_TARGET])
def test_the_half_and_its_weights_are_of_the_whole_batch_however_many_minibatches(config):
    """−Σ ψ log π over the better half of all rows; the mean over minibatches is that sum."""
    learner = still(beginning(config))
    rows = experience(learner.params, (T, N))
    _, best, weight = slow_e_step(learner, rows)
    metrics = updater(config)(KEY, learner, rows)[1]
    expected = -np.sum(weight * rows.log_prob.reshape(-1))
    if config == ONE_STEP:  # ψ of later epochs is at another temperature
        np.testing.assert_allclose(metrics["train/policy_gradient_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["train/policy_gradient_loss"], expected, rtol=2e-2)
    assert metrics["train/selected_fraction"] == len(best) / (T * N) == 0.5
    np.testing.assert_allclose(metrics["train/weight_max"], weight.max(), rtol=0.05)


def test_a_step_moves_the_policy_away_from_the_one_that_acted_and_the_kl_sees_it():
    """Trap 24."""
    learner = beginning(SLOW_TARGET)
    rows = experience(learner.params, (T, N))
    after, metrics = updater(SLOW_TARGET)(KEY, learner, rows)
    kl = slow_kl(float64(learner.params), float64(online(after)), rows.obs).mean()
    np.testing.assert_allclose(metrics["train/kl"], kl, rtol=1e-3)
    assert kl > 1e-4
    assert metrics["train/kl_mean"] > 1e-5 and metrics["train/kl_std"] > 1e-5, "means over the steps on the way"


@pytest.mark.slow
def test_a_large_alpha_holds_the_policy():
    """Trap 24: were the KL the policy's with itself, α would have no effect."""
    moved = {}
    for alpha in (1e-3, 1e4):
        config = replace(ONE_STEP, num_epochs=100, alpha_init=alpha, dual_learning_rate=0.0, learning_rate=3e-3)
        learner = beginning(config)
        moved[alpha] = updater(config)(KEY, learner, experience(learner.params, (T, N)))[1]["train/kl"]
    assert moved[1e4] < 0.02 * moved[1e-3]


def test_the_duals_have_no_part_in_the_networks_clip():
    """Trap 17: a gradient of η thousands of times as large, beside a gradient of the networks that is clipped."""
    learner = beginning()
    rows = experience(learner.params, (T, N))
    small, said = updater(ONE_STEP)(KEY, learner, rows)
    large, other = updater(replace(ONE_STEP, eps_eta=1e3, eps_mean=1e3))(KEY, learner, rows)
    assert said["train/grad_clipped_fraction"] == 1
    jax.tree.map(np.testing.assert_array_equal, online(large), online(small))
    assert other["train/grad_norm"] == said["train/grad_norm"]
    moments = [leaf for learner in (small, large) for leaf in jax.tree.leaves(learner.opt_state.dual_optimizer[0].mu)]
    assert abs(moments[2]) > 1e3 * abs(moments[0])


def test_the_policy_that_acts_is_renewed_at_its_period_and_not_before():
    learner = beginning(SLOW_TARGET)
    acted = learner.params
    for update in range(1, 7):
        learner, _ = updater(SLOW_TARGET)(KEY, learner, experience(learner.params, (T, N), update))
        renewed = update % SLOW_TARGET.target_period == 0
        for name, leaf in learner.params.items():
            np.testing.assert_array_equal(leaf, online(learner)[name] if renewed else acted[name])
            assert (acted[name] != online(learner)[name]).any()
        acted = learner.params
        assert learner.opt_state.age == update % SLOW_TARGET.target_period


@cache
def between_renewals():
    """A learner whose policy has learnt for one update but does not act yet, and whose duals are as at the start."""
    learner = beginning(SLOW_TARGET)
    after = still(updater(SLOW_TARGET)(KEY, learner, experience(learner.params, (T, N)))[0])
    fresh = {name: getattr(learner.opt_state, name) for name in ("duals", "dual_optimizer")}
    return after._replace(opt_state=after.opt_state._replace(**fresh))


def test_the_kl_is_measured_from_the_policy_that_acts_and_the_critic_is_the_one_that_learns():
    learner = between_renewals()
    rows = experience(learner.params, (T, N), 1)
    metrics = updater(SLOW_TARGET)(KEY, learner, rows)[1]
    parts = slow_parts(float64(learner.params), float64(online(learner)), rows.obs.reshape(-1, 3))
    for name, part in zip(("kl_mean", "kl_std"), parts, strict=True):
        np.testing.assert_allclose(metrics[f"train/{name}"], part.mean(), rtol=1e-3)
    advantage, _, _ = slow_e_step(learner, rows)
    np.testing.assert_allclose(metrics["train/value_loss"], np.mean(advantage**2) / 2, rtol=1e-4)
    assert metrics["train/ratio_max_deviation_start"] < 1e-5, "the rows are the acting policy's"


@pytest.mark.parametrize(("moved", "direction"), [(True, 1), (False, -1)])
def test_alpha_rises_while_the_kl_exceeds_its_bound_and_falls_below(moved, direction):
    """∂L_α/∂α = ε − KL: the policy has moved by more than 1e-6 nats, or not at all."""
    learner = between_renewals() if moved else still(beginning(SLOW_TARGET))
    after, metrics = updater(SLOW_TARGET)(KEY, learner, experience(learner.params, (T, N), 1))
    alpha = positive(after.opt_state.duals.alpha)
    assert (direction * (alpha - positive(learner.opt_state.duals.alpha)) > 0).all()
    np.testing.assert_allclose([metrics["train/alpha_mean"], metrics["train/alpha_std"]], alpha, rtol=1e-6)


@pytest.mark.slow
def test_the_temperature_settles_where_the_weights_are_as_far_from_uniform_as_allowed():
    """Trap 25: KL(ψ ‖ uniform) = ε_η, on one rollout with networks that stay."""
    config = replace(ONE_STEP, num_epochs=1000, eps_eta=0.1)
    learner = still(beginning(config))
    metrics = updater(config)(KEY, learner, experience(learner.params, (T, N)))[1]
    np.testing.assert_allclose(metrics["train/weight_kl"], 0.1, rtol=1e-2)


def test_discrete_actions_have_one_dual_for_the_whole_kl():
    learner = beginning(ONE_STEP, discrete=True)
    rows = experience(numpy_params(), (T, N))
    rows = rows._replace(action=(rows.action[..., 0] > 0).astype(np.int32))
    after, metrics = updater(ONE_STEP, discrete=True)(KEY, learner, rows)
    assert after.opt_state.duals.alpha.shape == (1,)
    assert {"train/kl", "train/alpha"} <= set(metrics)
    assert not {"train/kl_mean", "train/alpha_mean", "train/alpha_std"} & set(metrics)
