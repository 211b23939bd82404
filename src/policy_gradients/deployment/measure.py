"""One runtime in a process of its own: how it starts, what it answers, how long it takes and what memory it needs.

Run by `verification`, as `python -m policy_gradients.deployment.measure RUNTIME BUNDLE MODEL OUT COUNT SECONDS`.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policy_gradients.deployment.bundle import Bundle, read_bundle

RUNTIMES = ("JAX", "NumPy", "ONNX Runtime", "C")
PERCENTILES = (50.0, 99.0, 99.9)
_CHUNK_NUMBERS = 1 << 21  # numbers of observations at once


def load(runtime: str, bundle: Bundle, model: str) -> Any:
    """The policy in a runtime; `model` is the exported file that it reads."""
    if runtime == "C":
        from policy_gradients.deployment.c99.build import CPolicy

        return CPolicy(model, bundle.description)
    if runtime == "ONNX Runtime":
        from policy_gradients.deployment.onnx_policy import OnnxPolicy

        return OnnxPolicy(model, bundle.description)
    if runtime == "JAX":
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)  # as the command line does: half the latency
        from policy_gradients.deployment.jax_policy import JaxPolicy

        return JaxPolicy(bundle)
    from policy_gradients.deployment.numpy_policy import NumpyPolicy

    return NumpyPolicy(bundle.description, bundle.tensors)


def random_observations(bundle: Bundle, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """The same `count` observations for every runtime, in chunks: 3 deviations around the mean; of pixels, noise."""
    observation, rng = bundle.description.observation, np.random.default_rng(seed)
    rows = max(1, min(count, _CHUNK_NUMBERS // math.prod(observation.shape)))
    for first in range(0, count, rows):
        shape = (min(rows, count - first), *observation.shape)
        if observation.dtype == "uint8":
            yield rng.integers(0, 256, shape, np.uint8)
            continue
        obs = 3 * rng.standard_normal(shape, np.float32)
        if bundle.description.normalizer is not None:
            obs = bundle.tensors["normalizer/mean"] + obs * np.sqrt(bundle.tensors["normalizer/var"])
        yield obs


def latency(policy: Any, obs: np.ndarray, seconds: float) -> list[float]:
    """Percentiles of the time of one action, in seconds, over as many as fit, after a tenth to warm up."""
    clock, times, i = time.perf_counter, [], 0
    start = clock()
    while clock() - start < 1.1 * seconds or len(times) < 50:
        row = obs[i % len(obs)]
        tick = clock()
        policy(row)
        times.append(clock() - tick)
        i += 1
    kept = times[len(times) // 11 :]
    return [float(value) for value in np.percentile(kept, PERCENTILES)]


def resident_bytes(status: str) -> int:
    """Resident memory by the text of /proc/<pid>/status; 0 where there is none."""
    lines = [line.split() for line in status.splitlines()]
    return next((int(words[1]) * 1024 for words in lines if words[:1] == ["VmRSS:"]), 0)


def own_memory() -> int:
    """Resident memory of this process, bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    return resident_bytes(status.read_text()) if status.is_file() else 0


def answers(policy: Any, bundle: Bundle, count: int) -> dict[str, np.ndarray]:
    """Actions for the golden observations, one by one as a control loop asks, and for the random ones in batches."""
    found = {"golden": np.stack([policy(row) for row in bundle.golden["obs"]])}
    return found | {"random": np.concatenate([policy(obs) for obs in random_observations(bundle, count)])}


def main(runtime: str, path: str, model: str, out: str, count: int, seconds: float) -> None:
    """Measures; the answers go to a file, the rest to standard output as JSON."""
    bundle = read_bundle(path)
    policy = load(runtime, bundle, model)
    obs = bundle.golden["obs"]
    policy(obs[0])
    first_action, memory = time.time(), own_memory()
    times = latency(policy, obs[:8], seconds)  # more would push the weights out of the processor's cache
    found = answers(policy, bundle, count)
    if runtime == "C":
        found["exact"] = np.array(policy.exact)
    np.savez(out, allow_pickle=False, **found)
    print(json.dumps({"first_action": first_action, "memory": memory, "latency": times}))


if __name__ == "__main__":
    name, path, model, out, count, seconds = sys.argv[1:]
    main(name, path, model, out, int(count), float(seconds))
