"""Environment steps per second of the suites written in JAX by others, with random actions and no learning.

Suites that are not installed are named and left out: run it once in each suite's own virtual environment. It runs on
JAX's default device. An environment that fails is named, too, and the others go on.

    python benchmarks/suites.py --num-envs 8 64 512
    python benchmarks/suites.py --only brax:inverted_pendulum
    python benchmarks/suites.py --num-envs 8192 512 --seconds 90 --out suites-gpu.json       on a GPU

Every environment is measured at the first number of copies before any is at the second. With `--seconds`, nothing is
begun that would be over too late if it took as long as the longest so far.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from contest import ROOT
from report import LIBRARIES, Report, table, versions

sys.path.insert(0, str(ROOT / "src"))

IDS = (
    *("gymnax:CartPole-v1", "gymnax:Breakout-MinAtar", "brax:inverted_pendulum", "brax:halfcheetah"),
    *("playground:CartpoleBalance", "playground:CheetahRun", "jumanji:Snake-v1", "jumanji:Game2048-v1"),
)
SUITES = ("gymnax", "brax", "playground", "mujoco-mjx", "jumanji")
REPEATS = 3


def measure(env_id: str, num_envs: int, num_steps: int) -> dict[str, Any]:
    """Seconds to make and compile, and steps per second of a scan: the median of `REPEATS`, and all of them."""
    from policy_gradients.environments.base import Discrete
    from policy_gradients.environments.registry import make

    begin = time.perf_counter()
    env = make(env_id, num_envs)
    actions = env.spec.action_space

    def draw(key: jax.Array) -> jax.Array:
        if isinstance(actions, Discrete):
            return jax.random.randint(key, (num_envs,), 0, actions.n)
        return jax.random.normal(key, (num_envs, *actions.shape))

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        state, out = env.step(state, draw(key))
        return state, jnp.mean(out.reward)

    run = jax.jit(lambda state, key: jax.lax.scan(step, state, jax.random.split(key, num_steps)))
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    state, _ = jax.block_until_ready(run(state, jax.random.key(1)))
    ready, rates = time.perf_counter() - begin, []
    for i in range(REPEATS):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(run(state, jax.random.key(2 + i)))
        rates.append(num_envs * num_steps / (time.perf_counter() - start))
    return {"seconds_to_ready": ready, "steps_per_second": statistics.median(rates), "all": rates}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=IDS, metavar="ID")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[8, 64, 512])
    parser.add_argument("--num-steps", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for everything, compiling included")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "suites.json")
    options = parser.parse_args(arguments)
    from policy_gradients.environments.suites import installed

    here = [env_id for env_id in options.only if installed(env_id.partition(":")[0])]
    for env_id in options.only:
        if env_id not in here:
            print(f"{env_id}: the suite is not installed", file=sys.stderr)
    report, rows = Report(options.out), []
    begin, longest = time.perf_counter(), 0.0
    for num_envs, env_id in itertools.product(options.num_envs, here):
        start = time.perf_counter()
        if start - begin + longest > options.seconds:
            print(f"{env_id}, {num_envs} copies: no time is left", file=sys.stderr)
            continue
        settings = {"env": env_id, "num_envs": num_envs, "num_steps": options.num_steps}
        settings["device"] = jax.devices()[0].device_kind
        try:
            result = {**measure(env_id, num_envs, options.num_steps), "versions": versions((*LIBRARIES, *SUITES))}
        except Exception as failure:  # a suite may raise anything
            print(f"{env_id}, {num_envs} copies: {type(failure).__name__}: {failure}", file=sys.stderr)
            continue
        longest = max(longest, time.perf_counter() - start)
        report.add(f"{env_id} {num_envs}", settings, result)
        rows.append((env_id, num_envs, f"{result['steps_per_second']:,.0f}", f"{result['seconds_to_ready']:.0f}"))
    rows.sort(key=lambda row: here.index(row[0]))
    print(table(("environment", "copies", "steps/s", "seconds to make and compile"), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
