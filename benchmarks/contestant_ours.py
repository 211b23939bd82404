"""policy_gradients as a contestant: the program of a run (rollout and update) with its metrics fetched.

Settings: {"experiment": an Experiment as plain data, "return_steps": when to note the return, "cache": folder of the
compilation cache; by default an empty one, so that compile time is that of a first run}.
"""

import math
import os
from typing import Any

from contest import measure_for, serve
from report import versions


class Trainer:
    """A run without logs and checkpoints."""

    def __init__(self, settings: dict[str, Any]) -> None:
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        os.environ["XDG_CACHE_HOME"] = settings.get("cache") or os.getcwd()
        from policy_gradients.cli.runtime import start_jax

        start_jax()
        import jax

        from policy_gradients.training.config import parse_experiment
        from policy_gradients.training.program import Program
        from policy_gradients.training.setup import build, initial_state, make_environment

        experiment = parse_experiment(settings["experiment"])
        parts = build(experiment, make_environment(experiment, experiment.env.num_envs))
        state = initial_state(parts, jax.random.key(experiment.seed))
        self._state = state
        self._per_update = experiment.env.num_envs * experiment.hyperparameters.num_steps
        self._program = Program(parts, self._per_update, jax.random.key(experiment.seed), state)
        self.compile_seconds = self._program.compile_seconds
        self._return_steps = settings["return_steps"]
        self._updates = 0
        self._noted: dict[str, float] = {}

    def iterate(self) -> int:
        """One call of the program, which is an iteration or several small ones; returns its environment steps."""
        count = self._program.at_most
        self._state, rows = self._program(self._state, self._updates, count)
        self._updates += count
        steps = self._updates * self._per_update
        if not self._noted and steps >= self._return_steps:
            self._noted = {"steps": steps, "return": rows[-1]["rollout/ep_rew_mean"]}
        return count * self._per_update

    def measure(self, seconds: float) -> dict[str, float]:
        """Iterations for so many seconds."""
        return measure_for(seconds, self.iterate)

    def reached(self) -> dict[str, float | None]:
        """Mean return of the last 100 training episodes once the stated number of steps is trained."""
        while not self._noted:
            self.iterate()
        value = self._noted["return"]
        return {**self._noted, "return": None if math.isnan(value) else value}


def start(settings: dict[str, Any]) -> tuple[dict, dict]:
    """Compiles, and runs two calls to warm up."""
    trainer = Trainer(settings)
    for _ in range(2):
        trainer.iterate()
    facts = {"compile_seconds": trainer.compile_seconds, "versions": versions()}
    return facts, {"measure": trainer.measure, "return": trainer.reached}


if __name__ == "__main__":
    serve(start)
