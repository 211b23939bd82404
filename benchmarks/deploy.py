"""What acting costs: latency, memory, size and start of every runtime, beside Stable-Baselines3 and PyTorch.

Three policies: 376-256-256-256-17 with a normaliser (Humanoid's sizes, untrained), a trained one, and the Nature CNN on
84 × 84 × 4 pixels (untrained). Use an idle machine.

    python benchmarks/deploy.py --policy runs/<run>/policy --peer-python path/to/venv/bin/python
"""

import argparse
import json
import math
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bits import tools
from report import Report, table, versions

from policy_gradients.deployment.bundle import Bundle, read_bundle, write_bundle
from policy_gradients.deployment.c99 import write_c
from policy_gradients.deployment.c99.build import FLAGS
from policy_gradients.deployment.verification import verify
from policy_gradients.environments.base import Discrete, EnvironmentSpec, box
from policy_gradients.estimation.normalization import Moments, NormalizationConfig, init_statistics
from policy_gradients.networks import NetworkConfig, actor_critic

HERE = Path(__file__).resolve().parent
COMPILERS = ("gcc", "clang")
OBSERVATIONS = 1000  # compared as well; 10,000 are by `policy-gradients verify`
CALLS = 20_000


def humanoid(folder: Path) -> Path:
    """376-256-256-256-17, with a normaliser and clipped actions."""
    spec = EnvironmentSpec(
        "Humanoid-v4", "mujoco", 1, box(-np.inf, np.inf, (376,)), box(-np.inf, np.inf, (17,)),
        action_map="clip", control_bounds=box(-0.4, 0.4, (17,)), dt=0.015,
    )  # fmt: skip
    return _untrained(folder / "humanoid", spec, NetworkConfig(hidden=(256, 256, 256), policy_gain=1.0))


def nature(folder: Path) -> Path:
    """The Nature CNN with six actions."""
    spec = EnvironmentSpec("Atari", "envpool", 1, box(0, 255, (84, 84, 4), np.uint8), Discrete(6), frames=4)
    return _untrained(folder / "nature", spec, NetworkConfig(hidden=(), policy_gain=1.0))


def _untrained(path: Path, spec: EnvironmentSpec, network: NetworkConfig) -> Path:
    one = jax.ShapeDtypeStruct(spec.obs_space.shape, spec.obs_space.dtype)
    actions = spec.action_space.n if isinstance(spec.action_space, Discrete) else None
    params = actor_critic(one, spec.action_space.shape, actions, network).init(jax.random.key(0))
    normalization, rng = NormalizationConfig(reward=False), np.random.default_rng(0)
    statistics = init_statistics(normalization, one, 1)
    if statistics.obs is not None:
        mean, var = rng.normal(0, 2, one.shape), rng.gamma(1, 4, one.shape)
        statistics = statistics._replace(
            obs=Moments(statistics.obs.count, jax.numpy.float32(mean), jax.numpy.float32(var))
        )
    write_bundle(
        path, spec=spec, network=network, normalization=normalization, params=params, statistics=statistics,
        provenance={},
    )  # fmt: skip
    return path


def native(bundle: Bundle, folder: Path, compiler: str) -> dict[str, Any]:
    """The C policy timed from C."""
    write_c(bundle, folder)
    flags = [*FLAGS, f"-I{folder}"]
    command = [compiler, *flags, str(HERE / "latency_policy.c"), "-lm", "-o", str(folder / "latency")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"skipped": f"{compiler}: {(done.stderr.splitlines() or ['is not installed'])[0]}"}
    calls = CALLS if math.prod(bundle.description.observation.shape) < 1000 else 2000
    said = subprocess.run([str(folder / "latency"), str(calls)], capture_output=True, text=True, check=True).stdout
    return {"latency": [int(word) * 1e-9 for word in said.split()], "flags": " ".join(FLAGS)}


def peer(bundle: Bundle, python: str, seconds: float) -> dict[str, Any]:
    """Stable-Baselines3 and PyTorch in an environment of their own."""
    action = bundle.description.action
    settings = {
        "obs": bundle.description.observation.shape, "discrete": action.kind == "discrete",
        "actions": action.n or action.shape[0], "hidden": bundle.description.network.hidden, "seconds": seconds,
    }  # fmt: skip
    command = [python, str(HERE / "contestant_deploy.py"), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every runtime of one policy."""
    bundle, runtimes = read_bundle(path), {}
    verification = verify(path, observations=OBSERVATIONS, seconds=options.seconds)
    for each in verification.measured:
        runtimes[each.runtime] = asdict(each)
    with tempfile.TemporaryDirectory(prefix="deploy-") as name:
        for compiler in COMPILERS:
            runtimes[f"C, called from C, {compiler}"] = native(bundle, Path(name), compiler)
        runtimes["C"]["compiler"] = "cc"
    if options.peer_python:
        runtimes |= peer(bundle, options.peer_python, options.seconds)
    return {"skipped": verification.skipped, "runtimes": runtimes, "agrees": verification.agrees}


def show(name: str, section: dict[str, Any]) -> str:
    """The section as Markdown."""
    rows = []
    for runtime, found in section["runtimes"].items():
        times = [f"{1e6 * value:.1f}" for value in found.get("latency") or ()] or ["", "", ""]
        memory = f"{found['memory'] / 1e6:.1f}" if found.get("memory") else ""
        start = f"{1e3 * found['startup']:.1f}" if found.get("startup") else ""
        size = f"{found['size'] / 1e6:.2f}" if found.get("size") else ""
        rows.append((runtime, *times, memory, start, size))
    return table((name, "p50 µs", "p99 µs", "p99.9 µs", "memory MB", "start ms", "file MB"), rows)


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="a trained policy's run or bundle")
    parser.add_argument("--only", choices=("humanoid", "nature", "trained"), help="one of the three")
    parser.add_argument("--peer-python", help="an interpreter with torch and stable-baselines3")
    parser.add_argument("--seconds", type=float, default=2.0, help="per runtime (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deploy.json"))
    options = parser.parse_args()
    report = Report(options.out)
    with tempfile.TemporaryDirectory(prefix="policies-") as name:
        made = {"humanoid": lambda: humanoid(Path(name)), "nature": lambda: nature(Path(name))}
        if options.policy is not None:
            made["trained"] = lambda: options.policy
        for kind, make in made.items():
            if options.only not in (None, kind):
                continue
            results = measure(make(), options)
            settings = {"seconds": options.seconds, "observations": OBSERVATIONS}
            print(show(kind, report.add(kind, settings, {"versions": {**versions(), **tools()}, **results})))


if __name__ == "__main__":
    main()
