"""Atari from pixels: EnvPool alone, and PPO with the Nature CNN on it end to end, on the processor and on the GPU.

    python benchmarks/atari.py --num-envs 64 256 --out atari.jsonl
    python benchmarks/atari.py --num-envs 128 --backends gpu hyperparameters.num_epochs=2

For each number of environments: EnvPool in lock step under random actions (before and after, the mean counts), then
whole updates on each back end, the rollout alone, and what the rollout takes where a stand-in replaces the simulator.
Steps are agent steps (4 frames), rows that only reset apart. Settings are `name=value` pairs with dotted paths, laid
over the task's preset. One JSON line each, to the screen and to --out.
"""

import argparse
import importlib.metadata
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from settings import read_pairs, tell

from policy_gradients import backend, compilation
from policy_gradients.environments.host import host_environment, with_cause
from policy_gradients.training.config import Experiment
from policy_gradients.training.placement import StandIn, seconds_of_update
from policy_gradients.training.preset import compose, merge
from policy_gradients.training.program import Program
from policy_gradients.training.rollout import init_carry, rollout
from policy_gradients.training.setup import build, initial_state, make_environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--task", default="Pong-v5")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[64])
    parser.add_argument("--threads", type=int, default=0, help="EnvPool's; 0 for one per core")
    parser.add_argument("--backends", nargs="+", default=["gpu", "cpu"], choices=["gpu", "cpu"])
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each is timed")
    parser.add_argument("--label", default="")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    for num_envs in options.num_envs:
        compare(options, num_envs)


def compare(options: argparse.Namespace, num_envs: int) -> None:
    """Tells EnvPool's own speed, and ours on each back end with its share of it."""
    experiment = settings(options, num_envs)
    said = {"task": options.task, "num_envs": num_envs, "label": options.label, **circumstances(options.threads)}
    rates = [bare(options, num_envs)]
    lines = []
    for name in options.backends:
        line = {"what": "ppo", "backend": name, **said}
        try:
            with backend.computing_on(name):
                line |= {"device": backend.devices()[0].device_kind, **ours(experiment, options.seconds)}
        except Exception as failure:  # said in the file, so that the other runs of a batch are not lost
            line["failure"] = f"{type(failure).__name__}: {failure}"
        lines.append(line)
    rates.append(bare(options, num_envs))
    best = float(np.mean(rates))
    tell({"what": "bare", **said, "steps_per_s": best, "each": rates}, options.out)
    for line in lines:
        shares = {
            f"{name}_of_bare": line[name] / best for name in ("steps_per_s", "rollout_steps_per_s") if name in line
        }
        tell({**line, **shares}, options.out)


def settings(options: argparse.Namespace, num_envs: int) -> Experiment:
    """The task's preset for training with these environments."""
    env = {"id": f"envpool:{options.task}", "num_envs": num_envs, "num_threads": options.threads}
    layers = merge({"algorithm": "ppo", "env": env, "total_steps": 10_000_000}, read_pairs(options.settings))
    return compose(layers)[0]


def circumstances(threads: int) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("jax", "envpool")}
    return {"cores": len(os.sched_getaffinity(0)), "threads": threads, **versions}


def bare(options: argparse.Namespace, num_envs: int) -> float:
    """Steps per second of EnvPool's own `step` with its options for training."""
    import envpool

    training = {"episodic_life": True, "reward_clip": True}
    pool = envpool.make_gymnasium(options.task, num_envs=num_envs, num_threads=options.threads, seed=0, **training)
    actions = np.random.default_rng(0).integers(0, pool.action_space.n, (256, num_envs)).astype(np.int32)
    pool.reset()
    ended, rows = np.zeros(num_envs, bool), 0

    def steps() -> None:
        nonlocal ended, rows
        for action in actions:
            _, _, terminated, truncated, _ = pool.step(action)
            rows += int(num_envs - ended.sum())
            ended = (terminated | truncated) & ~ended

    return timed(steps, options.seconds, lambda: rows)


def ours(experiment: Experiment, seconds: float) -> dict[str, Any]:
    """Whole updates, the rollout alone, and the parts of an update without the simulator."""
    key, config = jax.random.key(0), experiment.hyperparameters
    with ExitStack() as stack:
        env = make_environment(experiment, experiment.env.num_envs)
        stack.callback(env.close)
        parts = build(experiment, env)
        state = initial_state(parts, key)
        per_update = env.spec.num_envs * config.num_steps
        program = Program(parts, per_update, key, state)
        taken = 0

        def update() -> None:
            nonlocal state, taken
            state, rows = program(state, 0, program.at_most)
            taken = rows[-1]["time/total_timesteps"]

        rate = timed(update, seconds, lambda: taken)
        acting = time_rollout(parts.agent, env, config, state.learner, state.carry, seconds / 2)
        stand_in = host_environment(StandIn(env.spec))
        carry = jax.jit(lambda key: init_carry(stand_in, key))(key)
        moving = time_rollout(parts.agent, stand_in, config, state.learner, carry, seconds / 4)
        return {
            "steps_per_s": rate,
            "rollout_steps_per_s": per_update / acting,
            "update_s": per_update / rate,
            "rollout_s": acting,
            "rollout_without_simulator_s": moving,
            "estimate_without_simulator_s": seconds_of_update(experiment, env.spec, None),
            "compile_s": program.compile_seconds,
            "num_steps": config.num_steps,
            "num_epochs": getattr(config, "num_epochs", 1),
            "num_minibatches": getattr(config, "num_minibatches", 1),
        }


def time_rollout(agent: Any, env: Any, config: Any, learner: Any, carry: Any, seconds: float) -> float:
    """Seconds of a rollout."""

    def act(key: Any, carry: Any) -> Any:
        after, seen = rollout(
            agent, env, config.normalization, config.num_steps, key, learner.params, learner.statistics, carry
        )
        return after, seen.log_prob.sum() + seen.reward.sum() + seen.obs[:, :, 0].sum() + seen.next_obs[:, :, 0].sum()

    key, calls = jax.random.key(1), 0
    compiled = jax.jit(act).lower(key, carry).compile(compiler_options=compilation.for_training(on_host=True))

    def call() -> None:
        nonlocal carry, calls
        carry, _ = with_cause(compiled, key, carry)
        calls += 1

    return 1 / timed(call, seconds, lambda: calls)


def timed(call: Callable[[], None], seconds: float, count: Callable[[], float]) -> float:
    """What is counted, per second, over calls of `seconds` in all, after one to warm up."""
    call()
    before, began = count(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        call()
    return (count() - before) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
