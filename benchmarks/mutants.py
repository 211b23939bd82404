"""Damaged and hostile bundles, made from a good one, thrown at the command line's loader.

Half of the mutants have every hash right again, as of somebody who can compute them, so that the checks behind the
hashes are tried too.
"""

import contextlib
import hashlib
import io
import json
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from policy_gradients.cli.main import main as command
from policy_gradients.deployment.storage import DESCRIPTION, GOLDEN, NAMES, WEIGHTS

Files = dict[str, bytes]
MEMORY = 4 << 30  # of address space; a loader that needs more fails
SECONDS = 10  # for one mutant
HUGE = (-1, 0, 1 << 20, 1 << 31, 1 << 40, 1 << 62, 1e308, 10**400, None, True, "x", [], {}, [[]], "../../etc/passwd")


def flip(rng: np.random.Generator, files: Files) -> str:
    """Flips 1 to 8 bits of one file."""
    name = str(rng.choice(NAMES))
    data = bytearray(files[name])
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    files[name] = bytes(data)
    return "flipped bits"


def truncate(rng: np.random.Generator, files: Files) -> str:
    """Cuts a file off, or lengthens it."""
    name = str(rng.choice(NAMES))
    at = int(rng.integers(len(files[name])))
    files[name] = files[name][:at] if rng.random() < 0.7 else files[name] + bytes(at)
    return "truncated or padded"


def overwrite(rng: np.random.Generator, files: Files) -> str:
    """Writes random bytes over a stretch of a file, most often its header."""
    name = str(rng.choice(NAMES))
    data = bytearray(files[name])
    at = int(rng.integers(min(len(data), 400) if rng.random() < 0.7 else len(data)))
    noise = rng.integers(0, 256, int(rng.integers(1, 40)), np.uint8).tobytes()
    data[at : at + len(noise)] = noise
    files[name] = bytes(data)
    return "overwritten"


def change_tensors(rng: np.random.Generator, files: Files) -> str:
    """Swaps, transposes, drops, renames or spoils tensors."""
    name = str(rng.choice([WEIGHTS, GOLDEN]))
    tensors = {key: array.copy() for key, array in safetensors.numpy.load(files[name]).items()}
    keys = sorted(tensors)
    a, b = (str(key) for key in rng.choice(keys, 2))
    kind = rng.integers(6)
    if kind == 0:
        tensors[a], tensors[b] = tensors[b], tensors[a]
    elif kind == 1:
        tensors[a] = np.ascontiguousarray(tensors[a].T)[..., None]
    elif kind == 2:
        del tensors[a]
    elif kind == 3:
        tensors[f"../../{a}"] = tensors.pop(a)
    elif kind == 4 and tensors[a].dtype.kind == "f":
        flat = tensors[a].reshape(-1)
        flat[rng.integers(flat.size)] = rng.choice(np.array([np.nan, np.inf, -np.inf, 3e38, 1e-45], np.float32))
    else:
        tensors[a] = tensors[a].astype(rng.choice(np.array(["float64", "int8", "uint8"])))
    files[name] = safetensors.numpy.save(tensors)
    return "changed tensors"


def change_json(rng: np.random.Generator, files: Files) -> str:
    """Puts something odd in place of a value of policy.json, or drops it."""
    document = json.loads(files[DESCRIPTION])
    at: Any = document
    while True:
        key = list(at)[rng.integers(len(at))] if isinstance(at, dict) else int(rng.integers(len(at)))
        if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.15:
            break
        at = at[key]
    if rng.random() < 0.15:
        del at[key]
    else:
        at[key] = HUGE[rng.integers(len(HUGE))]
    files[DESCRIPTION] = json.dumps(document).encode()
    return "changed policy.json"


def huge_shape(rng: np.random.Generator, files: Files) -> str:
    """A safetensors header that promises far more than there is."""
    size = (1 << 30, 1 << 40, 1 << 62)[rng.integers(3)]
    header = {"head/bias": {"dtype": "F32", "shape": [size], "data_offsets": [0, min(4 * size, (1 << 63) - 1)]}}
    text = json.dumps(header).encode()
    length = len(text) if rng.random() < 0.5 else (1 << 31, (1 << 63) - 1, (1 << 64) - 1)[rng.integers(3)]
    files[str(rng.choice([WEIGHTS, GOLDEN]))] = struct.pack("<Q", length) + text
    return "huge shapes"


def nested(rng: np.random.Generator, files: Files) -> str:
    """JSON that is deep, long or not JSON."""
    depth = int(rng.choice([100, 900, 100_000]))
    files[DESCRIPTION] = str(rng.choice(["[" * depth, '{"a":' * depth, "9" * depth, "NaN", ""])).encode()
    return "hostile JSON"


MUTATIONS: tuple[Callable[[np.random.Generator, Files], str], ...] = (
    flip, truncate, overwrite, change_tensors, change_json, huge_shape, nested,
)  # fmt: skip


def rehash(files: Files) -> None:
    """Makes every hash right, where policy.json still is what it should be."""
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError, KeyError):
        document = json.loads(files[DESCRIPTION])
        for name in (WEIGHTS, GOLDEN):
            data = files[name]
            document["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        document.pop("sha256", None)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        files[DESCRIPTION] = json.dumps(document).encode()


def write(rng: np.random.Generator, files: Files, path: Path) -> tuple[Path, str]:
    """The mutant as a folder, or as a zip that may be hostile itself."""
    if rng.random() < 0.5:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
        return path, ""
    buffer, kind = io.BytesIO(), int(rng.integers(8))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            odd = {1: f"../../{name}", 2: f"/tmp/{name}", 3: f"policy/{name}"}.get(kind, name)
            archive.writestr(odd, bytes(1 << 27) if kind == 4 and name == WEIGHTS else data)
        for i in range(5000 if kind == 5 and rng.random() < 0.1 else 0):
            archive.writestr(f"{i}", b"")
    data = bytearray(buffer.getvalue())
    if kind == 6:  # anywhere in the zip, its own headers included
        for _ in range(4):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path = path.with_suffix(".zip")
    path.write_bytes(data[: rng.integers(len(data))] if kind == 7 else data)
    return path, {1: "traversal", 2: "traversal", 4: "zip bomb", 5: "long list", 6: "flipped zip", 7: "cut zip"}.get(
        kind, "zip"
    )


def attack(bundle: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Runs `export` on `count` mutants in this process, with its memory bounded.

    Returns:
        How many mutants of each kind there were, how many were accepted (a flipped bit in a name, say, or a mutant zip
        around good files) and refused, tracebacks and time-outs in full, the longest time and the peak memory.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    good = {name: (bundle / name).read_bytes() for name in NAMES}
    rng, kinds, codes, failures, longest = np.random.default_rng(seed), Counter(), Counter(), [], 0.0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        for i in range(count):
            files = dict(good)
            kind = MUTATIONS[rng.integers(len(MUTATIONS))](rng, files) if rng.random() < 0.8 else "none"
            if rng.random() < 0.5:
                rehash(files)
            path, around = write(rng, files, folder / "mutant")
            began = time.perf_counter()
            outcome = _try(path, folder / "out")
            longest = max(longest, time.perf_counter() - began)
            kinds[f"{kind}, {around}" if around else kind] += 1
            codes[str(outcome) if isinstance(outcome, int) else "failure"] += 1
            outside = sorted(entry.name for entry in folder.iterdir() if entry.name not in (path.name, "out"))
            if not isinstance(outcome, int) or outside:
                failures.append({"mutant": i, "kind": kind, "around": around, "what": outcome, "outside": outside})
            _clear(path, folder / "out")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"mutants": count, "kinds": kinds, "exit_codes": codes, "failures": failures, "longest_seconds": longest,
            "peak_memory_mib": peak}  # fmt: skip


def _try(path: Path, out: Path) -> int | str:
    """The exit code 0 or 2; else what went wrong."""
    stderr = io.StringIO()
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            code = command(["export", str(path), "--format", "c99", "--out", str(out)])
    except BaseException:  # whatever it is, it is what is looked for
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    said = stderr.getvalue()
    if code not in (0, 2) or "Traceback" in said or (code == 2 and said.count("\n") != 1):
        return f"exit code {code}: {said}"
    return code


def _hang(signum: int, frame: Any) -> None:
    raise TimeoutError(f"no answer within {SECONDS} seconds")


def _clear(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
