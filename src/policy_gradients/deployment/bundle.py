"""The policy bundle: a folder, or one `.zip`, that holds all a trained policy needs to act, and nothing that executes.

    policy.json          what the policy is: spaces, network, normaliser, action map, where it comes from, file hashes
    policy.safetensors   its weights and the normaliser's mean and variance, float32
    golden.safetensors   observations and the right answers

Needs NumPy and safetensors only, so a process that acts never loads JAX.
"""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from policy_gradients.deployment.agent import acting_tensors, describe_agent
from policy_gradients.deployment.description import (
    FORMAT,
    FORMAT_VERSION,
    PolicyDescription,
    parse_description,
    tensor_shapes,
)
from policy_gradients.deployment.golden import GOLDEN_ROWS, golden_vectors
from policy_gradients.deployment.storage import (
    DESCRIPTION,
    GOLDEN,
    WEIGHTS,
    Storage,
    open_storage,
    write_folder,
    write_zip,
)
from policy_gradients.errors import UserError

if TYPE_CHECKING:
    from policy_gradients.environments.base import EnvironmentSpec
    from policy_gradients.estimation.normalization import NormalizationConfig, Statistics
    from policy_gradients.networks.actor_critic import NetworkConfig

_MAX_JSON_BYTES = 16 << 20
_MAX_HEADER_BYTES = 1 << 20  # of a safetensors file
_ATTEMPTS, _PAUSE = 5, 0.02  # reads of a bundle that is replaced meanwhile, and seconds before the next


class Bundle(NamedTuple):
    """A bundle in memory, checked.

    Attributes:
        description: What `policy.json` says.
        tensors: Weights and normaliser by name, float32 (`description.tensor_shapes`).
        golden: `obs`, `action`, and `mean` and `log_std`, or `logits`, one row each.
    """

    description: PolicyDescription
    tensors: dict[str, np.ndarray]
    golden: dict[str, np.ndarray]


def write_bundle(
    path: str | Path,
    *,
    spec: "EnvironmentSpec",
    network: "NetworkConfig",
    normalization: "NormalizationConfig",
    params: Any,
    statistics: "Statistics",
    provenance: Mapping[str, Any],
) -> None:
    """Writes the policy as a bundle; at every moment `path` holds the old bundle, the new one, or nothing.

    Args:
        path: The folder, or a file that ends in `.zip`; a bundle that is there already is replaced.
        spec: The environment that the policy was trained in.
        network: What `params` were made from by `networks.actor_critic`.
        normalization: How observations were normalised.
        params: Its parameters, of NumPy-convertible arrays; the critic's half stays behind.
        statistics: The normaliser's state.
        provenance: `algorithm`, `seed`, `total_timesteps`, `mean_reward`, `config_hash` and what else is worth keeping,
            as JSON values; versions of libraries are added.

    Raises:
        UserError: The parameters are not those of `network`, not finite, or the folder cannot be written.
    """
    document = describe_agent(spec, network, normalization, statistics, provenance)
    description = parse_description(document)
    tensors = acting_tensors(params, statistics)
    _check_tensors(tensors, tensor_shapes(description), f"{path}: the parameters")
    files = {
        WEIGHTS: safetensors.numpy.save(tensors),
        GOLDEN: safetensors.numpy.save(golden_vectors(description, tensors)),
    }
    hashes = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": hashes, **document}
    document["sha256"] = _document_hash(document)
    files[DESCRIPTION] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    (write_zip if Path(path).suffix == ".zip" else write_folder)(Path(path), files)


def read_bundle(path: str | Path) -> Bundle:
    """The bundle at a path, after every check: format version, hashes, names, shapes, finiteness, sizes.

    Args:
        path: The bundle's folder, a run's folder that holds one as `policy`, or a zip.

    A run that is under way may put a new policy there meanwhile: then that one is read.

    Raises:
        UserError: There is no bundle, or something is wrong with it.
    """
    return _read_steadily(path)[0]


def _read_steadily(path: str | Path) -> tuple[Bundle, dict[str, bytes]]:
    """A bundle and its files; once more where another bundle took its place in the middle of it."""
    for _ in range(_ATTEMPTS):
        before = _identity(path)
        try:
            found = _read(open_storage(path))
        except UserError:
            time.sleep(_PAUSE)
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return found
    raise UserError(f"{path}: the policy is replaced again and again; wait for the run, or copy the folder first.")


def _identity(path: str | Path) -> tuple[int, ...] | None:
    """What tells one bundle at a path from the next; None where there is none."""
    for place in (Path(path) / DESCRIPTION, Path(path) / "policy" / DESCRIPTION, Path(path)):
        with contextlib.suppress(OSError):
            stat = place.stat()
            return stat.st_ino, stat.st_mtime_ns, stat.st_size
    return None


def _read(storage: Storage) -> tuple[Bundle, dict[str, bytes]]:
    files: dict[str, bytes] = {}

    def kept(name: str, most: int) -> bytes | None:
        data = storage.read(name, most)
        if data is not None:
            files[name] = data
        return data

    return _parse(storage._replace(read=kept)), files


def _parse(storage: Storage) -> Bundle:
    document = _read_document(storage)
    with _naming(storage.path):
        description = parse_description(
            {
                key: value
                for key, value in document.items()
                if key not in ("format", "format_version", "files", "sha256")
            }
        )
        shapes = tensor_shapes(description)
    tensors = _read_tensors(storage, WEIGHTS, document, sum(map(math.prod, shapes.values())))
    _check_tensors(tensors, shapes, f"{storage.path / WEIGHTS}: the tensors")
    golden = _read_tensors(storage, GOLDEN, document, _golden_limit(description))
    _check_golden(golden, description, storage.path / GOLDEN)
    return Bundle(description, tensors, golden)


def zip_bundle(path: str | Path, out: str | Path) -> Path:
    """Writes a bundle as one file, after all checks of reading; its path.

    Raises:
        UserError: There is no bundle, something is wrong with it, or the file cannot be written.
    """
    write_zip(Path(out), _read_steadily(path)[1])
    return Path(out)


def _check_tensors(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    if tensors.keys() != shapes.keys():
        odd = sorted(tensors.keys() ^ shapes.keys())
        raise UserError(
            f"{what} are not those of the network described: {', '.join(odd[:4])} "
            f"{'is' if len(odd) == 1 else 'are'} missing or unknown."
        )
    for name, shape in shapes.items():
        if tensors[name].shape != shape or tensors[name].dtype != np.float32:
            got = f"{tensors[name].dtype} {tensors[name].shape}"
            raise UserError(f"{what} do not fit: {name} should be float32 {shape}, not {got}.")
        if not np.isfinite(tensors[name]).all():
            raise UserError(f"{what} hold a NaN or an infinity in {name}; a policy like that cannot act.")
    if "normalizer/var" in tensors and (tensors["normalizer/var"] < 0).any():
        raise UserError(f"{what} hold a negative variance in normalizer/var.")


def _golden_limit(description: PolicyDescription) -> int:
    """Most numbers that golden vectors may hold: 1,024 rows."""
    outputs = max(description.action.n, *description.action.shape, 1)
    return 1024 * (math.prod(description.observation.shape) + 3 * outputs)


def _check_golden(golden: Mapping[str, np.ndarray], description: PolicyDescription, path: Path) -> None:
    obs, action = description.observation, description.action
    rows = len(golden["obs"]) if "obs" in golden and golden["obs"].ndim else 0
    expected = {"obs": ((rows, *obs.shape), obs.dtype)}
    if action.kind == "discrete":
        expected |= {"action": ((rows,), "int64"), "logits": ((rows, action.n), "float32")}
    else:
        expected |= dict.fromkeys(("action", "mean", "log_std"), ((rows, *action.shape), "float32"))
    found = {name: (array.shape, str(array.dtype)) for name, array in golden.items()}
    if rows < GOLDEN_ROWS or found != expected:
        raise UserError(f"{path}: the golden vectors do not fit the policy; export it again from its run.")
    if not all(np.isfinite(array).all() for array in golden.values()):
        raise UserError(f"{path}: the golden vectors hold a NaN or an infinity; export the policy again from its run.")


def _read_document(storage: Storage) -> dict[str, Any]:
    path, data = storage.path / DESCRIPTION, storage.read(DESCRIPTION, _MAX_JSON_BYTES)
    if data is None:
        best = storage.path / "policy_best"
        hint = f" The run's best policy so far is {best}." if best.is_dir() else ""
        raise UserError(f"{storage.path} is not a policy bundle: there is no {DESCRIPTION} in it.{hint}")
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error}).") from None
    _check_format(document, path)
    return document


def _check_format(document: Any, path: Path) -> None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} is not a policy of this library: its format should be {FORMAT!r}.")
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, but this policy-gradients reads up to {FORMAT_VERSION}; upgrade it."
        )
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(f"{path}: expected format_version {FORMAT_VERSION}, not {str(version)[:40]}.")
    if document.get("sha256") != _document_hash(document):
        raise UserError(
            f"{path} was changed after it was written (its sha256 does not match); export the policy again."
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _read_tensors(storage: Storage, name: str, document: Mapping[str, Any], elements: int) -> dict[str, np.ndarray]:
    """The tensors of one file whose hash is right and which holds at most so many numbers."""
    path = storage.path / name
    entry = document.get("files", {}).get(name) if isinstance(document.get("files"), dict) else None
    if not isinstance(entry, dict):
        raise UserError(f"{storage.path / DESCRIPTION}: files.{name}: this key is missing.")
    data = storage.read(name, elements * 8 + _MAX_HEADER_BYTES)
    if data is None:
        raise UserError(f"{storage.path} is not complete: there is no {name} in it.")
    if len(data) != entry.get("bytes"):
        raise UserError(f"{path} is cut off or overlong: it has {len(data)} bytes, not {str(entry.get('bytes'))[:40]}.")
    if _sha256(data) != entry.get("sha256"):
        raise UserError(
            f"{path} is damaged: its sha256 is not the one in {DESCRIPTION}; copy or export the policy again."
        )
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}).") from None


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the path before what goes wrong with its policy.json."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _document_hash(document: Mapping[str, Any]) -> str:
    """SHA-256 of all of policy.json but this very key, keys sorted, no spaces."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return _sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())
