"""Training a run from its settings, and going on with one: what it runs on, and that nothing else runs on it."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from policy_gradients import compilation, processes
from policy_gradients.backend import computing_on
from policy_gradients.environments.base import Environment
from policy_gradients.environments.registry import resolve
from policy_gradients.errors import UserError
from policy_gradients.training import checkpoint as ckpt
from policy_gradients.training.calendar import count_updates
from policy_gradients.training.config import (
    Experiment,
    load_experiment,
    parse_experiment,
    save_experiment,
    to_mapping,
    validate,
)
from policy_gradients.training.devices import make_mesh
from policy_gradients.training.loggers import check_loggers
from policy_gradients.training.own_parts import checked_maker
from policy_gradients.training.placement import settle_backend
from policy_gradients.training.saving import alone, as_path, discard_unused, new_folder
from policy_gradients.training.session import Run, Session
from policy_gradients.training.setup import build, make_environment
from policy_gradients.training.watch import settle_engine
from policy_gradients.types import ActorCritic


def train(
    experiment: Experiment,
    run_dir: Path | str | None = None,
    *,
    agent: ActorCritic | None = None,
    make_env: Callable[[int], Environment] | None = None,
) -> Run:
    """Trains, evaluates and saves; everything lies in `run_dir` afterwards.

    Args:
        experiment: What to do.
        run_dir: A new or empty folder; None makes runs/<algorithm>-<environment>-seed<seed>-<time>.
        agent: Networks of your own, instead of `experiment.network` (no policy bundle is written then).
        make_env: `num_envs -> Environment` of your own, instead of `experiment.env.id`.

    Raises:
        UserError: Bad configuration, an unknown environment, or a folder that cannot be used.
        EnvironmentFailure: A simulator failed; the last checkpoint is kept.
        TrainingDiverged: Something became infinite or NaN; the last checkpoint is kept.
    """
    validate(experiment)
    check_loggers(experiment)
    with computing_on(experiment.backend):
        experiment, line = (experiment, "") if make_env else settle_engine(experiment)
        processes.check_equal("settings", _deciding(experiment))
        run = Path(processes.from_lead(lambda: str(new_folder(experiment, run_dir, f"seed{experiment.seed}"))))
        with alone(run):
            try:
                if processes.leads():
                    save_experiment(experiment, run / "config.yaml")
                return _run(experiment, run, agent, make_env, None, line)
            except BaseException:
                if processes.leads():
                    discard_unused(run)
                raise


def resume(
    run_dir: Path | str,
    total_steps: int | None = None,
    *,
    devices: int | Literal["all"] | None = None,
    backend: Literal["auto", "cpu", "gpu"] | None = None,
    agent: ActorCritic | None = None,
    make_env: Callable[[int], Environment] | None = None,
) -> Run:
    """Continues a run from its latest checkpoint, as if it had not stopped; arguments as in `train`.

    A run that was killed before its first checkpoint begins at the beginning. One that is finished but for its film
    gets it. Where a resume is refused, nothing of the run has changed.

    Exact to the last bit for JAX environments and our MuJoCo tasks on the same number of cores. Simulators whose state
    cannot be read (EnvPool, Gymnasium) start new episodes.

    Args:
        run_dir: The run's folder.
        total_steps: A new length of the run; a linear schedule then stretches to it.
        devices: Another number of devices than before.
        backend: Another back end than before; "auto" chooses anew.

    Raises:
        UserError: No run folder, a damaged checkpoint, a configuration that does not fit, fewer steps than are done, or
            another process trains this run.
    """
    run = as_path(run_dir)
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml. Give the folder that `train` made.")
    experiment = load_experiment(run / "config.yaml")
    asked = {"total_steps": total_steps, "devices": devices, "backend": backend}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if changes:
        experiment = parse_experiment(to_mapping(replace(experiment, **changes)))
    check_loggers(experiment)
    if make_env is None:
        _check_known(experiment)
    with computing_on(experiment.backend), alone(run):
        found = any((run / "checkpoints").glob("update_*"))
        saved = ckpt.load_checkpoint(ckpt.latest_checkpoint(run)) if found else None
        read = saved[1]["sha256"] if saved else "none"
        processes.check_equal("settings and checkpoint", f"{_deciding(experiment)} {read}")
        steps_per_update = experiment.env.num_envs * experiment.hyperparameters.num_steps
        if saved and count_updates(experiment.total_steps, steps_per_update) < saved[1]["update"]:
            raise UserError(
                f"total_steps: {run} has {saved[1]['total_timesteps']:,} steps behind it, but "
                f"{experiment.total_steps:,} came; give more."
            )
        return _run(experiment, run, agent, make_env, saved)


def _run(
    experiment: Experiment,
    run: Path,
    agent: ActorCritic | None,
    make_env: Callable[[int], Environment] | None,
    saved: tuple[dict[str, np.ndarray], dict[str, Any]] | None,
    line: str = "",
) -> Run:
    """Runs on the back end that suits it, which is kept in the run's config.yaml; says what was chosen."""
    compilation.check_allowed()
    make_env = make_env and checked_maker(make_env)
    mesh = make_mesh(experiment.devices, experiment.env.num_envs)
    env = (make_env or partial(make_environment, experiment, mesh=mesh))(experiment.env.num_envs)
    with ExitStack() as stack:
        stack.callback(env.close)
        if make_env and mesh is not None and env.spec.on_host:
            raise UserError(f"{env.spec.id}: make_env cannot share out a simulator on the host; name it in env.id.")
        chosen = settle_backend(experiment, env.spec, agent)
        if chosen.line:
            experiment = replace(experiment, backend=chosen.backend)
        stack.enter_context(computing_on(chosen.backend))
        session = Session(experiment, run, build(experiment, env, agent, mesh), agent, make_env)
        for sentence in filter(None, (line, chosen.line)):
            session.progress.message(sentence)
        return session.go(int(saved[1]["update"]) if saved else 0, saved)


def _check_known(experiment: Experiment) -> None:
    try:
        resolve(experiment.env.id)
    except UserError as error:
        error.add_note("A run that was started with make_env= goes on in Python: pg.resume(run, make_env=…), the same.")
        raise


def _deciding(experiment: Experiment) -> str:
    """The settings that have to be equal in several processes, as text."""
    mapping = to_mapping(experiment)
    return json.dumps({name: value for name, value in mapping.items() if name not in ("logging", "video")})
