"""Compiling the generated C, and acting with it from Python."""

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.bundle import Bundle, read_bundle
from policy_gradients.deployment.c99.files import write_together
from policy_gradients.deployment.c99.source import c_source, identity, scratch_size
from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.memory import aligned
from policy_gradients.deployment.numpy_policy import chosen_source, noise_source
from policy_gradients.deployment.observations import ObservationCheck, RefusedObservation
from policy_gradients.errors import UserError

FLAGS = ("-std=c99", "-O3", "-march=native", "-funroll-loops", "-ffp-contract=off")
"""For the machine that compiles; leave -march=native out for another one. Only speed depends on the first three."""

_SECONDS = 600.0  # a compiler may take for one policy


def find_compiler(name: str | None = None) -> str:
    """Path of a C compiler: the one named, else $CC, cc, gcc or clang.

    Raises:
        UserError: There is none.
    """
    names = (name,) if name else (os.environ.get("CC") or "cc", "gcc", "clang")
    for candidate in names:
        found = shutil.which(candidate)
        if found is not None:
            return found
    raise UserError(f"No C compiler: none of {', '.join(names)} is installed. On Debian: apt-get install gcc.")


def write_c(bundle: Bundle, folder: str | Path, prefix: str = "policy") -> list[Path]:
    """Writes `<prefix>.c` and `<prefix>.h` into a folder, which is made if it is not there; their paths.

    Files that are there already are replaced, both or none: a disk that is full leaves the old ones.

    Raises:
        UserError: As `c_source`, or the folder cannot be written.
    """
    folder = Path(folder)
    files = {folder / name: text.encode("ascii") for name, text in c_source(bundle, prefix).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_together(files)
    except OSError as error:
        raise UserError(f"{folder}: the C files cannot be written: {error.strerror}.") from None
    return list(files)


def compile_c(
    source: Path,
    out: Path,
    *,
    compiler: str | None = None,
    flags: Sequence[str] | None = None,
    main: str | None = None,
) -> Path:
    """Compiles a generated file into a shared library, or into a program.

    Args:
        source: The `.c`.
        out: What to make.
        compiler: Name of the compiler; None for the first that `find_compiler` finds.
        flags: Its options; None for `FLAGS`.
        main: Prefix of the policy whose `main` is wanted; None for a shared library.

    Raises:
        UserError: There is no compiler, or it fails.
    """
    kind = [f"-D{main.upper()}_MAIN"] if main else ["-shared", "-fPIC"]
    command = [find_compiler(compiler), *(FLAGS if flags is None else flags), *kind, str(source), "-o", str(out), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not compile {source.name} within {_SECONDS:g} seconds.") from None
    if done.returncode != 0:
        first = next(iter(done.stderr.splitlines()), "it says nothing")
        raise UserError(f"{command[0]} cannot compile {source.name}: {first}.")
    return out


def load_c_policy(path: str | Path, *, compiler: str | None = None, seed: int | None = None) -> "CPolicy":
    """Generates, compiles and loads the policy of a bundle as C; the files are gone when this returns.

    Args:
        path: A bundle, or a run's folder.
        compiler: Name of the compiler; None for the first that is found.
        seed: Seed of the policy's own noise.

    Raises:
        UserError: There is no bundle or no compiler, or the self-test of what was compiled fails.
    """
    bundle = read_bundle(path)
    with tempfile.TemporaryDirectory(prefix="policy-") as folder:
        source = write_c(bundle, folder)[0].with_suffix(".c")
        library = compile_c(source, Path(folder) / "policy.so", compiler=compiler)
        return CPolicy(library, bundle.description, seed=seed)


class CPolicy:
    """The policy compiled from C, called as `NumpyPolicy` is.

    Threads may act with one policy at the same time: each has its own scratch memory, and the interpreter's lock is
    released while C computes.

    Args:
        library: The shared library. Its memory is the caller's, so one of another policy is refused before it acts.
        description: Of the bundle that it was generated from.
        prefix: Of its names.
        seed: Seed of the policy's own noise; None draws one from the system.

    Attributes:
        exact: Whether the self-test found every bit right.

    Raises:
        UserError: The library cannot be loaded, it is that of another policy, or its self-test fails.
    """

    def __init__(
        self, library: str | Path, description: PolicyDescription, *, prefix: str = "policy", seed: int | None = None
    ) -> None:
        self.description = description
        self._observation = ObservationCheck(description.observation)
        self._shape, self._dtype = description.observation.shape, np.dtype(description.observation.dtype)
        self._rng = noise_source(seed)
        loaded, functions = _load(library, prefix)
        _check_identity(library, loaded, prefix, description)
        self._act, self._sample, self._distribution, selftest = functions
        self._memory = _Memory(description, self._act)
        self._discrete = description.action.kind == "discrete"
        status = selftest(self._memory.scratch_at)
        if status not in (_OK, _INEXACT):
            raise UserError(f"{library}: the self-test fails ({status}); compile it again, without -ffast-math.")
        self.exact = status == _OK

    def __call__(
        self, obs: ArrayLike, *, deterministic: bool = True, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `NumpyPolicy.__call__`."""
        if deterministic:
            view, act, answer = self._memory.deterministic
            try:
                view[:] = obs  # copies one observation as it should be: a memory view compares shape and type itself
            except (TypeError, ValueError, NotImplementedError):
                pass  # something else, which is looked at below
            else:
                status = act()
                if status:
                    _refuse(status)  # C itself refuses what is not finite
                return answer()
        x, rng = self._observation(obs), None if deterministic else chosen_source(rng, self._rng)
        if x.ndim == len(self._shape):
            return self._one(x, rng)
        like = np.int64(0) if self._discrete else self._memory.action
        return self._many(x, lambda row: self._one(row, rng), like)

    def distribution(self, obs: ArrayLike) -> dict[str, np.ndarray]:
        """As `NumpyPolicy.distribution`."""
        x = self._observation(obs)
        if x.ndim == len(self._shape):
            numbers = self._describe(x)
        else:
            numbers = self._many(x, self._describe, self._memory.distribution)
        if self.description.action.kind == "discrete":
            return {"logits": numbers}
        mean, log_std = np.split(numbers, 2, axis=-1)
        return {"mean": mean, "log_std": log_std}

    def _one(self, obs: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        memory = self._memory
        memory.obs[...] = obs
        if rng is None:
            status = self._act(memory.obs_at, memory.action_at, memory.scratch_at)
        else:
            memory.draw(rng)
            status = self._sample(memory.obs_at, memory.noise_at, memory.action_at, memory.scratch_at)
        if status:
            _refuse(status)
        return memory.answer()

    def _describe(self, obs: np.ndarray) -> np.ndarray:
        memory = self._memory
        memory.obs[...] = obs
        status = self._distribution(memory.obs_at, memory.distribution_at, memory.scratch_at)
        if status:
            _refuse(status)
        return memory.distribution.copy()

    def _many(self, x: np.ndarray, function: Callable[[np.ndarray], Any], like: np.ndarray | np.integer) -> np.ndarray:
        """The function of every observation in a batch, with results shaped as `like`."""
        lead = x.shape[: x.ndim - len(self._shape)]
        rows = [function(row) for row in x.reshape(-1, *self._shape)]
        return np.array(rows, like.dtype).reshape(*lead, *like.shape)


def _load(library: str | Path, prefix: str) -> tuple[ctypes.CDLL, list[Any]]:
    """A shared library, and its functions `act`, `sample`, `distribution` and `selftest`."""
    try:
        loaded = ctypes.CDLL(str(Path(library).resolve()))
        functions = [getattr(loaded, f"{prefix}_{name}") for name in ("act", "sample", "distribution", "selftest")]
    except (OSError, AttributeError) as error:
        raise UserError(f"{library} is not a policy compiled from C: {error}.") from None
    for function, count in zip(functions, (3, 4, 3, 1), strict=True):
        function.argtypes, function.restype = [ctypes.c_void_p] * count, ctypes.c_int
    return loaded, functions


def _check_identity(library: str | Path, loaded: ctypes.CDLL, prefix: str, description: PolicyDescription) -> None:
    """That the library was generated from this description: it writes as much as its own says, wherever that goes."""
    try:
        function = loaded[f"{prefix}_identity"]
    except AttributeError:
        raise UserError(
            f"{library} does not say which policy it is, as new ones do; export the policy again and compile it again."
        ) from None
    function.argtypes, function.restype = [], ctypes.c_char_p
    expected, found = identity(description), (function() or b"").decode("ascii", "replace")
    if found != expected:
        raise UserError(
            f"{library} is not the policy of this description: expected {expected}, not {found}; "
            "export and compile the policy again, or give the description of the library's own bundle."
        )


_OK, _BAD_OBSERVATION, _INEXACT = 0, 1, 4


def _refuse(status: int) -> None:
    if status == _BAD_OBSERVATION:
        raise RefusedObservation("The observation holds a NaN or an infinity; the policy does not act on it.")
    raise RefusedObservation("The policy's output is not finite: the observation is too large for its network.")


class _Memory(threading.local):
    """One thread's arrays, and their addresses; aligned, which makes C a little faster."""

    def __init__(self, description: PolicyDescription, act: Callable[..., int]) -> None:
        action, observation = description.action, description.observation
        self._discrete = action.kind == "discrete"
        size = action.n if self._discrete else math.prod(action.shape)
        self.obs, self.obs_at = _aligned(observation.shape, observation.dtype)
        self.action, self.action_at = _aligned(
            (1 if self._discrete else size,), "int32" if self._discrete else "float32"
        )
        self.noise, self.noise_at = _aligned((size,), "float32")
        self.distribution, self.distribution_at = _aligned((size if self._discrete else 2 * size,), "float32")
        self.scratch, self.scratch_at = _aligned((scratch_size(description),), "float32")
        ready = partial(act, self.obs_at, self.action_at, self.scratch_at)
        self.answer: Any = (lambda: np.int64(self.action[0])) if self._discrete else self.action.copy
        view: Any = self.obs.data
        self.deterministic = view, ready, self.answer  # one look-up by thread instead of three

    def draw(self, rng: np.random.Generator) -> None:
        """Fills in the noise that the policy's distribution needs."""
        if self._discrete:
            self.noise[...] = rng.gumbel(size=self.noise.size)
        else:
            rng.standard_normal(dtype=np.float32, out=self.noise)


def _aligned(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, int]:
    array = aligned(shape, dtype)
    return array, array.ctypes.data
