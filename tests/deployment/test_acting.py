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


@pytest.fixture
def stacking(make_agent: Make, tmp_path: Path) -> Path:
    """A policy of three frames of two numbers each."""
    agent = make_agent(NetworkConfig(hidden=(4,)), box(-np.inf, np.inf, (6,)))
    return agent._replace(spec=replace(agent.spec, frames=3, obs_names=())).write(tmp_path / "policy")


def test_a_frame_that_is_refused_is_not_remembered(stacking: Path) -> None:
    stack = FrameStack(read_bundle(stacking).description)
    stack.reset([1, 2])
    for wrong in ([np.nan, 0], [np.inf, 0], 1.0, np.ones(5), [1, [2]], ["a", "b"], np.ones((4, 2))):
        with pytest.raises(RefusedObservation):
            stack.push(wrong)  # type: ignore[arg-type]
    np.testing.assert_array_equal(stack.push([3, 4]), [1, 2, 1, 2, 3, 4])
    with pytest.raises(RefusedObservation, match=r"shape \(2,\)"):
        stack.reset(np.ones(5))
    np.testing.assert_array_equal(stack.push([5, 6]), [1, 2, 3, 4, 5, 6])


def test_one_bad_frame_costs_one_refusal(stacking: Path) -> None:
    policy = load_policy(stacking)
    stack = FrameStack(policy.description)
    holding = HoldLastAction(lambda obs: policy(stack.push(obs)), np.zeros(3), at_most=1)
    stack.reset([1, 2])
    held = []
    for frame in ([1, 2], [np.nan, 2], [3, 4], [5, 6]):
        holding(frame)
        held.append(holding.held)
    assert held == [0, 1, 0, 0]


def test_a_stack_needs_the_beginning_of_an_episode(stacking: Path) -> None:
    with pytest.raises(UserError, match="call reset"):
        FrameStack(read_bundle(stacking).description).push([1, 2])


def test_batches_of_frames_are_stacked(stacking: Path) -> None:
    stack = FrameStack(read_bundle(stacking).description)
    stack.reset(np.zeros((4, 2)))
    assert stack.push(np.ones((4, 2))).shape == (4, 6)


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


def test_a_ragged_observation_is_bridged_too(toy_bundle: Path) -> None:
    holding = HoldLastAction(load_policy(toy_bundle), np.zeros(3))
    np.testing.assert_array_equal(holding([1, [2, 3]]), np.zeros(3))  # type: ignore[list-item]
    assert "not an array" in holding.reason


def test_the_first_action_is_copied_and_of_the_policys_type(toy_bundle: Path, make_agent: Make, tmp_path: Path) -> None:
    policy, first = load_policy(toy_bundle), np.zeros(3)
    holding = HoldLastAction(policy, first)
    first += 7
    np.testing.assert_array_equal(holding([np.nan] * 5), np.zeros(3))
    assert holding([np.nan] * 5).dtype == policy(np.zeros(5)).dtype
    assert holding.description is policy.description
    discrete = load_policy(make_agent(NetworkConfig(hidden=()), discrete=True).write(tmp_path / "other"))
    assert type(HoldLastAction(discrete, 2)([np.nan] * 5)) is type(discrete(np.zeros(5)))


@pytest.mark.parametrize("first", [np.zeros(6), 0.0, [0, [0, 0]], [np.nan] * 3, "abc", [None] * 3])
def test_a_first_action_that_is_not_the_policys_is_refused(toy_bundle: Path, first: Any) -> None:
    with pytest.raises(UserError, match="HoldLastAction: first should be") as caught:
        HoldLastAction(load_policy(toy_bundle), first)
    assert "\n" not in str(caught.value)


def test_a_first_action_between_two_actions_is_refused(make_agent: Make, tmp_path: Path) -> None:
    policy = load_policy(make_agent(NetworkConfig(hidden=()), discrete=True).write(tmp_path / "policy"))
    with pytest.raises(UserError, match="int64"):
        HoldLastAction(policy, 0.5)


def test_held_actions_keep_the_shape_of_the_first(toy_bundle: Path) -> None:
    policy = load_policy(toy_bundle)
    single = HoldLastAction(policy, np.zeros(3))
    with pytest.raises(UserError, match="each observation of a batch"):
        single(np.ones((4, 5)))
    assert single([np.nan] * 5).shape == (3,)
    batch = HoldLastAction(policy, np.zeros((4, 3)))
    np.testing.assert_array_equal(batch(np.ones((4, 5))), batch(np.full((4, 5), np.nan)))


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
