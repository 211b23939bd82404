"""Stacked frames, held actions, diagnostics, and the bundle as one file."""

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.deployment import load_policy, read_bundle
from policy_gradients.deployment.acting import FrameStack, HoldLastAction
from policy_gradients.deployment.bundle import zip_bundle
from policy_gradients.deployment.observations import RefusedObservation
from policy_gradients.environments.base import box
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig

Agent: TypeAlias = Any  # of conftest.py
Make: TypeAlias = Callable[..., Agent]
NAMES = ("policy.json", "policy.safetensors", "golden.safetensors")


def test_frames_are_stacked_as_in_training(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(NetworkConfig(hidden=(4,)), box(0, 255, (36, 36, 4), np.uint8), discrete=True)
    agent = agent._replace(spec=replace(agent.spec, frames=2))
    stack = FrameStack(read_bundle(agent.write(tmp_path / "policy")).description)
    frames = [np.full((36, 36, 2), i, np.uint8) for i in range(3)]
    np.testing.assert_array_equal(stack.reset(frames[0])[0, 0], [0, 0, 0, 0])
    np.testing.assert_array_equal(stack.push(frames[1])[0, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(stack.push(frames[2])[0, 0], [1, 1, 2, 2])
    assert stack.push(frames[0]).shape == (36, 36, 4)


def test_a_single_frame_passes_unchanged(toy_bundle: Path) -> None:
    stack = FrameStack(read_bundle(toy_bundle).description)
    np.testing.assert_array_equal(stack.reset(np.arange(5)), stack.push(np.arange(5)))


def test_a_raw_clip_is_applied_by_the_policy(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(NetworkConfig(hidden=(4,)), action_map="none")
    clipped = load_policy(agent._replace(spec=replace(agent.spec, obs_clip=2.0)).write(tmp_path / "clipped"))
    plain = load_policy(agent.write(tmp_path / "plain"))
    obs = np.array([-50, 50, 1, -1, 2.5], np.float32)
    np.testing.assert_array_equal(clipped(obs), plain(np.clip(obs, -2, 2)))
    assert (clipped(obs) != plain(obs)).any()


def test_a_refused_observation_repeats_the_last_action(toy_bundle: Path) -> None:
    policy = load_policy(toy_bundle)
    holding = HoldLastAction(policy, np.zeros(3, np.float32), at_most=2)
    bad = np.full(5, np.nan)
    np.testing.assert_array_equal(holding(bad), np.zeros(3))
    taken = holding(np.ones(5))
    assert (holding.held, holding.reason != "") == (0, True)
    np.testing.assert_array_equal(taken, policy(np.ones(5)))
    taken += 1  # what the caller does with its array stays with the caller
    for held in (1, 2):
        np.testing.assert_array_equal(holding(bad), policy(np.ones(5)))
        assert holding.held == held
    with pytest.raises(RefusedObservation, match="NaN"):
        holding(bad)


def test_diagnostics_explain_the_action(toy: Agent, toy_bundle: Path) -> None:
    policy, moments = load_policy(toy_bundle), toy.statistics.obs
    assert moments is not None
    mean, std = np.asarray(moments.mean), np.sqrt(np.asarray(moments.var))
    obs = np.stack([mean, mean + 11 * std * np.array([1, -1, 0, 0, 0])])
    found = policy.diagnose(obs)
    np.testing.assert_array_equal(found["action"], policy(obs))
    np.testing.assert_allclose(found["clipped"], [0, 0.4])
    np.testing.assert_allclose(found["entropy"], (found["log_std"] + 0.5 * np.log(2 * np.pi * np.e)).sum(-1))
    low, high = toy.spec.control_bounds.low, toy.spec.control_bounds.high
    np.testing.assert_allclose(found["saturated"], ((found["action"] == low) | (found["action"] == high)).mean(-1))
    assert policy.diagnose(obs[0])["clipped"].shape == ()


def test_the_entropy_of_logits_is_that_of_their_probabilities(make_agent: Make, tmp_path: Path) -> None:
    policy = load_policy(make_agent(NetworkConfig(hidden=(4,)), discrete=True).write(tmp_path / "policy"))
    found = policy.diagnose(np.ones((2, 5)))
    p = np.exp(found["logits"]) / np.exp(found["logits"]).sum(-1, keepdims=True)
    np.testing.assert_allclose(found["entropy"], -(p * np.log(p)).sum(-1), rtol=1e-5)


def test_jax_rebuilds_the_policy_of_the_bundle(toy: Agent, toy_bundle: Path) -> None:
    from policy_gradients.deployment.jax_policy import JaxPolicy

    bundle = read_bundle(toy_bundle)
    policy, obs = JaxPolicy(bundle), bundle.golden["obs"]
    inputs = np.clip((obs - toy.statistics.obs.mean[None]) / np.sqrt(toy.statistics.obs.var + 1e-8)[None], -10, 10)
    expected = toy.networks.policy(toy.params, jnp.asarray(inputs, jnp.float32))
    np.testing.assert_allclose(policy.distribution(obs)["mean"], expected.mean, atol=1e-6)
    np.testing.assert_allclose(policy(obs), bundle.golden["action"], atol=1e-5)


def test_a_zip_is_the_same_bundle(toy_bundle: Path, toy: Agent, tmp_path: Path) -> None:
    packed = zip_bundle(toy_bundle, tmp_path / "a.zip")
    toy.write(tmp_path / "b.zip")
    assert packed.read_bytes() == (tmp_path / "b.zip").read_bytes()
    obs = np.ones(5)
    np.testing.assert_array_equal(load_policy(packed)(obs), load_policy(toy_bundle)(obs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "policy"]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_bundle(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


def packed(folder: Path, names: tuple[str, ...] = NAMES, **options: Any) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(folder.with_suffix(".zip"), "w", **options)
    for name, inside in zip(NAMES, names, strict=True):
        archive.writestr(inside, (folder / name).read_bytes())
    return archive


def test_a_deflated_zip_is_read(toy_bundle: Path) -> None:
    packed(toy_bundle, compression=zipfile.ZIP_DEFLATED).close()
    assert read_bundle(toy_bundle.with_suffix(".zip")).description == read_bundle(toy_bundle).description


@pytest.mark.parametrize("prefix", ["../", "/tmp/", "policy/", "./"])
def test_names_that_lead_elsewhere_are_refused(toy_bundle: Path, prefix: str) -> None:
    packed(toy_bundle, tuple(prefix + name for name in NAMES)).close()
    assert "it should hold policy.json" in refusal(toy_bundle.with_suffix(".zip"))


def test_a_zip_with_more_in_it_is_refused(toy_bundle: Path) -> None:
    with packed(toy_bundle) as archive:
        archive.writestr("setup.py", b"print('hello')")
    assert "it should hold" in refusal(toy_bundle.with_suffix(".zip"))
    with packed(toy_bundle) as archive:
        for i in range(1000):
            archive.writestr(str(i), b"")
    assert "list of files is too long" in refusal(toy_bundle.with_suffix(".zip"))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(toy_bundle: Path) -> None:
    (toy_bundle / "policy.safetensors").write_bytes(bytes(1 << 24))
    packed(toy_bundle, compression=zipfile.ZIP_DEFLATED).close()
    assert "suspiciously small" in refusal(toy_bundle.with_suffix(".zip"))


def test_a_lie_about_a_size_is_refused(toy_bundle: Path) -> None:
    packed(toy_bundle).close()
    path = toy_bundle.with_suffix(".zip")
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\1\2", 0, data.rfind(b"PK\1\2"))  # the second of three entries
    for size in (10, 1 << 31):
        struct.pack_into("<II", data, at + 20, size, size)
        path.write_bytes(data)
        refusal(path)


def test_a_damaged_zip_is_refused(toy_bundle: Path) -> None:
    packed(toy_bundle).close()
    path = toy_bundle.with_suffix(".zip")
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in (0, 10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:cut])
        refusal(path)
    for position in rng.integers(0, len(data), 100):
        flipped = bytearray(data)
        flipped[position] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            read_bundle(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_an_encrypted_zip_is_refused(toy_bundle: Path) -> None:
    packed(toy_bundle).close()
    path = toy_bundle.with_suffix(".zip")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


def test_a_number_beyond_float32_is_refused(toy_bundle: Path, rewrite: Any) -> None:
    for number in (10**400, 1e39):
        rewrite(toy_bundle, lambda document, number=number: document["normalizer"].update(clip=number))
        assert "normalizer.clip: expected float" in refusal(toy_bundle)


def test_frames_that_do_not_divide_the_observation_are_refused(toy_bundle: Path, rewrite: Any) -> None:
    for frames in (0, -1, 2):
        rewrite(toy_bundle, lambda document, frames=frames: document["observation"].update(frames=frames))
        assert "observation.frames cannot be" in refusal(toy_bundle)


def test_a_zip_in_memory_of_nothing_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "empty.zip").write_bytes(buffer.getvalue())
    assert "not nothing" in refusal(tmp_path / "empty.zip")


def test_jax_answers_one_observation_of_a_discrete_policy(make_agent: Make, tmp_path: Path) -> None:
    from policy_gradients.deployment.jax_policy import JaxPolicy

    path = make_agent(NetworkConfig(hidden=(4,)), discrete=True).write(tmp_path / "policy")
    bundle, obs = read_bundle(path), np.ones(5)
    assert JaxPolicy(bundle)(obs) == load_policy(path)(obs)
    assert JaxPolicy(bundle).distribution(obs)["logits"].shape == (4,)
