"""What it costs to reach a simulator outside the compiled program: our bridge beside `jax.experimental.io_callback`.

Both step the same simulator, which does nothing, inside the same compiled scan. Figures are microseconds per batched
step.

    python benchmarks/bridge.py
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contest import ROOT
from report import Report, paired_ratio, spread, summary, table, versions

sys.path.insert(0, str(ROOT / "src"))

STEPS = 4096
"""Batched steps in one call of a program."""

SIZES = {"8 × HalfCheetah": (8, 17, 6), "64 × HalfCheetah": (64, 17, 6), "64 × Humanoid": (64, 376, 17)}
BRIDGE, CALLBACK = "host_environment", "io_callback"


class Idle:
    """A `HostSimulator` that does nothing."""

    def __init__(self, n: int, obs: int, action: int) -> None:
        from policy_gradients.environments.base import EnvironmentSpec, Step, box

        self.spec = EnvironmentSpec("idle", "gymnasium", n, box(-1, 1, (obs,)), box(-1, 1, (action,)))
        self._obs = np.zeros((n, obs), np.float32)
        no, yes = np.zeros(n, bool), np.ones(n, bool)
        self._step = Step(self._obs, self._obs, np.zeros(n, np.float32), no, no, yes)

    def reset(self, seed: int) -> np.ndarray:
        """Zeros."""
        return self._obs

    def step(self, action: np.ndarray) -> Any:
        """Zeros."""
        return self._step

    def snapshot(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def restore(self, arrays: Any) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def programs(n: int, obs: int, action: int) -> dict[str, Callable[[], Any]]:
    """The contestants: calls that take `STEPS` batched steps."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import io_callback

    from policy_gradients.environments.host import host_environment

    simulator = Idle(n, obs, action)
    env = host_environment(simulator)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), simulator.step(None))

    def policy(observation: Any) -> Any:
        return jnp.tanh(observation[:, :action])

    def bridged(at: Any, _: Any) -> Any:
        state, out = env.step(at[0], policy(at[1]))
        return (state, out.obs), out.reward

    def called_back(at: Any, _: Any) -> Any:
        out = io_callback(lambda a: simulator.step(np.asarray(a)), shapes, policy(at), ordered=True)
        return out.obs, out.reward

    scan = partial(jax.lax.scan, length=STEPS)
    start = env.reset(jax.random.key(0))
    bridge = jax.jit(lambda at: scan(bridged, at, None))
    callback = jax.jit(lambda at: scan(called_back, at, None))
    return {
        BRIDGE: lambda: jax.block_until_ready(bridge(start)),
        CALLBACK: lambda: jax.block_until_ready(callback(start[1])),
    }


def measure(size: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    """Microseconds per batched step of every contestant and repeat, measured in turn."""
    calls = programs(*size)
    for call in calls.values():
        call()
    micros: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            micros[name].append((time.perf_counter() - began) / STEPS * 1e6)
    results = {name: {"microseconds": values, **summary(values)} for name, values in micros.items()}
    return {"contestants": results, "ratio": paired_ratio(micros[CALLBACK], micros[BRIDGE])}


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bridge.json"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the file holds")
    options = parser.parse_args()
    from policy_gradients.cli.runtime import start_jax

    start_jax()
    report, rows = Report(options.out, options.fresh), []
    for name, size in SIZES.items():
        settings = {"num_envs, obs, action": size, "steps": STEPS, "repeats": options.repeats}
        section = report.find(name, settings)
        if section is None:
            section = report.add(name, settings, {"versions": versions(), **measure(size, options.repeats)})
        spreads = [spread(result, ".1f") for result in section["contestants"].values()]
        rows.append((name, *spreads, spread(section["ratio"], ".1f")))
    print(table(("µs per batched step", BRIDGE, CALLBACK, f"{CALLBACK} / {BRIDGE}"), rows))


if __name__ == "__main__":
    main()
