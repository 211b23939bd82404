"""Checkpoints: every bit comes back, a save is whole or nothing, and what is damaged is refused in a sentence."""

import errno
import hashlib
import json
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import Count
from policy_gradients.training.checkpoint import (
    FORMAT_VERSION,
    checkpoint_folder,
    flatten_tree,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    unflatten_tree,
)


class Part(NamedTuple):
    """A pytree of every kind of node."""

    flags: Any
    nested: Any


def tree(scale=1.0):
    """Arrays of all dtypes that a run has, with numbers that lose bits when they pass through another type."""
    odd = np.array([np.nan, -0.0, np.inf, 1e-42, 16777217.0, 0.1], np.float32)
    return {
        "learner": Part(
            flags=jnp.array([True, False, True]),
            nested=(
                {"weight": scale * odd.reshape(2, 3), "bias": jnp.zeros(0)},
                Count(jnp.int32(3), jnp.int32(2**30 - 1)),
            ),
        ),
        "pixels": np.arange(256, dtype=np.uint8).reshape(2, 2, 64),
        "words": np.array([2**32 - 1, 0], np.uint32),
        "state": np.array([np.pi, -np.pi]),
        "clock": np.array(-(2**62), np.int64),
        "strided": np.arange(12, dtype=np.float32).reshape(3, 4).T[::2],
    }


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def save(run, update, scale=1.0, **manifest):
    folder = checkpoint_folder(run, update)
    save_checkpoint(folder, flatten_tree(tree(scale)), {"update": update, **manifest})
    return folder


def assert_same_bits(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == np.ascontiguousarray(expected[name]).tobytes(), name


def test_every_array_comes_back_to_the_last_bit(run):
    arrays, manifest = load_checkpoint(save(run, 7, note="grüße", best=None))
    assert_same_bits(arrays, flatten_tree(tree()))
    assert (manifest["update"], manifest["note"], manifest["best"]) == (7, "grüße", None)
    assert manifest["format_version"] == FORMAT_VERSION


def test_a_tree_comes_back_with_its_structure_shapes_and_dtypes(run):
    device = jax.tree.map(jnp.asarray, {name: leaf for name, leaf in tree().items() if name not in ("state", "clock")})
    save_checkpoint(checkpoint_folder(run, 1), flatten_tree(device), {})
    arrays, _ = load_checkpoint(checkpoint_folder(run, 1))
    restored = unflatten_tree(device, arrays, run)
    assert jax.tree.structure(restored) == jax.tree.structure(device)
    assert_same_bits(flatten_tree(restored), flatten_tree(device))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(restored))


def test_names_are_paths():
    assert "learner.nested.0.weight" in flatten_tree(tree())


def test_a_checkpoint_is_two_files_and_nothing_is_left_beside_it(run):
    folder = save(run, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "state.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_checkpoint_of_the_same_name_is_replaced(run):
    save(run, 1, scale=1.0)
    folder = save(run, 1, scale=2.0)
    assert_same_bits(load_checkpoint(folder)[0], flatten_tree(tree(2.0)))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it but `finally`."""


@pytest.fixture
def fail_at(monkeypatch):
    """`fail_at(function of os, number of the call, exception)`."""

    def arrange(name, number, error):
        original, calls = getattr(os, name), []

        def failing(*args, **kwargs):
            calls.append(args)
            if len(calls) == number:
                raise error
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, failing)

    return arrange


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("call", "number"), [("fsync", 1), ("fsync", 2), ("replace", 1)])
def test_a_save_that_is_killed_leaves_the_checkpoints_before_it_whole(run, fail_at, call, number):
    before = save(run, 1)
    fail_at(call, number, Killed())
    with pytest.raises(Killed):
        save(run, 2, scale=2.0)
    assert latest_checkpoint(run) == before, "half a checkpoint is no checkpoint"
    assert_same_bits(load_checkpoint(before)[0], flatten_tree(tree()))


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_that_is_being_replaced_is_there_all_the_time(run, fail_at, number):
    """The old one steps aside before the new one takes its name: whatever fails in between, one of them stays."""
    folder = save(run, 1)
    fail_at("replace", number, FULL)
    with pytest.raises(UserError, match="No space left"):
        save(run, 1, scale=2.0)
    prune_checkpoints(run, keep_last=1)
    assert_same_bits(load_checkpoint(folder)[0], flatten_tree(tree()))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_told_in_a_sentence_and_keeps_what_was_saved(run, fail_at, call):
    before = save(run, 1)
    fail_at(call, 1, FULL)
    with pytest.raises(UserError, match=r"Cannot save the checkpoint .*update_000000002: No space left on device"):
        save(run, 2)
    assert latest_checkpoint(run) == before
    assert_same_bits(load_checkpoint(before)[0], flatten_tree(tree()))
    assert [path.name for path in before.parent.iterdir()] == [before.name], "the space is free again"


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(run):
    run.mkdir()
    (run / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="Cannot save the checkpoint"):
        save(run, 1)


def test_what_an_interrupted_save_left_behind_is_swept_up(run):
    """A killed process runs no `finally`: its unfinished folder stays until the next checkpoint."""
    save(run, 1)
    left = run / "checkpoints" / ".unfinished-abc"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    assert latest_checkpoint(run) == checkpoint_folder(run, 1)
    prune_checkpoints(run, keep_last=1)
    assert not left.exists()
    assert checkpoint_folder(run, 1).exists()


def test_only_the_newest_checkpoints_are_kept(run):
    for update in (9, 10, 99, 100, 1000):
        save(run, update)
    best = run / "checkpoints" / "best"
    save_checkpoint(best, {}, {})
    prune_checkpoints(run, keep_last=2)
    assert sorted(path.name for path in best.parent.iterdir()) == ["best", "update_000000100", "update_000001000"]
    assert latest_checkpoint(run) == checkpoint_folder(run, 1000)


def test_a_run_without_a_checkpoint_is_told_in_a_sentence(run):
    with pytest.raises(UserError, match="holds no checkpoint to resume from"):
        latest_checkpoint(run)


def rewrite_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate_state(folder):
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(folder):
    path = folder / "state.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-7] ^= 4
    path.write_bytes(bytes(blob))


def replace_state_and_hash(folder):
    (folder / "state.safetensors").write_bytes(b"these are no tensors")
    rewrite_manifest(folder, sha256=hashlib.sha256(b"these are no tensors").hexdigest())


def write_manifest(content):
    return lambda folder: (folder / "manifest.json").write_bytes(content)


DAMAGE = {
    "a truncated state": (truncate_state, "is damaged"),
    "a flipped bit": (flip_a_bit, "is damaged"),
    "a missing state": (lambda folder: (folder / "state.safetensors").unlink(), "not a readable checkpoint"),
    "a missing manifest": (lambda folder: (folder / "manifest.json").unlink(), "not a readable checkpoint"),
    "a truncated manifest": (write_manifest(b'{"upd'), "not a readable checkpoint"),
    "a manifest that is a list": (write_manifest(b"[1]"), "not a readable checkpoint"),
    "a manifest that is no text": (write_manifest(b"\xff\xfe\x00"), "not a readable checkpoint"),
    "a newer format": (lambda folder: rewrite_manifest(folder, format_version=FORMAT_VERSION + 1), "Upgrade"),
    "an older format": (lambda folder: rewrite_manifest(folder, format_version=1), "Use the version that wrote it"),
    "a format that is no number": (lambda folder: rewrite_manifest(folder, format_version=None), "not a readable"),
    "no hash": (lambda folder: rewrite_manifest(folder, sha256=None), "is damaged"),
    "a state that is no safetensors": (replace_state_and_hash, "not a safetensors file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_a_sentence_that_names_it(run, damage):
    spoil, words = DAMAGE[damage]
    intact, folder = save(run, 1), save(run, 2)
    spoil(folder)
    with pytest.raises(UserError, match=words) as refused:
        load_checkpoint(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert_same_bits(load_checkpoint(intact)[0], flatten_tree(tree()))


MISFITS = {
    "a missing leaf": (lambda arrays: arrays.pop("pixels"), r"pixels should be uint8\[2, 2, 64\] but is missing"),
    "another shape": (lambda arrays: arrays.update(words=np.zeros(3, np.uint32)), r"words .* but is uint32\[3\]"),
    "another dtype": (lambda arrays: arrays.update(words=np.zeros(2, np.int32)), r"words .* but is int32\[2\]"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_of_another_configuration_is_refused_by_the_leaf_that_does_not_fit(run, misfit):
    change, words = MISFITS[misfit]
    arrays = flatten_tree(tree())
    change(arrays)
    with pytest.raises(UserError, match=words):
        unflatten_tree(tree(), arrays, run)
