"""Training from Python in one call."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from policy_gradients.environments.base import Environment
from policy_gradients.errors import UserError
from policy_gradients.training import loop
from policy_gradients.training.config import CONFIGS, EnvironmentConfig, Experiment, Hyperparameters
from policy_gradients.training.preset import compose
from policy_gradients.training.schema import to_plain
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
        make_env: `num_envs -> Environment` of your own instead of `env`.
        **fields: Other fields of an `Experiment`, as dataclasses or mappings of what differs: `network`,
            `evaluation`, `checkpoint`, `logging`, `video`.

    Returns:
        The run: `.path`, its folder, and `.result`, its final metrics by name.

    Raises:
        UserError: Settings are wrong, or the folder cannot be used.
        EnvironmentFailure: A simulator failed; the last checkpoint is kept.
        TrainingDiverged: A number became infinite or NaN; the last checkpoint is kept.
    """
    given = {"total_steps": total_steps, "seed": seed, **fields}
    asked = {name: to_plain(value) for name, value in given.items() if value is not None}
    if env is not None:
        asked["env"] = {"id": env} if isinstance(env, str) else to_plain(env)
    experiment, _ = compose(_settings(config), asked, preset="auto" if isinstance(config, str) else "none")
    return loop.train(experiment, run_dir, agent=agent, make_env=make_env)


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
