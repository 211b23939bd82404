"""PPO's loss against a slow transcription of the paper's sums in NumPy float64."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.algorithms.ppo import LOSS_METRICS, ppo_loss
from policy_gradients.distributions import Normal
from policy_gradients.estimation.batches import Batch
from policy_gradients.types import ActorCritic

OBS, ACT, B = 3, 2, 40
TERMS = {
    "policy": PPOConfig(value_coef=0.0),
    "value": PPOConfig(value_coef=0.7),
    "clipped value": PPOConfig(value_coef=0.7, value_clip_eps=0.3),
    "entropy": PPOConfig(value_coef=0.0, entropy_coef=0.1),
    "all": PPOConfig(clip_eps=0.1, value_coef=0.5, value_clip_eps=0.2, entropy_coef=0.01),
}


def policy(params, obs):
    mean = obs @ params["weight"]
    return Normal(mean, jnp.broadcast_to(params["log_std"][None], mean.shape))


AGENT = ActorCritic(
    jax.ShapeDtypeStruct((OBS,), jnp.float32), lambda key: None, policy, lambda p, obs: obs @ p["value"]
)


@cache
def example() -> tuple[dict[str, np.ndarray], Batch]:
    """Parameters and a batch in float64: ratios on both sides of the clip, and dummy rows full of nonsense."""
    rng = np.random.default_rng(0)
    params = {"weight": rng.normal(size=(OBS, ACT)), "log_std": np.array([-0.5, 0.3]), "value": rng.normal(size=OBS)}
    obs = rng.normal(size=(B, OBS))
    action = obs @ params["weight"] + np.exp(params["log_std"]) * rng.normal(size=(B, ACT))
    log_prob = np.array([gaussian_log_prob(params, s, a) for s, a in zip(obs, action, strict=True)])
    value = obs @ params["value"]
    valid = rng.random(B) > 0.2
    real = lambda x: np.where(valid, x, 1e3)  # noqa: E731
    batch = Batch(
        obs,
        action,
        log_prob=log_prob + 0.3 * rng.normal(size=B),
        advantage=real(rng.normal(size=B)),
        target=real(value + rng.normal(size=B)),
        value=value + 0.4 * rng.normal(size=B),
        valid=valid,
    )
    return params, batch


def gaussian_log_prob(params, s, a):
    total = 0.0
    for mean, log_std, coordinate in zip(s @ params["weight"], params["log_std"], a, strict=True):
        total += -0.5 * ((coordinate - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    return total


def slow_loss(config, params, batch):
    """The loss and its parts, row by row, in the words of the paper."""
    rows = []
    for s, a, old_log_prob, advantage, target, old_value, valid in zip(*batch, strict=True):
        if not valid:
            continue
        ratio = np.exp(gaussian_log_prob(params, s, a) - old_log_prob)
        surrogate = min(ratio * advantage, np.clip(ratio, 1 - config.clip_eps, 1 + config.clip_eps) * advantage)
        value = s @ params["value"]
        error = (value - target) ** 2
        if config.value_clip_eps is not None:
            near = old_value + np.clip(value - old_value, -config.value_clip_eps, config.value_clip_eps)
            error = max(error, (near - target) ** 2)
        rows.append((-surrogate, error / 2, abs(ratio - 1) > config.clip_eps, ratio - 1 - np.log(ratio)))
    parts = np.mean(rows, axis=0, dtype=np.float64)
    entropy = sum(log_std + 0.5 * (1 + np.log(2 * np.pi)) for log_std in params["log_std"])
    return parts[0] + config.value_coef * parts[1] - config.entropy_coef * entropy, parts


@cache
def compiled(config):
    return jax.jit(jax.value_and_grad(partial(ppo_loss, AGENT, config), has_aux=True))


@cache
def loss_and_gradient(terms):
    single = partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.bool_ if x.dtype == bool else jnp.float32))
    params, batch = example()
    return compiled(TERMS[terms])(single(params), single(batch))


@pytest.mark.parametrize("terms", TERMS)
def test_the_loss_and_its_parts_are_the_papers_sums(terms):
    (loss, parts), _ = loss_and_gradient(terms)
    expected, expected_parts = slow_loss(TERMS[terms], *example())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(parts, expected_parts, rtol=1e-5, err_msg=str(LOSS_METRICS))
    assert 0.1 < expected_parts[2] < 0.9, "ratios lie on both sides of the clip"


@pytest.mark.parametrize("terms", TERMS)
def test_the_gradient_is_that_of_finite_differences(terms):
    """Trap 36: the sign of the entropy, and each coefficient on its own term."""
    gradient = loss_and_gradient(terms)[1]
    params, batch = example()
    for name, leaf in params.items():
        for index in np.ndindex(leaf.shape):
            step = np.zeros_like(leaf)
            step[index] = 1e-5
            ahead, behind = (slow_loss(TERMS[terms], params | {name: leaf + s}, batch)[0] for s in (step, -step))
            expected = (ahead - behind) / 2e-5
            np.testing.assert_allclose(gradient[name][index], expected, rtol=1e-4, atol=1e-5, err_msg=f"{name}{index}")


def test_the_entropy_bonus_pushes_the_standard_deviation_up():
    """Trap 36: ∂H/∂ log σ = 1 in each coordinate, and the loss is minimised."""
    with_bonus, without = loss_and_gradient("entropy")[1], loss_and_gradient("policy")[1]
    np.testing.assert_allclose(with_bonus["log_std"] - without["log_std"], -0.1, atol=1e-6)
    np.testing.assert_allclose(with_bonus["weight"], without["weight"], atol=1e-6)


def test_the_policys_loss_does_not_reach_the_critic_nor_the_critics_the_policy():
    """Trap 37: advantages, targets and old values are data."""
    policy_alone, both = loss_and_gradient("policy")[1], loss_and_gradient("value")[1]
    assert not policy_alone["value"].any()
    assert both["value"].any()
    np.testing.assert_array_equal(both["weight"], policy_alone["weight"])
    np.testing.assert_array_equal(both["log_std"], policy_alone["log_std"])


def one_row(config, ratio=1.0, advantage=0.0, value=0.0, target=0.0):
    """The loss and gradient of one row with s = 1, a = 1, μ = 0, σ = 1, V = `value` and V_old = 0."""
    array = lambda *x: np.array(x, np.float32)  # noqa: E731
    params = {"weight": array([0.0]), "log_std": array(0.0), "value": array(value)}
    old_log_prob = array(-0.5 - 0.5 * np.log(2 * np.pi) - np.log(ratio))
    row = Batch(array([1.0]), array([1.0]), old_log_prob, array(advantage), array(target), array(0.0), np.ones(1, bool))
    return compiled(config)(params, row)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, 1.0, True), (0.5, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_a_sample_that_has_gone_far_enough_pulls_no_further(ratio, advantage, moves):
    """The minimum is pessimistic: what has become worse than clipped still pulls back."""
    gradient = one_row(TERMS["policy"], ratio=ratio, advantage=advantage)[1]
    assert bool(gradient["weight"].any()) == moves


@pytest.mark.parametrize(("target", "squared_error"), [(2.0, (0.2 - 2.0) ** 2), (0.5, (1.0 - 0.5) ** 2)])
def test_a_clipped_value_counts_the_larger_of_both_errors(target, squared_error):
    """V_old = 0 and V = 1 with ε_V = 0.2: the clipped value is 0.2."""
    (_, parts), _ = one_row(TERMS["all"], value=1.0, target=target)
    np.testing.assert_allclose(parts[1], squared_error / 2, rtol=1e-6)
