"""What a run says of the engine that steps its environments: which one and why, and what went wrong in it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from policy_gradients.environments.base import EnvironmentFailure, EnvironmentSpec
from policy_gradients.environments.registry import settle
from policy_gradients.training.config import Experiment

OFTEN = 0.01
"""Share of all environment steps above which overflows or unstable worlds stop a run: results would mean little."""

_NEWS = {
    "env/overflows": "steps found no room for all their contacts or constraints, which then lack some",
    "env/unstable_worlds": "worlds met NaN or huge numbers and were reset; nothing is learnt from those steps",
}

COUNTED = tuple(_NEWS)
"""Metrics that count what goes wrong in an engine."""


def settle_engine(experiment: Experiment) -> tuple[Experiment, str]:
    """The experiment with `env.engine` as this machine decides it, and the line that says so.

    The line is empty where there is nothing to choose. A run keeps its decision, so that it resumes on the same engine.

    Raises:
        UserError: The engine does not step the environment.
    """
    env = experiment.env
    engine, reason = settle(env.id, env.engine, env.num_envs)
    if engine not in ("mujoco", "warp"):
        return experiment, ""
    name = "warp" if engine == "warp" else "batch"
    device = str(env.kwargs.get("device", "the GPU"))
    place = "the processor" if device == "cpu" else device
    what = f"MuJoCo Warp on {place}" if engine == "warp" else "MuJoCo's C engine on the processor"
    line = f"Engine {name}: {what}, {env.num_envs:,} worlds ({reason})."
    if ":" in env.id:
        return experiment, line
    return replace(experiment, env=replace(env, engine=name)), line


class EngineWatch:
    """Reports what an engine counts when it first happens, and stops the run when it happens often.

    Args:
        spec: The environments'.
        say: Takes a sentence for the user.
    """

    def __init__(self, spec: EnvironmentSpec, say: Callable[[str], None]) -> None:
        self._spec, self._say, self._told = spec, say, set[str]()

    def __call__(self, metrics: Mapping[str, float], steps: int) -> None:
        """Looks at an update's metrics.

        Args:
            metrics: By name; counts since the environments' reset.
            steps: Environment steps since then, over all copies.

        Raises:
            EnvironmentFailure: More than `OFTEN` of the steps are counted.
        """
        for name, news in _NEWS.items():
            count = metrics.get(name, 0.0)
            if count > OFTEN * steps:
                way_out = ", or use --engine batch" if self._spec.engine == "warp" else ""
                raise EnvironmentFailure(
                    f"{self._spec.id}: {count:,.0f} of {steps:,} {news}. Lower the learning rate{way_out}."
                )
            if count and name not in self._told:
                self._told.add(name)
                self._say(f"{self._spec.id}: {count:,.0f} of {steps:,} {news} ({name} counts them).")
