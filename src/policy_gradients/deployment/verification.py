"""Whether all runtimes of a bundle give the same actions, and what each costs.

Every runtime is a fresh process. The JAX policy, built from the networks of training, is what the others are compared
with. Two answers agree where they are within `TOLERANCE` of each other, absolutely or, above 1, as a share of the
largest number in the row; float32 sums in another order differ by about that much of their size.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from policy_gradients.deployment.bundle import Bundle, read_bundle
from policy_gradients.deployment.c99.build import compile_c, find_compiler, write_c
from policy_gradients.deployment.c99.reference import TOLERANCE, tolerance_of
from policy_gradients.deployment.measure import RUNTIMES, random_observations, resident_bytes
from policy_gradients.errors import UserError

_TIMEOUT = 900.0  # seconds for one runtime
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a second one waits more than it helps
_STATIC = ("-std=c99", "-O3", "-march=native", "-funroll-loops", "-ffp-contract=off", "-static", "-s")


@dataclass(frozen=True)
class Measured:
    """What one runtime gave and cost.

    Attributes:
        runtime: Its name.
        error: Largest difference of an action to JAX's, over golden and random observations, in the action's units;
            of discrete actions the number of rows that differ.
        agrees: Whether every action is within the tolerance.
        latency: Seconds of one action: p50, p99, p99.9; empty where not measured.
        memory: Resident bytes after the first action.
        size: Bytes on disk of what the runtime reads.
        startup: Seconds from the start of the process to the first action.
        note: What else there is to say.
    """

    runtime: str
    error: float
    agrees: bool
    latency: tuple[float, ...]
    memory: int
    size: int
    startup: float
    note: str = ""


@dataclass(frozen=True)
class Verification:
    """All runtimes measured; why others are not installed, and why others that are failed."""

    measured: list[Measured]
    skipped: dict[str, str]
    observations: int
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether every runtime that is installed runs and agrees."""
        return not self.failed and all(each.agrees for each in self.measured)


def verify(path: str | Path, *, observations: int = 10_000, seconds: float = 1.0) -> Verification:
    """Runs JAX, NumPy, ONNX Runtime and C on the golden vectors and on random observations.

    Args:
        path: A bundle, or a run's folder.
        observations: How many random ones.
        seconds: How long each runtime's latency is measured.

    Raises:
        UserError: There is no bundle.
    """
    bundle, path = read_bundle(path), Path(path)
    skipped = missing_runtimes()
    found = Verification([], skipped, observations)
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        folder, expected = Path(name), None
        for runtime in RUNTIMES:
            if runtime in skipped:
                continue
            with _noting(runtime, found.failed):
                model = _export(runtime, bundle, path, folder)
                answers, figures = _run(runtime, path, model, folder, observations, seconds)
                expected = expected or answers
                found.measured.append(_judge(runtime, answers, expected, bundle, figures, _size(model)))
                if runtime == "C":
                    found.measured.append(_run_program(bundle, folder, expected, observations))
    return found


def missing_runtimes() -> dict[str, str]:
    """Which runtimes are not installed, and what to do about it."""
    missing = {}
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
        missing["ONNX Runtime"] = "onnx and onnxruntime are not installed: pip install 'policy-gradients[export]'"
    try:
        find_compiler()
    except UserError as error:
        missing["C"] = str(error)
    return missing


@contextlib.contextmanager
def _noting(runtime: str, failed: dict[str, str]) -> Iterator[None]:
    """Goes on after a runtime that fails, and keeps the reason."""
    try:
        yield
    except subprocess.TimeoutExpired:
        failed[runtime] = f"no answer within {_TIMEOUT:g} seconds."
    except (UserError, OSError, ImportError) as error:
        failed[runtime] = (str(error) or type(error).__name__).splitlines()[0]


def _export(runtime: str, bundle: Bundle, path: Path, folder: Path) -> Path:
    """What a runtime reads."""
    if runtime == "ONNX Runtime":
        from policy_gradients.deployment.onnx import write_onnx

        return write_onnx(bundle, folder / "policy.onnx")
    if runtime == "C":
        source = next(file for file in write_c(bundle, folder) if file.suffix == ".c")
        return compile_c(source, folder / "policy.so")
    return path


def _run(
    runtime: str, path: Path, model: Path, folder: Path, count: int, seconds: float
) -> tuple[dict[str, np.ndarray], dict]:
    """Answers and figures of one runtime in a process of its own."""
    out = folder / "answers.npz"
    words = [runtime, str(path), str(model), str(out), str(count), str(seconds)]
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "policy_gradients.deployment.measure", *words],
        capture_output=True, text=True, check=False, timeout=_TIMEOUT, env={**os.environ, **_ONE_THREAD},
    )  # fmt: skip
    if done.returncode != 0:
        raise UserError((done.stderr.splitlines() or ["It says nothing."])[-1])
    figures = json.loads(done.stdout.splitlines()[-1])
    figures["startup"] = figures["first_action"] - began
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays), figures


def _judge(
    runtime: str,
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    bundle: Bundle,
    figures: dict,
    size: int,
) -> Measured:
    error, agrees = compare(bundle, found, expected)
    note = "" if found.get("exact", True) else "self-test: other bits than on the machine that exported"
    latency = tuple(figures["latency"])
    return Measured(runtime, error, agrees, latency, figures["memory"], size, figures["startup"], note)


def compare(bundle: Bundle, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[float, bool]:
    """Largest difference of actions, and whether all are within the tolerance; also to the stored golden actions.

    A discrete action may differ where the two largest logits are as near to each other as the tolerance.
    """
    pairs = [(found[name], expected[name]) for name in ("golden", "random")]
    pairs.append((found["golden"], bundle.golden["action"]))
    if bundle.description.action.kind == "discrete":
        rows = sum(int((a != b).sum()) for a, b in pairs)
        return float(rows), rows <= _near_ties(bundle, len(expected["random"]))
    errors = [np.abs(a.astype(np.float64) - b).max(axis=-1) for a, b in pairs]
    agrees = all((error <= tolerance_of(b)).all() for error, (_, b) in zip(errors, pairs, strict=True))
    return float(max(error.max() for error in errors)), agrees


def _near_ties(bundle: Bundle, count: int) -> int:
    """Rows in which the second largest logit is within the tolerance of the largest."""
    from policy_gradients.deployment.numpy_policy import NumpyPolicy

    policy = NumpyPolicy(bundle.description, bundle.tensors)
    if bundle.description.action.n == 1:
        return 0
    ties = 0
    for obs in (bundle.golden["obs"], bundle.golden["obs"], *random_observations(bundle, count)):
        logits = policy.distribution(obs)["logits"]
        top = np.sort(logits, axis=-1)[:, -2:]
        ties += int((top[:, 1] - top[:, 0] <= 2 * tolerance_of(logits)).sum())
    return ties


def _run_program(bundle: Bundle, folder: Path, expected: dict[str, np.ndarray], count: int) -> Measured:
    """The C as a program on its own: static where the system has the libraries for it."""
    note = "static"
    try:
        program = compile_c(folder / "policy.c", folder / "program", flags=_STATIC, main="policy")
    except UserError:
        note = "not static"
        program = compile_c(folder / "policy.c", folder / "program", main="policy")
    startup, memory = program_start(program, bundle.golden["obs"][0].tobytes(), action_bytes(bundle))
    found = {"golden": _ask(program, bundle, bundle.golden["obs"])}
    found["random"] = np.concatenate([_ask(program, bundle, obs) for obs in random_observations(bundle, count)])
    error, agrees = compare(bundle, found, expected)
    return Measured("C program", error, agrees, (), memory, program.stat().st_size, startup, note)


def program_start(program: Path, obs: bytes, answer: int, repeats: int = 20) -> tuple[float, int]:
    """Median seconds from the start of the program to its first action, and its resident bytes then."""
    times, memory = [], 0
    for _ in range(repeats):
        began = time.perf_counter()
        with subprocess.Popen([str(program), "-b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(obs)
            process.stdin.flush()
            process.stdout.read(answer)
            times.append(time.perf_counter() - began)
            status = Path(f"/proc/{process.pid}/status")
            memory = resident_bytes(status.read_text()) if status.is_file() else 0
            process.stdin.close()
    return float(np.median(times)), memory


def action_bytes(bundle: Bundle) -> int:
    """Length of one action as the C program writes it."""
    action = bundle.description.action
    return 4 if action.kind == "discrete" else 4 * action.shape[0]


def _ask(program: Path, bundle: Bundle, obs: np.ndarray) -> np.ndarray:
    done = subprocess.run(
        [str(program), "-b"], input=np.ascontiguousarray(obs).tobytes(), capture_output=True, check=False,
        timeout=_TIMEOUT,
    )  # fmt: skip
    if done.returncode != 0:
        raise UserError(f"The C program fails: {done.stderr.decode(errors='replace').strip()}.")
    if bundle.description.action.kind == "discrete":
        return np.frombuffer(done.stdout, np.int32).astype(np.int64)
    return np.frombuffer(done.stdout, np.float32).reshape(len(obs), -1)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    folder = path / "policy" if (path / "policy" / "policy.json").is_file() else path
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def report(verification: Verification) -> str:
    """The table, and what was left out."""
    head = ("runtime", "max error", "p50 µs", "p99 µs", "p99.9 µs", "memory MB", "file MB", "start ms", "")
    rows: list[tuple[str, ...]] = [head]
    for each in verification.measured:
        times = [f"{1e6 * value:.1f}" for value in each.latency] or ["", "", ""]
        figures = (f"{each.memory / 1e6:.1f}", f"{each.size / 1e6:.2f}", f"{1e3 * each.startup:.1f}")
        verdict = each.note if each.agrees else "DISAGREES"
        rows.append((each.runtime, f"{each.error:.2g}", *times, *figures, verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]
    lines += [f"not run: {name}: {reason}" for name, reason in verification.skipped.items()]
    lines += [f"FAILED: {name}: {reason}" for name, reason in verification.failed.items()]
    near = all(each.agrees for each in verification.measured)
    verdict = f"within {TOLERANCE:g}" if near else "NOT within the tolerance"
    verdict += f", but {' and '.join(verification.failed)} failed" if verification.failed else ""
    lines.append(f"Golden vectors and {verification.observations:,} random observations: {verdict}.")
    return os.linesep.join(lines)
