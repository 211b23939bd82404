"""The ONNX graph against the NumPy runtime, and what it carries."""

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from policy_gradients.deployment import load_policy, read_bundle
from policy_gradients.deployment.observations import RefusedObservation
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
    for wrong, sentence in ((np.full(5, np.nan), "NaN"), (np.zeros(4), "shape"), ([1, [2]], "not an array")):
        with pytest.raises(RefusedObservation, match=sentence):
            policy(wrong)  # type: ignore[arg-type]


def test_seeds_and_generators_are_checked_as_elsewhere(toy_bundle: Path) -> None:
    bundle = read_bundle(toy_bundle)
    model = onnx_model(bundle, stochastic=True).SerializeToString()
    with pytest.raises(UserError, match="rng should be a generator"):
        OnnxPolicy(model, bundle.description)(np.zeros(5), deterministic=False, rng=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="seed should be"):
        OnnxPolicy(model, bundle.description, seed=-1)


def test_a_model_of_another_policy_is_refused(toy_bundle: Path, make_agent: Make, tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle)
    others = [
        make_agent(NetworkConfig(hidden=()), box(-1, 1, (4,))),
        make_agent(NetworkConfig(hidden=()), box(0, 255, (5,), np.uint8)),
        make_agent(NetworkConfig(hidden=()), discrete=True),
    ]
    for i, (other, name) in enumerate(zip(others, ("obs", "obs", "action"), strict=True)):
        model = onnx_model(read_bundle(other.write(tmp_path / f"{i}"))).SerializeToString()
        with pytest.raises(UserError, match=f"not of this policy: {name} should be tensor"):
            OnnxPolicy(model, bundle.description)


def test_a_foreign_model_is_refused(toy_bundle: Path) -> None:
    description = read_bundle(toy_bundle).description
    puts = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 5]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "foreign", puts[:1], puts[1:])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    with pytest.raises(UserError, match="takes x and gives y"):
        OnnxPolicy(model, description)


def test_a_full_disk_leaves_the_model_that_was_there(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, path = read_bundle(toy_bundle), tmp_path / "out" / "policy.onnx"
    before = write_onnx(bundle, path).read_bytes()

    def fill(place: Path, data: bytes) -> int:
        with place.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(UserError, match=r"policy\.onnx cannot be written: No space left on device\."):
        write_onnx(bundle, path)
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == ["policy.onnx"]


def test_a_link_stays_one_and_a_device_is_not_replaced(toy_bundle: Path, tmp_path: Path) -> None:
    bundle, link = read_bundle(toy_bundle), tmp_path / "link.onnx"
    link.symlink_to("real.onnx")
    write_onnx(bundle, link)
    assert link.is_symlink() and (tmp_path / "real.onnx").is_file()
    write_onnx(bundle, "/dev/null")
    assert not Path("/dev/null").is_file()


def test_threads_may_act_with_one_session(toy_bundle: Path, hasty_threads: None) -> None:
    bundle = read_bundle(toy_bundle)
    policy = OnnxPolicy(onnx_model(bundle).SerializeToString(), bundle.description)
    obs = np.random.default_rng(0).standard_normal((2000, 5))
    expected = [policy(row) for row in obs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(policy, obs, chunksize=7))
    np.testing.assert_array_equal(found, expected)


def test_a_damaged_model_is_refused(toy_bundle: Path) -> None:
    for model in (b"nonsense", b"", "/nowhere.onnx"):
        with pytest.raises(UserError, match="cannot load the model") as caught:
            OnnxPolicy(model, read_bundle(toy_bundle).description)
        assert str(caught.value)[-1] == "." and not str(caught.value).endswith((". .", ".."))


LAUGHS = f"a: [&a0 [x], {', '.join(f'&a{i + 1} [' + ', '.join([f'*a{i}'] * 9) + ']' for i in range(9))}]"


@pytest.mark.parametrize(
    "text",
    [
        "- a", "a: {b: 1}", "a: [[1]]", "1: a", "a: !!python/object/apply:os.getcwd []", "a: [", "\x00",
        "a: 2020-99-99", "a: 2020-01-01", "a: !!int 'x'", "a: !!bool x", "a: !!timestamp x", "a: " + "1" * 5000,
        "a: 0x" + "f" * 5000, "[" * 20_000, r'a: "\ud800"', r'"\udfff": 1', "a: &a [*a]", f"a: [[{'x, ' * 9999}]]",
        LAUGHS,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_metadata_that_is_no_plain_yaml_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "meta.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_metadata(tmp_path / "meta.yaml")
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.encode() and len(sentence.partition("meta.yaml")[2]) < 250


def test_metadata_comes_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "meta.yaml").write_text("joint_names: [hip, knee]\naction_scale: [0.5, 0.25]\nrobot: biped\n")
    assert read_metadata(tmp_path / "meta.yaml") == {
        "joint_names": ["hip", "knee"], "action_scale": [0.5, 0.25], "robot": "biped",
    }  # fmt: skip
