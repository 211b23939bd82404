"""The ONNX graph against the NumPy runtime, and what it carries."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from policy_gradients.deployment import load_policy, read_bundle
from policy_gradients.environments.base import box
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from policy_gradients.deployment.onnx import onnx_model, read_metadata, write_onnx  # noqa: E402, after the skip
from policy_gradients.deployment.onnx_policy import OnnxPolicy  # noqa: E402

Agent: TypeAlias = Any  # of conftest.py
Make: TypeAlias = Callable[..., Agent]
PIXELS = box(0, 255, (44, 40, 3), np.uint8)


def observations(agent: Agent, count: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    if agent.spec.obs_space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *agent.spec.obs_space.shape), np.uint8)
    return (3 + 30 * rng.standard_normal((count, *agent.spec.obs_space.shape))).astype(np.float32)


def assert_agrees(agent: Agent, folder: Path, count: int = 200) -> None:
    """Plain, stochastic and telling graphs give what NumPy gives."""
    path, obs = agent.write(folder), observations(agent, count)
    bundle, numpy_policy = read_bundle(path), load_policy(path)
    plain = OnnxPolicy(onnx_model(bundle).SerializeToString(), bundle.description)
    assert plain(obs).dtype == numpy_policy(obs).dtype
    np.testing.assert_allclose(plain(obs), numpy_policy(obs), rtol=0, atol=1e-5)
    one_by_one = [plain(row) for row in obs[:5]]
    assert type(one_by_one[0]) is type(numpy_policy(obs[0]))
    np.testing.assert_allclose(one_by_one, numpy_policy(obs[:5]), rtol=0, atol=1e-5)
    drawing = OnnxPolicy(onnx_model(bundle, stochastic=True, distribution=True).SerializeToString(), bundle.description)
    np.testing.assert_allclose(drawing(obs), numpy_policy(obs), rtol=0, atol=1e-5)
    drawn = drawing(obs, deterministic=False, rng=np.random.default_rng(1))
    expected = numpy_policy(obs, deterministic=False, rng=np.random.default_rng(1))
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-5)
    assert (drawn != drawing(obs)).any()
    drawn = [drawing(row, deterministic=False, rng=np.random.default_rng(i)) for i, row in enumerate(obs[:5])]
    expected = [numpy_policy(row, deterministic=False, rng=np.random.default_rng(i)) for i, row in enumerate(obs[:5])]
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("distribution", "action_map"),
    [("normal", "clip"), ("normal", "none"), ("tanh_normal", "tanh"), ("categorical", "")],
)
def test_onnx_agrees_with_numpy(make_agent: Make, distribution: str, action_map: str, tmp_path: Path) -> None:
    network = NetworkConfig(hidden=(9, 7), distribution=distribution)  # type: ignore[arg-type]
    assert_agrees(make_agent(network, None, distribution == "categorical", action_map), tmp_path / "policy")


@pytest.mark.parametrize("activation", ["relu", "elu", "gelu", "silu", "leaky_relu", "softplus"])
def test_every_activation_agrees(make_agent: Make, activation: str, tmp_path: Path) -> None:
    assert_agrees(make_agent(NetworkConfig(hidden=(7,), activation=activation)), tmp_path / "policy")  # type: ignore[arg-type]


def test_a_cnn_agrees(make_agent: Make, tmp_path: Path) -> None:
    assert_agrees(make_agent(NetworkConfig(hidden=(8,)), PIXELS, discrete=True), tmp_path / "policy", 20)


@pytest.mark.parametrize("shape", [(6,), (4, 3), (28, 28, 1), (2, 3, 2, 2)])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_pixels_flattened_into_a_perceptron_agree(
    make_agent: Make, shape: tuple[int, ...], hidden: tuple[int, ...], tmp_path: Path
) -> None:
    assert_agrees(make_agent(NetworkConfig(hidden=hidden), box(0, 255, shape, np.uint8)), tmp_path / "policy", 20)


def test_float_images_agree(make_agent: Make, tmp_path: Path) -> None:
    assert_agrees(make_agent(NetworkConfig(hidden=(4,)), box(-1, 1, (40, 36, 3))), tmp_path / "policy", 20)


def test_layer_norm_a_state_dependent_std_and_a_raw_clip_agree(make_agent: Make, tmp_path: Path) -> None:
    network = NetworkConfig(hidden=(8, 6), layer_norm=True, state_dependent_std=True, log_std_range=(-0.6, 0.2))
    agent = make_agent(network)
    assert_agrees(agent._replace(spec=replace(agent.spec, obs_clip=5.0)), tmp_path / "policy")


def test_the_graph_says_what_field_runtimes_read(toy: Agent, tmp_path: Path) -> None:
    bundle = read_bundle(toy.write(tmp_path / "policy", config_hash="ab12"))
    model = onnx_model(bundle, metadata={"joint_names": ["a", "b", "c"], "kp": 1.5})
    said = {each.key: each.value for each in model.metadata_props}
    assert said["observation_names"] == "joint_0,joint_1,joint_2,joint_3,joint_4"
    assert (said["dt"], said["environment"], said["config_hash"]) == ("0.05", "Toy-v0", "ab12")
    assert (said["joint_names"], said["kp"]) == ("a,b,c", "1.5")
    assert model.ir_version == 8 and model.opset_import[0].version == 17
    assert [put.name for put in model.graph.input] == ["obs"] and [put.name for put in model.graph.output] == ["action"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_distribution_is_put_out_on_request(toy_bundle: Path, make_agent: Make, tmp_path: Path) -> None:
    model = onnx_model(read_bundle(toy_bundle), distribution=True)
    assert [put.name for put in model.graph.output] == ["action", "mean", "log_std"]
    discrete = read_bundle(make_agent(NetworkConfig(hidden=()), discrete=True).write(tmp_path / "other"))
    assert [put.name for put in onnx_model(discrete, distribution=True).graph.output] == ["action", "logits"]


def test_a_deterministic_graph_draws_nothing(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle)
    policy = OnnxPolicy(write_onnx(bundle, tmp_path / "new" / "policy.onnx"), bundle.description)
    with pytest.raises(UserError, match="--stochastic"):
        policy(np.zeros(5), deterministic=False)


def test_observations_are_refused_as_elsewhere(toy_bundle: Path) -> None:
    bundle = read_bundle(toy_bundle)
    policy = OnnxPolicy(onnx_model(bundle).SerializeToString(), bundle.description)
    for wrong, sentence in ((np.full(5, np.nan), "NaN"), (np.zeros(4), "shape")):
        with pytest.raises(UserError, match=sentence):
            policy(wrong)


def test_threads_may_act_with_one_session(toy_bundle: Path, hasty_threads: None) -> None:
    bundle = read_bundle(toy_bundle)
    policy = OnnxPolicy(onnx_model(bundle).SerializeToString(), bundle.description)
    obs = np.random.default_rng(0).standard_normal((2000, 5))
    expected = [policy(row) for row in obs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(policy, obs, chunksize=7))
    np.testing.assert_array_equal(found, expected)


def test_a_damaged_model_is_refused(toy_bundle: Path) -> None:
    with pytest.raises(UserError, match="cannot load the model"):
        OnnxPolicy(b"nonsense", read_bundle(toy_bundle).description)


@pytest.mark.parametrize(
    "text", ["- a", "a: {b: 1}", "a: [[1]]", "1: a", "a: !!python/object/apply:os.getcwd []", "a: [", "\x00"]
)
def test_metadata_that_is_no_plain_yaml_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "meta.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_metadata(tmp_path / "meta.yaml")
    assert "\n" not in str(caught.value)


def test_metadata_comes_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "meta.yaml").write_text("joint_names: [hip, knee]\naction_scale: [0.5, 0.25]\nrobot: biped\n")
    assert read_metadata(tmp_path / "meta.yaml") == {
        "joint_names": ["hip", "knee"], "action_scale": [0.5, 0.25], "robot": "biped",
    }  # fmt: skip
