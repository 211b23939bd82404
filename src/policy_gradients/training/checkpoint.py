"""Checkpoints: a folder of `state.safetensors` and `manifest.json`, written atomically, loaded without running code.

A checkpoint holds the whole run after one update: the learner, where the environments stand, and the window of
episodes. Random keys are not in it: every update derives its own from the seed and its index.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as dump_tensors

from policy_gradients.errors import UserError

FORMAT_VERSION = 2


def flatten_tree(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree of arrays by their paths ('learner.params.policy.head.weight')."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def unflatten_tree(template: Any, arrays: Mapping[str, np.ndarray], source: Path) -> Any:
    """The pytree shaped like `template` from its leaves by path.

    Raises:
        UserError: A leaf is missing or has another shape or dtype: the checkpoint belongs to another configuration.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    restored = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        array = arrays.get(name)
        if array is None or array.shape != leaf.shape or array.dtype != np.dtype(leaf.dtype):
            found = "is missing" if array is None else f"is {array.dtype}{list(array.shape)}"
            raise UserError(
                f"{source} does not fit this run: {name} should be {np.dtype(leaf.dtype)}{list(leaf.shape)} but {found}"
                ". Resume with the config.yaml that the run was started with, and with its agent=, if any."
            )
        restored.append(jnp.asarray(array))
    return jax.tree_util.tree_unflatten(structure, restored)


def save_checkpoint(folder: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Writes a checkpoint that is either wholly there or not at all, replacing one of the same name.

    Args:
        folder: Where; its parent is made.
        arrays: Everything to save, by name.
        manifest: What else to know; plain JSON values.

    Raises:
        UserError: The disk is full or the place cannot be written; what was there before stays.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
        unfinished.chmod(0o755)  # not only for its owner, as temporary folders are
    except OSError as error:
        raise _cannot_save(folder, error) from error
    try:
        blob = dump_tensors({name: np.asarray(array, order="C") for name, array in arrays.items()})
        facts = {"format_version": FORMAT_VERSION, "sha256": hashlib.sha256(blob).hexdigest(), **manifest}
        _write(unfinished / "state.safetensors", blob)
        _write(unfinished / "manifest.json", json.dumps(facts, indent=1).encode())
        _replace(unfinished, folder)
    except OSError as error:
        raise _cannot_save(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the manifest of a checkpoint.

    Raises:
        UserError: It is missing, incomplete, damaged, or of another format.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        version = int(manifest["format_version"])
        blob = (folder / "state.safetensors").read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not a readable checkpoint ({type(error).__name__}: {error}). Delete that folder to resume "
            "from the one before it."
        ) from error
    if version != FORMAT_VERSION:
        remedy = "Upgrade policy-gradients" if version > FORMAT_VERSION else "Use the version that wrote it"
        raise UserError(
            f"{folder} has checkpoint format {version}, but this version of policy-gradients reads {FORMAT_VERSION}. "
            f"{remedy} to resume it."
        )
    if hashlib.sha256(blob).hexdigest() != manifest.get("sha256"):
        raise UserError(
            f"{folder}/state.safetensors is damaged: its contents do not match the hash in manifest.json. Delete that "
            "folder to resume from the one before it."
        )
    try:
        return load_tensors(blob), manifest
    except SafetensorError as error:
        raise UserError(f"{folder}/state.safetensors is not a safetensors file ({error}).") from error


def checkpoint_folder(run: Path, update: int) -> Path:
    """Where the checkpoint after `update` updates lies."""
    return run / "checkpoints" / f"update_{update:09d}"


def latest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        UserError: There is none.
    """
    found = sorted((run / "checkpoints").glob("update_*"))
    if not found:
        raise UserError(f"{run} holds no checkpoint to resume from; expected a folder checkpoints/update_….")
    return found[-1]


def prune_checkpoints(run: Path, keep_last: int) -> None:
    """Deletes all but the newest checkpoints, and what an interrupted save left behind."""
    for folder in sorted((run / "checkpoints").glob("update_*"))[:-keep_last]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (run / "checkpoints").glob(".unfinished-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(source: Path, target: Path) -> None:
    """Renames a folder to its final name; one that bears it already steps aside first."""
    if target.exists():
        aside = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent))
        os.replace(target, aside / "old")
        try:
            os.replace(source, target)
        except OSError:
            os.rename(aside / "old", target)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(source, target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_save(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"Cannot save the checkpoint {folder}: {error.strerror or error}. The checkpoints saved before are untouched; "
        "free some space or choose another --run-dir, then resume."
    )
