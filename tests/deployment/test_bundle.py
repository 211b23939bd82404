"""The bundle: what is written, and every way in which reading refuses."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from policy_gradients.deployment import bundle as bundle_module
from policy_gradients.deployment import load_policy, read_bundle
from policy_gradients.deployment import storage as storage_module
from policy_gradients.deployment.golden import golden_error
from policy_gradients.environments.base import box
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig

Agent: TypeAlias = Any  # of conftest.py
Rewrite: TypeAlias = Callable[[Path, Callable[[dict[str, Any]], Any]], None]


def refusal(folder: Path) -> str:
    """The sentence with which reading refuses."""
    with pytest.raises(UserError) as caught:
        read_bundle(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence[-1] in ".?" and len(sentence) < 400
    return sentence


def change_tensors(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = {key: array.copy() for key, array in safetensors.numpy.load_file(folder / name).items()}
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / name)


def test_a_bundle_says_what_the_policy_is(toy: Agent, tmp_path: Path) -> None:
    folder = toy.write(tmp_path / "policy", total_timesteps=10**10, mean_reward=float("nan"), config_hash="ab12")
    assert sorted(file.name for file in folder.iterdir()) == ["golden.safetensors", "policy.json", "policy.safetensors"]
    description = read_bundle(folder).description
    assert (description.environment.id, description.environment.dt) == ("Toy-v0", 0.05)
    assert description.environment.versions == {"toy": "1.0"}
    assert description.observation.shape == (5,)
    assert description.observation.low == (None,)
    assert description.observation.names == tuple(f"joint_{i}" for i in range(5))
    assert (description.action.map, description.action.shape) == ("clip", (3,))
    assert description.action.low == tuple(float(np.float32(x)) for x in (-0.4, -3.0, 0.5))
    assert description.network.hidden == (8, 6)
    assert description.normalizer is not None and description.normalizer.clip == 10.0
    provenance = description.provenance
    assert (provenance["algorithm"], provenance["seed"], provenance["total_timesteps"]) == ("ppo", 3, 10**10)
    assert provenance["mean_reward"] is None and provenance["config_hash"] == "ab12"
    assert provenance["versions"]["numpy"] == np.__version__


def test_the_critic_stays_behind(toy: Agent, toy_bundle: Path) -> None:
    tensors = read_bundle(toy_bundle).tensors
    assert {name.partition("/")[0] for name in tensors} == {"torso", "head", "log_std", "normalizer"}
    np.testing.assert_array_equal(tensors["head/weight"], toy.params["policy"]["head"]["weight"])


def test_golden_vectors_hold_what_jax_answers(toy: Agent, toy_bundle: Path) -> None:
    golden = read_bundle(toy_bundle).golden
    moments = toy.statistics.obs
    mean, std = np.asarray(moments.mean), np.sqrt(np.asarray(moments.var) + np.float32(1e-8))
    inputs = np.clip((golden["obs"] - mean) / std, -10, 10)
    expected = jax.jit(toy.networks.policy)(toy.params, jnp.asarray(inputs))
    assert len(golden["obs"]) >= 64
    assert (np.abs(inputs) == 10).all(axis=-1).any()  # extremes that the normaliser clips are among them
    np.testing.assert_allclose(golden["mean"], expected.mean, atol=1e-5)
    np.testing.assert_allclose(golden["log_std"], expected.log_std, atol=1e-5)
    np.testing.assert_array_equal(golden["action"], load_policy(toy_bundle)(golden["obs"]))


@pytest.mark.parametrize("kind", ["box", "discrete", "pixels"])
def test_golden_vectors_find_a_changed_weight(kind: str, make_agent: Callable[..., Agent], tmp_path: Path) -> None:
    obs = box(0, 255, (36, 36, 1), np.uint8) if kind == "pixels" else None
    agent = make_agent(NetworkConfig(hidden=(4,)), obs, discrete=kind == "discrete")
    bundle = read_bundle(agent.write(tmp_path / "policy"))
    assert golden_error(*bundle) <= 1e-6
    bundle.tensors["head/bias"][1] += 0.01
    assert golden_error(*bundle) > 1e-3


def test_a_bundle_is_replaced_whole(toy: Agent, toy_bundle: Path) -> None:
    toy._replace(params=jax.tree.map(lambda leaf: 2 * leaf, toy.params)).write(toy_bundle)
    assert read_bundle(toy_bundle).tensors["log_std"][0] == 2 * toy.params["policy"]["log_std"][0]
    assert [file.name for file in toy_bundle.parent.iterdir()] == ["policy"]


def test_a_failed_write_leaves_the_old_bundle(toy: Agent, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        toy.write(toy_bundle)
    monkeypatch.undo()
    assert read_bundle(toy_bundle).tensors
    assert [file.name for file in toy_bundle.parent.iterdir()] == ["policy"]


def test_a_folder_that_is_no_bundle_is_never_replaced(toy: Agent, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(UserError, match="is not a policy bundle"):
        toy.write(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "ten years of work"


def test_parameters_of_another_network_are_not_written(toy: Agent, tmp_path: Path) -> None:
    for params in ({"w": jnp.zeros(3)}, jnp.zeros(3), {**toy.params, "torso": {}}):
        with pytest.raises(UserError, match="not those of the network described"):
            toy._replace(params=params).write(tmp_path / "policy")
    with pytest.raises(UserError, match=r"torso/0/weight should be float32 \(5, 9\), not float32 \(5, 8\)"):
        toy._replace(network=NetworkConfig(hidden=(9, 6))).write(tmp_path / "policy")


def test_a_diverged_policy_is_not_written(toy: Agent, tmp_path: Path) -> None:
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, toy.params)
    with pytest.raises(UserError, match="NaN or an infinity"):
        toy._replace(params=params).write(tmp_path / "policy")


def test_a_run_folder_stands_for_its_bundle(toy_bundle: Path) -> None:
    assert load_policy(toy_bundle.parent)(np.zeros(5)).shape == (3,)


def test_a_missing_bundle_or_file_is_named(toy_bundle: Path) -> None:
    assert "there is no policy.json" in refusal(toy_bundle.parent / "nowhere")
    (toy_bundle / "policy.safetensors").unlink()
    assert "there is no policy.safetensors" in refusal(toy_bundle)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors", "golden.safetensors"])
def test_a_truncated_file_is_refused(toy_bundle: Path, name: str) -> None:
    data = (toy_bundle / name).read_bytes()
    for length in (0, 1, 7, 100, len(data) // 2, len(data) - 2):
        (toy_bundle / name).write_bytes(data[:length])
        assert ("damaged" if name == "policy.json" else "cut off") in refusal(toy_bundle)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors", "golden.safetensors"])
def test_a_flipped_bit_is_refused_wherever_it_is(toy_bundle: Path, name: str) -> None:
    data = (toy_bundle / name).read_bytes()
    rng = np.random.default_rng(0)
    for position, bit in zip(rng.integers(0, len(data), 100), rng.integers(0, 8, 100), strict=True):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        (toy_bundle / name).write_bytes(flipped)
        if name != "policy.json" or not _same_json(data, flipped):
            refusal(toy_bundle)


def _same_json(data: bytes, other: bytes | bytearray) -> bool:
    try:
        return json.loads(data) == json.loads(other)
    except ValueError:
        return False


def test_a_wrong_hash_is_refused(toy_bundle: Path) -> None:
    for name in ("policy.safetensors", "golden.safetensors"):
        data = (toy_bundle / name).read_bytes()
        (toy_bundle / name).write_bytes(bytes(len(data)))
        assert "sha256" in refusal(toy_bundle)
        (toy_bundle / name).write_bytes(data)


def test_a_newer_version_asks_for_an_upgrade(toy_bundle: Path, rewrite: Rewrite) -> None:
    rewrite(toy_bundle, lambda document: document.update(format_version=2, anything="new"))
    assert "has format version 2, but this policy-gradients reads up to 1; upgrade it" in refusal(toy_bundle)


def test_an_edited_description_is_refused(toy_bundle: Path) -> None:
    text = (toy_bundle / "policy.json").read_text()
    (toy_bundle / "policy.json").write_text(text.replace('"clip": 10.0', '"clip": 5.0'))
    assert "was changed after it was written" in refusal(toy_bundle)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["policy.safetensors", "golden.safetensors"])
def test_a_non_finite_number_is_refused(toy_bundle: Path, rewrite: Rewrite, name: str, value: float) -> None:
    tensor = "torso/1/weight" if name.startswith("policy") else "action"
    change_tensors(toy_bundle, name, lambda tensors: tensors[tensor].__setitem__((2, 1), value))
    rewrite(toy_bundle, lambda document: None)
    assert "NaN or an infinity" in refusal(toy_bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({name: array[:63] for name, array in t.items()}),
        lambda t: t.update(obs=t["obs"][:, :4].copy()),
        lambda t: t.update(mean=t["mean"].astype(np.float64)),
        lambda t: t.pop("log_std"),
        lambda t: t.pop("obs"),
        lambda t: t.update(obs=np.zeros((), np.float32)),
    ],
)
def test_golden_vectors_that_do_not_fit_are_refused(
    toy_bundle: Path, rewrite: Rewrite, change: Callable[[dict], Any]
) -> None:
    change_tensors(toy_bundle, "golden.safetensors", change)
    rewrite(toy_bundle, lambda document: None)
    assert "the golden vectors do not fit" in refusal(toy_bundle)


def test_a_number_that_json_does_not_have_is_refused(toy_bundle: Path, rewrite: Rewrite) -> None:
    rewrite(toy_bundle, lambda document: document["provenance"].update(seed=float("nan")))
    assert "NaN is not a JSON number" in refusal(toy_bundle)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.update({"head/weight": t["head/weight"].T.copy()}), r"head/weight should be float32 (6, 3)"),
        (lambda t: t.update({"head/bias": t["head/bias"].astype(np.float64)}), "not float64 (3,)"),
        (lambda t: t.pop("log_std"), "log_std is missing or unknown"),
        (lambda t: t.update({"backdoor": np.zeros(3)}), "backdoor is missing or unknown"),
        (lambda t: t["normalizer/var"].__setitem__(0, -1), "negative variance"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    toy_bundle: Path, rewrite: Rewrite, change: Callable[[dict], Any], sentence: str
) -> None:
    change_tensors(toy_bundle, "policy.safetensors", change)
    rewrite(toy_bundle, lambda document: None)
    assert sentence in refusal(toy_bundle)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["network"].update(activation="relux"), "network.activation: expected one of tanh, relu"),
        (lambda d: d["network"].update(widths=[1]), "network.widths: no such key"),
        (lambda d: d["network"].update(hiden=[8, 6]), "Did you mean 'hidden'?"),
        (lambda d: d["network"].pop("hidden"), "network.hidden: this key is missing"),
        (lambda d: d["network"].update(hidden=["8", 6]), "network.hidden[0]: expected int, not '8'"),
        (lambda d: d["network"].update(hidden=[-8, 6]), "network.hidden cannot be (-8, 6)"),
        (lambda d: d["network"].update(hidden=[1 << 20, 1 << 20]), "cannot be more than"),
        (lambda d: d["network"].update(features="cnn"), "network.features cannot be a cnn on vectors"),
        (lambda d: d["network"].update(distribution="categorical"), "categorical for box actions"),
        (lambda d: d["observation"].update(shape=[1 << 27, 1 << 27]), "observation.shape cannot be"),
        (lambda d: d["observation"].update(low=[0.0, 1.0]), "2 bounds for 5 coordinates"),
        (lambda d: d["action"].update(low=[None]), "action.map cannot be bounds without end"),
        (lambda d: d["normalizer"].update(clip=-1), "normalizer.clip cannot be -1.0"),
        (lambda d: d["normalizer"].update(clip=True), "normalizer.clip: expected float, not True"),
        (lambda d: d.update(network=[]), "network: expected an object"),
        (lambda d: d.pop("files"), "files.policy.safetensors: this key is missing"),
        (lambda d: d.update(format="pickle"), "is not a policy of this library"),
        (lambda d: d.update(format_version="1"), "expected format_version 1, not 1"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    toy_bundle: Path, rewrite: Rewrite, change: Callable[[dict], Any], sentence: str
) -> None:
    rewrite(toy_bundle, change)
    assert sentence in refusal(toy_bundle)


def test_a_cnn_on_float_images_is_refused(make_agent: Callable[..., Agent], rewrite: Rewrite, tmp_path: Path) -> None:
    folder = make_agent(NetworkConfig(hidden=(4,)), box(-1, 1, (40, 36, 3))).write(tmp_path / "policy")
    rewrite(folder, lambda document: document["network"].update(features="cnn"))
    assert "network.features cannot be a cnn on float32" in refusal(folder)


def test_no_value_anywhere_in_the_description_gets_past_with_a_traceback(toy_bundle: Path, rewrite: Rewrite) -> None:
    original = json.loads((toy_bundle / "policy.json").read_text())
    for path in _paths(original):
        for value in (None, -1, 0, 1 << 70, 1e308, "", "x", [], {}, True, [[]], [None]):

            def change(document: dict[str, Any], path: tuple = path, value: object = value) -> None:
                document.clear()
                document.update(json.loads(json.dumps(original)))
                at: Any = document
                for key in path[:-1]:
                    at = at[key]
                at[path[-1]] = value

            rewrite(toy_bundle, change)
            try:
                read_bundle(toy_bundle)
            except UserError as error:
                assert "\n" not in str(error)


def _paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _paths(item, (*path, key))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 900 + "]" * 900, '{"a": ' * 980 + "1" + "}" * 980, "NaN", "9" * 5000]
)
def test_json_made_to_hurt_is_refused(toy_bundle: Path, text: str) -> None:
    (toy_bundle / "policy.json").write_text(text)
    refusal(toy_bundle)
    (toy_bundle / "policy.json").write_text(
        f'{{"format": "policy-gradients/policy", "format_version": 1, "x": {text}}}'
    )
    refusal(toy_bundle)


def test_a_header_that_promises_a_huge_tensor_is_refused(toy_bundle: Path, rewrite: Rewrite) -> None:
    header = json.dumps({"head/bias": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (toy_bundle / "policy.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    rewrite(toy_bundle, lambda document: None)
    assert "is not a safetensors file" in refusal(toy_bundle)


def test_an_oversized_file_is_refused_before_it_is_read(toy_bundle: Path, rewrite: Rewrite) -> None:
    with (toy_bundle / "policy.safetensors").open("r+b") as file:
        file.truncate(1 << 34)  # a hole: no disk is used
    assert "at most" in refusal(toy_bundle)


def test_a_pipe_in_place_of_a_file_does_not_hang(toy_bundle: Path) -> None:
    (toy_bundle / "policy.safetensors").unlink()
    os.mkfifo(toy_bundle / "policy.safetensors")
    assert "there is no policy.safetensors" in refusal(toy_bundle)


def test_files_of_others_stay_in_a_bundle_that_is_written_anew(toy: Agent, tmp_path: Path) -> None:
    folder = toy.write(tmp_path / "policy")
    (folder / "NOTES.txt").write_text("left knee")
    (folder / "c99").mkdir()
    (folder / "c99" / "policy.c").write_text("int x;")
    toy.write(folder)
    assert (folder / "NOTES.txt").read_text() == "left knee" and (folder / "c99" / "policy.c").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_anew(
    toy: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run puts a better policy there between the description and the weights."""
    folder, replaced = toy.write(tmp_path / "policy", seed=3), []

    def opened(path):
        storage = storage_module.open_storage(path)

        def read(name, most):
            data = storage.read(name, most)
            if not replaced:
                replaced.append(toy.write(folder, total_timesteps=77))
            return data

        return storage._replace(read=read)

    monkeypatch.setattr(bundle_module, "open_storage", opened)
    zipped = bundle_module.zip_bundle(folder, tmp_path / "policy.zip")
    assert replaced and read_bundle(zipped).description.provenance["total_timesteps"] == 77


def test_a_run_without_a_last_policy_names_its_best(toy: Agent, tmp_path: Path) -> None:
    toy.write(tmp_path / "policy_best")
    assert "best policy so far is" in refusal(tmp_path)


def test_a_path_that_no_file_can_have_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a cannot be read: File name too long"):
        read_bundle(tmp_path / ("a" * 300))
