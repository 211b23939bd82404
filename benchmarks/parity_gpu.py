"""Our tasks on MuJoCo Warp beside the same tasks on MuJoCo's C engine.

    python benchmarks/parity_gpu.py [--tasks Humanoid-v4 …] [--states 1024] [--device cpu] [--out FILE]

Per task, from states that random actions reached on C (half of the worlds hold each action for ten steps, which
brings about more contacts): errors of observation and reward after one and after ten environment steps with equal
actions, agreement of terminations, and the distance of the distributions of first observations. One JSON line each.

Errors are absolute, in the coordinate's own units, taken as the largest over the coordinates of an observation divided
by max(1, |value|); quantiles are over states.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from policy_gradients.environments.mujoco import MUJOCO_IDS
from policy_gradients.environments.mujoco.batch import MujocoSimulator
from policy_gradients.environments.mujoco.tasks import load_task
from policy_gradients.environments.mujoco.warp import WarpState, make_warp

STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(MUJOCO_IDS))
    parser.add_argument("--states", type=int, default=1024)
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    for task in options.tasks:
        try:
            line = compare(task, options.states, options.device)
        except Exception as failure:  # a task that fails must not hide the others
            line = {"task": task, "failure": f"{type(failure).__name__}: {failure}"}
        print(json.dumps(line), flush=True)
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def compare(id: str, states: int, device: str | None) -> dict[str, Any]:
    """All measures of one task."""
    began = time.perf_counter()
    env = make_warp(id, states, device=device)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, first = reset(jax.random.key(0))
    first = np.asarray(first)
    built = time.perf_counter() - began
    simulator = MujocoSimulator(load_task(id), states)
    actions = wander(simulator, states)
    state = adopt(state, simulator, load_task(id).model)
    alive, result = np.ones(states, bool), {}
    for i in range(STEPS):
        state, ours = step(state, jnp.asarray(actions[i]))
        theirs = simulator.step(actions[i])
        ours = jax.tree.map(np.asarray, ours)
        same = ours.terminated == theirs.terminated
        if i in (0, STEPS - 1):
            name = "one_step" if i == 0 else "ten_steps"
            result[name] = errors(ours, theirs, alive)
            result[name]["terminations"] = int(theirs.terminated[alive].sum())
            result[name]["termination_agreement"] = float(same[alive].mean())
        ended = ours.terminated | ours.truncated | theirs.terminated | theirs.truncated
        alive &= ~ended
    counted = {name: float(value) for name, value in env.metrics(state).items()}
    return {
        "task": id, "states": states, "device": str(device or jax.devices()[0].device_kind), **result, **counted,
        "first_obs_distance": first_distance(first, simulator), "seconds_to_build": round(built, 2),
    }  # fmt: skip


def wander(simulator: MujocoSimulator, states: int, steps: int = 60) -> np.ndarray:
    """Moves every world to a state of its own; the actions to compare with  [STEPS, N, nu]."""
    rng = np.random.default_rng(0)
    low, high = simulator.spec.action_space.low, simulator.spec.action_space.high
    draw = lambda: rng.uniform(low, high, (states, *low.shape)).astype(np.float32)  # noqa: E731
    simulator.reset(0)
    held, half = draw(), states // 2
    for i in range(steps):
        action = draw()
        held = draw() if i % 10 == 0 else held
        action[:half] = held[:half]
        simulator.step(action)
    return np.stack([draw() for _ in range(STEPS)])


def adopt(state: WarpState, simulator: MujocoSimulator, model: Any) -> WarpState:
    """The Warp worlds in the states of the C worlds."""
    rows = simulator.snapshot()
    full = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    parts = []
    for part, width in (("QPOS", model.nq), ("QVEL", model.nv), ("WARMSTART", model.nv)):
        flag = int(getattr(mujoco.mjtState, f"mjSTATE_{part}"))
        start = mujoco.mj_stateSize(model, full & (flag - 1))
        parts.append(rows["state"][:, start : start + width])
    physics = jnp.asarray(np.concatenate(parts, 1), jnp.float32)
    before, elapsed = jnp.asarray(rows["before"], jnp.float32), jnp.asarray(rows["elapsed"])
    return state._replace(physics=physics, before=before, elapsed=elapsed)


def errors(ours: Any, theirs: Any, alive: np.ndarray) -> dict[str, float]:
    """Quantiles of the errors over the worlds in which no episode has ended before."""
    obs = np.abs(ours.final_obs - theirs.final_obs) / np.maximum(1.0, np.abs(theirs.final_obs))
    reward = np.abs(ours.reward - theirs.reward) / np.maximum(1.0, np.abs(theirs.reward))
    found: dict[str, float] = {"worlds": int(alive.sum())}
    for name, values in (("obs", obs.max(1)[alive]), ("reward", reward[alive])):
        for label, q in (("median", 0.5), ("p99", 0.99), ("max", 1.0)):
            found[f"{name}_{label}"] = float(np.quantile(values, q)) if len(values) else float("nan")
    return found


def first_distance(first: np.ndarray, simulator: MujocoSimulator) -> dict[str, float]:
    """The largest Kolmogorov–Smirnov distance over coordinates, and what 1 in 1,000 equal samples would exceed."""
    theirs = simulator.reset(1)
    count = len(first)
    largest = 0.0
    for ours, other in zip(np.sort(first, 0).T, np.sort(theirs, 0).T, strict=True):
        if np.ptp(other) < 1e-5 * max(1.0, np.abs(other).max()) and np.ptp(ours) < 1e-5 * max(1.0, np.abs(ours).max()):
            continue  # a constant up to rounding
        both = np.concatenate([ours, other])
        gap = np.searchsorted(ours, both, "right") - np.searchsorted(other, both, "right")
        largest = max(largest, float(np.abs(gap).max()) / count)
    share = 0.001 / first.shape[1]
    return {"largest": largest, "allowed": float(np.sqrt(-np.log(share / 2) / count))}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
