"""Training from Python in one call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policy_gradients.environments.base import Environment
from policy_gradients.errors import UserError
from policy_gradients.training import loop
from policy_gradients.training import seeds as seeds_module
from policy_gradients.training.config import CONFIGS, EnvironmentConfig, Experiment, Hyperparameters
from policy_gradients.training.preset import compose
from policy_gradients.training.schema import to_plain
from policy_gradients.training.seeds import SeedRuns
from policy_gradients.types import ActorCritic


def train(
    config: str | Hyperparameters | Experiment = "ppo",
    *,
    env: str | EnvironmentConfig | None = None,
    total_steps: int | None = None,
    seed: int | None = None,
    run_dir: Path | str | None = None,
    agent: ActorCritic | None = None,
    make_env: Callable[[int], Environment] | None = None,
    **fields: Any,
) -> loop.Run:
    """Trains a policy; everything lies in the run's folder afterwards.

    Args:
        config: What learns. An algorithm's name takes the task's preset, as on the command line; hyperparameters are
            used as they are, the rest at its defaults; an experiment is used as it is.
        env: Environment id, or all its settings. Overrides those of `config`, as do the arguments below.
        total_steps: Environment steps of the whole run, over all copies.
        seed: Of everything drawn at random.
        run_dir: A new or empty folder; None for one under `runs/`.
        agent: Networks of your own instead of `network` (no policy bundle is written then).
        make_env: `num_envs -> Environment` of your own; `env` then only names the run.
        **fields: Other fields of an `Experiment`, as dataclasses or mappings of what differs: `network`,
            `evaluation`, `checkpoint`, `logging`, `video`.

    Returns:
        The run: `.path`, its folder, and `.result`, its final metrics by name.

    Raises:
        UserError: Settings are wrong, or the folder cannot be used.
        EnvironmentFailure: A simulator failed; the last checkpoint is kept.
        TrainingDiverged: A number became infinite or NaN; the last checkpoint is kept.
    """
    _check_named(config, env, make_env)
    experiment = _experiment(config, env, total_steps=total_steps, seed=seed, **fields)
    return loop.train(experiment, run_dir, agent=agent, make_env=make_env)


def train_seeds(
    config: str | Hyperparameters | Experiment = "ppo",
    seeds: int | Sequence[int] = 5,
    *,
    env: str | EnvironmentConfig | None = None,
    numbers: Mapping[str, Sequence[float]] | None = None,
    run_dir: Path | str | None = None,
    agent: ActorCritic | None = None,
    make_env: Callable[[int], Environment] | None = None,
    **fields: Any,
) -> SeedRuns:
    """Trains many seeds as one program, each into a folder of its own (`training.seeds.train_seeds`).

    Args:
        config: As for `train`.
        seeds: The seeds, or how many of them.
        env: As for `train`; an environment written in JAX, or a MuJoCo task on Warp.
        numbers: Hyperparameters that differ between the seeds: by name, one number for each.
        run_dir: A new or empty folder; None for one under `runs/`.
        agent: As for `train`.
        make_env: As for `train`.
        **fields: Other fields of an `Experiment`, as for `train`; `seed` is the first where `seeds` says how many.

    Returns:
        The runs: `.path`, the folder above them, `.runs`, and `.interval()`, the mean of their last returns.

    Raises:
        UserError: Settings are wrong, the simulator is outside the program, or the folder cannot be used.
        EnvironmentFailure: The engine counted too many failures; the last checkpoints are kept.
    """
    _check_named(config, env, make_env)
    experiment = _experiment(config, env, **fields)
    return seeds_module.train_seeds(experiment, seeds, run_dir, numbers=numbers, agent=agent, make_env=make_env)


def _check_named(config: Any, env: Any, make_env: Any) -> None:
    """Refuses an environment of one's own without a name: the run would take the default task's, and its preset."""
    if make_env is not None and env is None and not isinstance(config, Experiment):
        raise UserError("make_env: name your environment with env=, such as env='Mine-v0'; the run bears that name.")


def _experiment(
    config: str | Hyperparameters | Experiment, env: str | EnvironmentConfig | None, **given: Any
) -> Experiment:
    asked = {name: to_plain(value) for name, value in given.items() if value is not None}
    if env is not None:
        asked["env"] = {"id": env} if isinstance(env, str) else to_plain(env)
    return compose(_settings(config), asked, preset="auto" if isinstance(config, str) else "none")[0]


def _settings(config: str | Hyperparameters | Experiment) -> Mapping[str, Any]:
    if isinstance(config, str):
        return {"algorithm": config}
    if isinstance(config, Experiment):
        return to_plain(config)
    for name, kind in CONFIGS.items():
        if isinstance(config, kind):
            return {"algorithm": name, "hyperparameters": to_plain(config)}
    known = ", ".join(kind.__name__ for kind in CONFIGS.values())
    raise UserError(f"train expects an algorithm's name, {known} or an Experiment, got {type(config).__name__}.")
