"""Where a run lies, and what a checkpoint of it holds."""

import itertools
import json
import math
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from policy_gradients import processes
from policy_gradients.environments.base import Environment
from policy_gradients.environments.host import with_cause
from policy_gradients.errors import UserError
from policy_gradients.training import checkpoint as ckpt
from policy_gradients.training.config import Experiment, config_hash
from policy_gradients.training.devices import on_one_device, place
from policy_gradients.training.rollout import Carry
from policy_gradients.training.setup import Parts, RunState, forget_running_returns, start_environments
from policy_gradients.types import Key


def save_state(
    run: Path,
    experiment: Experiment,
    env: Environment,
    state: RunState,
    update: int,
    *,
    time_elapsed: float,
    best: float,
    name: str | None = None,
) -> None:
    """Writes a checkpoint of a run, and deletes those that are too old to keep. All processes must call it.

    Args:
        run: Its folder.
        experiment: Its settings.
        env: Its environments, of which `state` is a state.
        state: All that changes.
        update: Updates done.
        time_elapsed: Seconds that the run has taken.
        best: The highest evaluation so far; −∞ for none.
        name: A name of its own, which is never deleted; None for one among the latest.

    Raises:
        UserError: It cannot be written, or the run's folder is gone.
    """
    learner, carry = on_one_device(state)
    arrays = ckpt.flatten_tree({"learner": learner, "obs": carry.obs, "episodes": carry.episodes})
    arrays |= {f"env.{key}": value for key, value in env.snapshot(carry.env_state).items()}
    if not processes.leads():
        return
    check_there(run)
    folder = run / "checkpoints" / name if name else ckpt.checkpoint_folder(run, update)
    manifest = {
        "update": update,
        "total_timesteps": int(learner.step),
        "time_elapsed": time_elapsed,
        "best": best if math.isfinite(best) else None,
        "config_hash": config_hash(experiment),
        "exact_resume": env.spec.exact_resume,
        "environment": {"id": env.spec.id, "engine": env.spec.engine, "versions": dict(env.spec.versions)},
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "cpu_count": os.cpu_count(),
        "processes": processes.count(),
    }
    ckpt.save_checkpoint(folder, arrays, manifest)
    if name is None:
        ckpt.prune_checkpoints(run, experiment.checkpoint.keep_last)


def best_of(manifest: Mapping[str, Any]) -> float:
    """The highest evaluation of a run so far; −∞ for none."""
    return -math.inf if manifest["best"] is None else manifest["best"]


def restore_state(
    parts: Parts,
    fresh: RunState,
    saved: tuple[dict[str, np.ndarray], dict[str, Any]],
    run: Path,
    restart_key: Key,
    say: Callable[[str], None],
) -> RunState:
    """The state of a checkpoint, on the devices of this run.

    Args:
        parts: What the run is made of.
        fresh: A state like the saved one.
        saved: Arrays and manifest of the checkpoint.
        run: The run's folder.
        restart_key: Of the stream from which environments start anew whose simulator cannot be saved.
        say: Takes a sentence for the user.

    Raises:
        UserError: The checkpoint does not fit the run.
    """
    (arrays, manifest), env, fresh = saved, parts.env, RunState(*on_one_device(fresh))
    before = manifest.get("processes", 1)
    if env.spec.on_host and env.spec.exact_resume and before != processes.count():
        raise UserError(
            f"{run} was trained by {before} {'process' if before == 1 else 'processes'}, each of which stepped its "
            f"share of {env.spec.id}, but {processes.count()} would go on; resume it with {before}."
        )
    trained_on = manifest["environment"]["id"]
    if trained_on != env.spec.id:
        raise UserError(
            f"{run} was trained on {trained_on}, but {env.spec.id} would go on; resume it with the same environment, "
            "and with the make_env= that it was started with, if any."
        )
    template = {"learner": fresh.learner, "obs": fresh.carry.obs, "episodes": fresh.carry.episodes}
    tree = ckpt.unflatten_tree(template, arrays, run)
    if env.spec.exact_resume:
        inner = {name[4:]: array for name, array in arrays.items() if name.startswith("env.")}
        env_state = env.restore(inner, fresh.carry.env_state)
        return RunState(*place(parts.mesh, tree["learner"], Carry(env_state, tree["obs"], tree["episodes"])))
    say(f"{env.spec.id}: the simulator's state cannot be saved, so its environments start new episodes.")
    started = with_cause(start_environments, env, jax.random.fold_in(restart_key, manifest["update"]))
    window = tree["episodes"]._replace(
        running_return=started.episodes.running_return, running_length=started.episodes.running_length
    )
    return RunState(*place(parts.mesh, forget_running_returns(tree["learner"]), started._replace(episodes=window)))


def new_folder(experiment: Experiment, run_dir: Path | str | None, seeds: str) -> Path:
    """A folder for a run, made; a second one in the same second gets a number.

    Args:
        experiment: What its name tells.
        run_dir: The folder asked for, new or empty; None for one under `runs/`.
        seeds: How its name tells the seed.

    Raises:
        UserError: It holds something already, is a file, or cannot be made.
    """
    if run_dir is None:
        name = experiment.env.id.replace("/", "_").replace(":", "_")
        stem = f"{experiment.algorithm}-{name}-{seeds}-{time.strftime('%Y%m%d-%H%M%S')}"
        run = next(p for i in itertools.count() if not (p := Path("runs") / (stem + (f"-{i}" if i else ""))).exists())
    else:
        run = as_path(run_dir)
    if run.is_file():
        raise UserError(f"{run} is a file, but a run needs a folder; choose another --run-dir.")
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(
            f"{run} already exists and is not empty; choose another --run-dir, or continue that run with: "
            f"policy-gradients resume {quoted(run)}"
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the run folder {run}: {error.strerror}. Choose another --run-dir.") from error
    return run


def as_path(run_dir: Any) -> Path:
    """A run's folder as it was given.

    Raises:
        UserError: It is no path.
    """
    if not isinstance(run_dir, str | os.PathLike):
        raise UserError(f"run_dir: expected a path, got {run_dir!r}.")
    return Path(run_dir)


def quoted(path: Path) -> str:
    """A path as a shell reads it."""
    return shlex.quote(str(path))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps what else runs off a run or a sweep: two would spoil each other's work. A kill releases it.

    Of several processes that train together the lead holds it.

    Raises:
        UserError: Another process works on it, or it cannot be written.
    """
    import fcntl

    if not processes.leads():
        yield
        return
    try:
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; copy it to where you may write.") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another process works on {folder}; wait for it, or choose another folder.") from None
        except OSError:
            pass  # some network file systems have no locks
        yield


def check_there(run: Path) -> None:
    """Refuses to save where a run's folder was: one that was made anew there would hold half a run.

    Raises:
        UserError: The folder was renamed or deleted, or its settings were.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"{run} was renamed or deleted while it was trained (its config.yaml is gone), so nothing more was saved; "
            "if it was renamed, resume it under its new name."
        )


def discard_unused(run: Path) -> None:
    """Deletes a run's folder in which nothing is but its settings, so that `plot runs/*` does not meet it."""
    if run.is_dir() and {path.name for path in run.iterdir()} <= {"config.yaml", ".lock"}:
        for path in run.iterdir():
            path.unlink()
        run.rmdir()


def is_complete(run: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a run's policy is that of its last checkpoint, and not of an earlier end that was gone beyond."""
    try:
        policy = json.loads((run / "policy" / "policy.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return policy.get("provenance", {}).get("total_timesteps") == manifest["total_timesteps"]
