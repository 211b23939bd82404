"""Weak scaling: the same number of worlds on each of 1, 2, … devices, learning included.

    python benchmarks/devices.py                                   HalfCheetah-v4 on Warp, 8,192 worlds per device
    python benchmarks/devices.py --task Humanoid-v4 --worlds 8192 --devices 1 2 4
    XLA_PYTHON_CLIENT_MEM_FRACTION=0.5 python benchmarks/devices.py …          leaves Warp half of each GPU's memory
    JAX_NUM_CPU_DEVICES=2 python benchmarks/devices.py --task CartPole-v1 --worlds 64 --seconds 2     tries the script

Settings are `name=value` pairs of an experiment with dotted paths, laid over the preset. With d devices a batch is d
times as large and has as many minibatches, so each device computes what a single one would. Every line of JSON says,
for one number of devices: environment steps per second in steady state, its share of d times the rate of the first
line, seconds for making the environment, tracing and compiling, the program's collectives with the bytes of their
results (on a GPU of their operands, too; one in a loop counts once), and the return of the last 100 episodes when the
time was over.
"""

import argparse
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from settings import read_pairs, tell

from policy_gradients.training.config import Experiment
from policy_gradients.training.devices import make_mesh
from policy_gradients.training.preset import compose, merge
from policy_gradients.training.setup import build, initial_state, make_environment

COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="HalfCheetah-v4")
    parser.add_argument("--worlds", type=int, default=8192, help="on each device")
    parser.add_argument("--devices", type=int, nargs="*", default=None, help="default 1, 2, 4, … of those there are")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training on each number of devices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("settings", nargs="*", default=[])
    options = parser.parse_args()
    here = len(jax.devices())
    first = None
    for devices in options.devices or [2**k for k in range(here.bit_length()) if 2**k <= here]:
        line = {"task": options.task, "devices": devices, "device": jax.devices()[0].device_kind}
        line |= {"jax": jax.__version__, "worlds_per_device": options.worlds}
        try:
            line |= measure(options, devices)
            first = first or line["rate"] / devices
            line["efficiency"] = line["rate"] / devices / first
        except Exception as failure:  # said in the file, so that the other numbers of devices are not lost
            line["failure"] = f"{type(failure).__name__}: {failure}"
        tell(line, options.out)


def measure(options: argparse.Namespace, devices: int) -> dict[str, Any]:
    """Trains for some seconds; two iterations before them are not counted."""
    experiment = settings(options, devices)
    began = time.perf_counter()
    mesh = make_mesh(devices, experiment.env.num_envs)
    parts = build(experiment, make_environment(experiment, experiment.env.num_envs, mesh=mesh), mesh=mesh)
    state = initial_state(parts, jax.random.key(options.seed))
    made = time.perf_counter()
    lowered = parts.iteration.lower(jax.random.key(0), *state)
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()
    times: list[float] = []
    while sum(times[2:]) < options.seconds or len(times) < 5:
        tick = time.perf_counter()
        learner, carry, metrics = jax.block_until_ready(program(jax.random.key(len(times)), *state))
        state = (learner, carry)
        times.append(time.perf_counter() - tick)
    steps = experiment.env.num_envs * experiment.hyperparameters.num_steps
    parts.env.close()
    counted = {name: float(value) for name, value in metrics.items() if name.startswith("env/")}
    return {
        "num_envs": experiment.env.num_envs, "num_steps": experiment.hyperparameters.num_steps,
        "num_minibatches": getattr(experiment.hyperparameters, "num_minibatches", 1),
        "make_s": made - began, "trace_s": traced - made, "compile_s": compiled - traced, "iterations": len(times) - 2,
        "rate": steps * (len(times) - 2) / sum(times[2:]), "rate_median": steps / float(np.median(times[2:])),
        "iteration_ms": 1e3 * float(np.median(times[2:])), "collectives": collectives(program.as_text()),
        "env_steps": steps * len(times), "return": float(metrics["rollout/ep_rew_mean"]), **counted,
    }  # fmt: skip


def settings(options: argparse.Namespace, devices: int) -> Experiment:
    """The task's preset at so many worlds per device, with the given settings over it."""
    env = {"id": options.task, "num_envs": devices * options.worlds, "engine": options.engine}
    layers: list[dict[str, Any]] = [{"env": env, "devices": devices}]
    layers.append(read_pairs(options.settings))
    return compose(merge(*layers, {"total_steps": 10**9}))[0]


def collectives(program: str) -> dict[str, dict[str, int]]:
    """Kinds of collectives in a compiled program: how many there are, and the bytes of their results.

    One inside a loop is counted once.
    """
    found, size = Counter[str](), Counter[str]()
    for shapes, kind in COLLECTIVE.findall(program):
        found[kind] += 1
        for kind_of_number, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            count = int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
            size[kind] += BYTES.get(kind_of_number, 4) * count
    return {kind: {"count": found[kind], "bytes": size[kind]} for kind in found}


if __name__ == "__main__":
    main()
    os._exit(0)  # JAX 0.11 can hang in its destructors beside Warp
