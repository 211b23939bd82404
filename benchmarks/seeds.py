"""Many seeds in one program beside as many runs one after another.

    python benchmarks/seeds.py CartPole-v1                             16 seeds at 64 environments each
    python benchmarks/seeds.py HalfCheetah-v4 --engine warp            the same on a GPU
    python benchmarks/seeds.py HalfCheetah-v4 --engine warp --seeds 1 4 16 64

Settings are `name=value` pairs of an experiment with dotted paths, laid over plain PPO (64-64 networks). Both ways are
timed in one process and in steady state, compilation apart, and by turns, so that a slow spell of the machine meets
both. A line of JSON for each number of seeds: milliseconds of an update alone (a) and together (b), the ratio S·a/b by
which one program is faster, environment steps per second over all seeds, seconds of compiling, and what the same
comparison gives with compilation for so many updates as `--total-steps` of each seed take: S runs compile once, for
their programs are equal.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from settings import read_pairs, tell

from policy_gradients.training.config import Experiment
from policy_gradients.training.population import Member, course
from policy_gradients.training.preset import compose, merge
from policy_gradients.training.setup import build, initial_state, make_agent, make_environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="CartPole-v1")
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="*", default=[16])
    parser.add_argument("--worlds", type=int, default=64, help="of each seed")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default=None, help="Warp's; cpu tries the script without a GPU")
    parser.add_argument("--updates", type=int, default=40, help="timed, of each way")
    parser.add_argument("--total-steps", type=float, default=1e6, help="of each seed, for the comparison as a whole")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    for seeds in options.seeds:
        device = jax.devices()[0].device_kind
        line = {
            "task": options.task,
            "seeds": seeds,
            "worlds": options.worlds,
            "device": device,
            "jax": jax.__version__,
        }
        try:
            line |= measure(options, settings(options), seeds)
        except Exception as failure:  # said in the file, so that the other numbers of seeds are not lost
            line["failure"] = f"{type(failure).__name__}: {failure}"
        tell(line, options.out)


def measure(options: argparse.Namespace, experiment: Experiment, seeds: int) -> dict[str, Any]:
    """An update of one seed and one of all of them, by turns."""
    alone, compile_alone = one_seed(experiment)
    together, compile_together = all_seeds(experiment, seeds, options.updates)
    times: tuple[list[float], list[float]] = ([], [])
    for update in range(options.updates):
        for way, step in zip(times, (alone, together), strict=True):
            tick = time.perf_counter()
            told = step(update)
            way.append(time.perf_counter() - tick)
    a, b = (float(np.median(way[2:])) for way in times)
    steps = experiment.env.num_envs * experiment.hyperparameters.num_steps
    updates = max(1, round(options.total_steps / steps))
    one_after_another, at_once = compile_alone + seeds * updates * a, compile_together + updates * b
    return {
        "num_steps": experiment.hyperparameters.num_steps, "updates": options.updates - 2,
        "alone_ms": 1e3 * a, "together_ms": 1e3 * b, "faster": seeds * a / b,
        "alone_ms_quartiles": quartiles(times[0]), "together_ms_quartiles": quartiles(times[1]),
        "alone_rate": steps / a, "together_rate": seeds * steps / b,
        "alone_compile_s": compile_alone, "together_compile_s": compile_together,
        "whole_s": [one_after_another, at_once], "whole_faster": one_after_another / at_once,
        "return": float(np.nanmean(told["rollout/ep_rew_mean"])),
    }  # fmt: skip


def one_seed(experiment: Experiment) -> tuple[Callable[[int], Any], float]:
    """A function that makes the next update of a run of one seed, as `train` does; and seconds of compiling."""
    began = time.perf_counter()
    parts = build(experiment, make_environment(experiment, experiment.env.num_envs))
    init_key, key = jax.random.split(jax.random.key(0))
    state = initial_state(parts, init_key)
    program = parts.iteration.lower(key, *state).compile()
    compiled = time.perf_counter() - began

    def step(update: int) -> Any:
        nonlocal state
        learner, carry, metrics = program(jax.random.fold_in(key, update), *state)
        told = jax.device_get(metrics)
        state = (learner, carry)
        return told

    return step, compiled


def all_seeds(experiment: Experiment, seeds: int, updates: int) -> tuple[Callable[[int], Any], float]:
    """The same for all seeds in one program, as `train_seeds` does."""
    began = time.perf_counter()
    env = make_environment(experiment, experiment.env.num_envs)
    members = [Member({}, seed) for seed in range(seeds)]
    stages = course(experiment, members, env, make_agent(experiment, env.spec), updates)
    next(stages)
    compiled = time.perf_counter() - began
    return lambda update: next(stages).metrics, compiled


def settings(options: argparse.Namespace) -> Experiment:
    """Plain PPO on the task with the given settings over it."""
    env = {"id": options.task, "num_envs": options.worlds, "engine": options.engine}
    if options.device is not None:
        env["kwargs"] = {"device": options.device}
    plain = {"num_steps": 64, "num_epochs": 5, "num_minibatches": 2}
    layers: list[dict[str, Any]] = [{"env": env, "hyperparameters": plain, "total_steps": int(options.total_steps)}]
    layers.append(read_pairs(options.settings))
    return compose(merge(*layers), preset="none")[0]


def quartiles(seconds: list[float]) -> list[float]:
    return [1e3 * float(x) for x in np.quantile(seconds[2:], [0.25, 0.75])]


if __name__ == "__main__":
    main()
    os._exit(0)  # JAX 0.11 can hang in its destructors beside Warp
