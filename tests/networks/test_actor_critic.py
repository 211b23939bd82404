"""The policy and the critic that a configuration builds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.distributions import Categorical, Normal, TanhNormal
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig, actor_critic
from policy_gradients.networks.actor_critic import resolve_distribution, resolve_features

KEY = jax.random.key(0)
VECTOR = jax.ShapeDtypeStruct((5,), jnp.float32)
PIXELS = jax.ShapeDtypeStruct((36, 36, 2), jnp.uint8)


def build(obs=VECTOR, num_actions=None, **config):
    agent = make(obs, num_actions, **config)
    return agent, jax.jit(agent.init)(KEY)


def make(obs=VECTOR, num_actions=None, **config):
    return actor_critic(obs, (3,), num_actions, NetworkConfig(**{"hidden": (8, 4), **config}))


def shapes(params):
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
@pytest.mark.parametrize("shared_torso", [False, True])
@pytest.mark.parametrize(
    ("config", "num_actions", "kind", "event"),
    [
        ({}, None, Normal, (3,)),
        ({"state_dependent_std": True}, None, Normal, (3,)),
        ({"distribution": "tanh_normal"}, None, TanhNormal, (3,)),
        ({}, 6, Categorical, ()),
    ],
)
def test_policy_and_value_keep_the_batch_axes(config, num_actions, kind, event, shared_torso, batch):
    agent = make(num_actions=num_actions, shared_torso=shared_torso, **config)
    params, obs = jax.eval_shape(agent.init, KEY), jax.ShapeDtypeStruct((*batch, 5), jnp.float32)
    assert isinstance(jax.eval_shape(agent.policy, params, obs), kind)
    assert jax.eval_shape(lambda params, obs: agent.policy(params, obs).mode(), params, obs).shape == (*batch, *event)
    assert jax.eval_shape(agent.value, params, obs).shape == batch


def test_separate_networks_share_no_parameter():
    agent, params = build(value_hidden=(16,))
    assert set(params) == {"policy", "value"}
    obs = jnp.ones((2, 5))
    heads = {"value": lambda p: agent.value(p, obs).sum(), "policy": lambda p: agent.policy(p, obs).mode().sum()}
    for name, other in (("value", "policy"), ("policy", "value")):
        gradient = jax.jit(jax.grad(heads[name]))(params)
        assert all(leaf.any() for leaf in jax.tree.leaves(gradient[name]["torso"]))
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient[other]))
    assert params["value"]["torso"]["0"]["weight"].shape == (5, 16)
    assert params["policy"]["torso"]["1"]["weight"].shape == (8, 4)


def test_a_shared_torso_learns_from_both_heads():
    agent, params = build(shared_torso=True)
    assert set(params) == {"torso", "policy", "value"}
    obs = jnp.ones((2, 5))
    for head in (lambda p: agent.value(p, obs).sum(), lambda p: agent.policy(p, obs).mode().sum()):
        assert jax.jit(jax.grad(head))(params)["torso"]["0"]["weight"].any()


def test_heads_start_with_their_gains():
    _, params = build(policy_gain=0.01, value_gain=1.0)
    for name, gain in (("policy", 0.01), ("value", 1.0)):
        singular_values = np.linalg.svd(params[name]["head"]["weight"], compute_uv=False)
        np.testing.assert_allclose(singular_values, gain, rtol=1e-5)
    np.testing.assert_allclose(
        np.linalg.svd(params["policy"]["torso"]["0"]["weight"], compute_uv=False), np.sqrt(2), rtol=1e-5
    )


def test_the_policy_starts_near_the_middle_of_the_action_range():
    agent, params = build(log_std_init=-0.5)
    policy = agent.policy(params, jax.random.normal(KEY, (100, 5)))
    assert np.abs(policy.mean).max() < 0.05
    np.testing.assert_allclose(policy.log_std, -0.5)


def test_a_free_deviation_does_not_depend_on_the_state_and_is_learnt():
    agent, params = build()
    obs = jax.random.normal(KEY, (4, 5))
    assert shapes(params["policy"])["['log_std']"] == (3,)
    gradient = jax.jit(jax.grad(lambda p: agent.policy(p, obs).entropy().mean()))(params)
    assert gradient["policy"]["log_std"].tolist() == [1, 1, 1]
    params["policy"]["log_std"] = jnp.array([-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(agent.policy(params, obs).log_std, np.tile([-1, 0, 1], (4, 1)))


def test_a_state_dependent_deviation_is_an_output_of_the_policys_head():
    agent, params = build(state_dependent_std=True, log_std_init=-0.7, policy_gain=1.0)
    assert params["policy"]["head"]["weight"].shape == (4, 6)
    assert "log_std" not in params["policy"]
    policy = agent.policy(params, jax.random.normal(KEY, (50, 5)))
    assert policy.log_std.shape == (50, 3)
    assert np.ptp(policy.log_std, axis=0).min() > 0.1
    np.testing.assert_allclose(agent.policy(params, jnp.zeros((1, 5))).log_std, -0.7, rtol=1e-6)


def test_the_deviation_stays_within_its_bounds():
    agent, params = build(log_std_range=(-5.0, 2.0))
    params["policy"]["log_std"] = jnp.array([-90.0, 0.0, 90.0])
    assert agent.policy(params, jnp.zeros((1, 5))).log_std[0].tolist() == [-5, 0, 2]


def test_layer_normalisation_adds_a_scale_and_an_offset_to_every_hidden_layer():
    _, params = build(layer_norm=True)
    for torso in (params["policy"]["torso"], params["value"]["torso"]):
        assert [torso[i]["norm"]["scale"].shape for i in ("0", "1")] == [(8,), (4,)]


def test_pixels_go_through_the_cnn_and_the_layers_behind_it():
    agent = actor_critic(PIXELS, (), 4, NetworkConfig(hidden=(7,), shared_torso=True))
    params = jax.eval_shape(agent.init, KEY)
    assert params["torso"]["cnn"]["dense"]["weight"].shape == (64, 512)
    assert params["torso"]["0"]["weight"].shape == (512, 7)
    pixels = jax.ShapeDtypeStruct((2, 3, 36, 36, 2), jnp.uint8)
    assert jax.eval_shape(agent.policy, params, pixels).logits.shape == (2, 3, 4)
    assert jax.eval_shape(agent.value, params, pixels).shape == (2, 3)


def test_a_perceptron_takes_observations_of_any_rank_flattened():
    agent, params = build(jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert params["policy"]["torso"]["0"]["weight"].shape == (6, 8)
    assert agent.value(params, jnp.zeros((4, 2, 3))).shape == (4,)


def test_all_parameters_are_float32_and_drawn_from_the_key():
    agent, params = build(layer_norm=True, state_dependent_std=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    init = jax.jit(agent.init)
    jax.tree.map(np.testing.assert_array_equal, params, init(KEY))
    other = init(jax.random.key(1))
    assert not np.array_equal(other["policy"]["torso"]["0"]["weight"], params["policy"]["torso"]["0"]["weight"])
    first_layers = [params[name]["torso"]["0"]["weight"] for name in ("policy", "value")]
    assert not np.array_equal(*first_layers), "policy and critic draw from different keys"


def test_a_distribution_that_does_not_fit_the_actions_is_refused():
    assert resolve_distribution("auto", discrete=True) == "categorical"
    assert resolve_distribution("auto", discrete=False) == "normal"
    with pytest.raises(UserError, match="normal does not fit Discrete actions; use categorical"):
        build(num_actions=3, distribution="normal")
    with pytest.raises(UserError, match="categorical does not fit Box actions"):
        build(distribution="categorical")


@pytest.mark.parametrize(
    ("shape", "dtype", "features"),
    [
        ((36, 36, 1), np.uint8, "cnn"),
        ((84, 84, 4), np.uint8, "cnn"),
        ((35, 84, 4), np.uint8, "mlp"),
        ((64, 20, 3), np.uint8, "mlp"),
        ((7, 7, 3), np.uint8, "mlp"),
        ((84, 84, 4), np.float32, "mlp"),
        ((12, 12, 3), np.float32, "mlp"),
        ((84, 84, 4, 2), np.uint8, "mlp"),
        ((128,), np.uint8, "mlp"),
    ],
)
def test_only_uint8_images_large_enough_for_it_get_the_cnn_by_themselves(shape, dtype, features):
    assert resolve_features("auto", shape, dtype) == features
    params = jax.eval_shape(make(jax.ShapeDtypeStruct(shape, dtype)).init, KEY)
    assert ("cnn" in params["policy"]["torso"]) == (features == "cnn")
    assert all(0 not in leaf.shape for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("shape", [(28, 28, 1), (35, 36, 3), (64, 20, 3), (7, 7, 3)])
def test_a_cnn_on_images_too_small_for_it_is_refused(shape):
    with pytest.raises(UserError, match=r"at least 36 × 36.*--network\.features mlp"):
        build(jax.ShapeDtypeStruct(shape, jnp.uint8), features="cnn")


@pytest.mark.parametrize("obs", [VECTOR, jax.ShapeDtypeStruct((84, 84, 4), jnp.float32)])
def test_a_cnn_on_anything_but_uint8_images_is_refused(obs):
    with pytest.raises(UserError, match=r"cnn expects uint8 images .* float32 .*--network\.features mlp"):
        build(obs, features="cnn")


@pytest.mark.parametrize("shape", [(6,), (4, 3), (7, 7, 3), (2, 3, 2, 2)])
@pytest.mark.parametrize("features", ["auto", "mlp"])
def test_a_perceptron_divides_uint8_by_255_and_floats_by_nothing(shape, features):
    agent, params = build(jax.ShapeDtypeStruct(shape, jnp.uint8), features=features)
    floats = make(jax.ShapeDtypeStruct(shape, jnp.float32))
    bytes_ = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    shares = jnp.asarray(bytes_, jnp.float32) / 255
    np.testing.assert_allclose(agent.value(params, jnp.asarray(bytes_)), floats.value(params, shares), rtol=1e-6)
    np.testing.assert_allclose(
        agent.policy(params, jnp.asarray(bytes_)).mean, floats.policy(params, shares).mean, rtol=1e-6, atol=1e-8
    )
