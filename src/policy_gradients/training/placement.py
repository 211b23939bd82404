"""Which back end a run beside a simulator on the host computes on, where JAX has an accelerator: the faster one.

Which that is depends on the network, the number of environments, the processor and the accelerator: it is measured, on
a small part of an update with a stand-in for the simulator, which takes as long on either.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from policy_gradients import backend, compilation, processes
from policy_gradients.environments.base import EnvironmentSpec
from policy_gradients.environments.host import host_environment
from policy_gradients.environments.simulators import host_step
from policy_gradients.training.config import Experiment
from policy_gradients.training.rollout import rollout
from policy_gradients.training.rules import nearest_divisors
from policy_gradients.training.setup import build, initial_state
from policy_gradients.types import ActorCritic

SECONDS = 0.5
"""About so long each program is timed, beside one call to warm it up."""

PARTS = 8
"""An update is at most so many times what is timed."""

Measure = Callable[[Experiment, EnvironmentSpec, ActorCritic | None], float]


class Placement(NamedTuple):
    """Where a run computes."""

    backend: str  # as in an experiment
    line: str  # which was chosen and why; "" where there was nothing to choose


def settle_backend(
    experiment: Experiment, spec: EnvironmentSpec, agent: ActorCritic | None = None, measure: Measure | None = None
) -> Placement:
    """The back end that suits a run.

    It is the one asked for, or JAX's own where there is nothing to choose: no accelerator, an environment inside the
    compiled program, or several processes, which could not choose alike. Beside a simulator on the host both are timed,
    which takes some seconds.

    Args:
        experiment: What is trained.
        spec: Of its environments.
        agent: Networks of your own, instead of the experiment's.
        measure: Seconds of an update on the back end that computes now; None for `seconds_of_update`.
    """
    if experiment.backend != "auto" or not spec.on_host or backend.platform() != "gpu" or processes.count() > 1:
        return Placement(experiment.backend, "")
    seconds, names = {}, {"cpu": "the processor", "gpu": backend.devices()[0].device_kind}
    for name in names:
        with backend.computing_on(name):
            seconds[name] = (measure or seconds_of_update)(experiment, spec, agent)
    chosen, other = sorted(names, key=seconds.__getitem__)
    return Placement(
        chosen,
        f"Back end {chosen}: an update takes {seconds[chosen]:.2g} s on {names[chosen]} and {seconds[other]:.2g} s on "
        f"{names[other]}, the simulator apart (--backend {other} overrides).",
    )


def seconds_of_update(experiment: Experiment, spec: EnvironmentSpec, agent: ActorCritic | None) -> float:
    """Seconds of an update, the simulator apart, on the back end that computes now.

    A part of the update is timed, acting and learning each for itself, and the time is multiplied.

    Args:
        experiment: Its algorithm and hyperparameters.
        spec: Of the environments.
        agent: Networks of your own, instead of the experiment's.
    """
    part, times = part_of_update(experiment, spec.num_envs)
    parts = build(part, host_environment(StandIn(spec)), agent)
    act_key, learn_key, init_key = jax.random.split(jax.random.key(0), 3)
    learner, carry = initial_state(parts, init_key)
    config: Any = part.hyperparameters
    acting = partial(rollout, parts.agent, parts.env, config.normalization, config.num_steps)
    acted = learner.params, learner.statistics, carry
    act, (_, trajectory) = _seconds(acting, act_key, *acted)
    learn, _ = _seconds(parts.algorithm.update, learn_key, learner, trajectory)
    return times * (act + learn)


def part_of_update(experiment: Experiment, num_envs: int) -> tuple[Experiment, float]:
    """An experiment whose update is a small part of the given one's, and how many such parts that has.

    A part is an eighth, or one minibatch where that is more, with minibatches as large as before and all epochs. (Of
    smaller ones the cost of the call would show.)
    """
    config: Any = experiment.hyperparameters
    minibatches = getattr(config, "num_minibatches", 1)
    num_steps = max(1, config.num_steps // min(minibatches, PARTS))
    times = config.num_steps / num_steps
    smaller: Mapping[str, int] = {"num_steps": num_steps}
    if hasattr(config, "num_minibatches"):
        near = max(1, round(minibatches / times))
        rows = num_steps * num_envs
        smaller = {**smaller, "num_minibatches": near if rows % near == 0 else nearest_divisors(rows, near)[-1]}
    return replace(experiment, hyperparameters=replace(config, **smaller)), times


class StandIn:
    """A `HostSimulator` that takes no time and whose episodes never end; its numbers mean nothing.

    Args:
        spec: Of the environments that it stands for, wrappers included.
    """

    def __init__(self, spec: EnvironmentSpec) -> None:
        self.spec = spec
        rng, shape = np.random.default_rng(0), (spec.num_envs, *spec.obs_space.shape)
        dtype = spec.obs_space.dtype
        obs = rng.integers(0, 256, shape, np.uint8) if dtype == np.uint8 else rng.standard_normal(shape).astype(dtype)
        never = np.zeros(spec.num_envs, bool)
        self._step = host_step(obs, obs, rng.standard_normal(spec.num_envs, np.float32), never, never, ~never)

    def reset(self, seed: int) -> np.ndarray:
        """The one observation that there is."""
        return self._step.obs

    def step(self, action: np.ndarray) -> Any:
        """The one step that there is."""
        return self._step

    def snapshot(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _seconds(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Median time of a call, over as many as fit into `SECONDS` after one to warm up; and what it returns."""
    program = jax.jit(function).lower(*args).compile(compiler_options=compilation.for_training(on_host=True))
    out = jax.block_until_ready(program(*args))
    times: list[float] = []
    while not times or sum(times) < SECONDS:
        tick = time.perf_counter()
        jax.block_until_ready(program(*args))
        times.append(time.perf_counter() - tick)
    return statistics.median(times), out
