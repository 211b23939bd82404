"""Whether a policy earns the same in every runtime: whole episodes from the same first states.

Rounding differs between runtimes in the last digits, and a walking robot's trajectory amplifies that: single episodes
drift apart, their mean must not.

    python benchmarks/returns.py --policy runs/<run> --policy runs/<other run>
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from report import Report, table, versions

from policy_gradients.cli.evaluate import environment_config, find_bundle, make_environment, play
from policy_gradients.deployment import load_policy, read_bundle
from policy_gradients.deployment.c99 import load_c_policy
from policy_gradients.deployment.jax_policy import JaxPolicy
from policy_gradients.deployment.onnx import write_onnx
from policy_gradients.deployment.onnx_policy import OnnxPolicy


def measure(path: Path, episodes: int) -> dict[str, Any]:
    """Returns of each runtime's episodes, and their differences to JAX's."""
    bundle = read_bundle(path)
    with tempfile.TemporaryDirectory(prefix="returns-") as folder:
        policies = {
            "JAX": JaxPolicy(bundle),
            "NumPy": load_policy(path),
            "ONNX Runtime": OnnxPolicy(write_onnx(bundle, Path(folder) / "policy.onnx"), bundle.description),
            "C": load_c_policy(path),
        }
    config = environment_config(load_policy(path), path)
    found: dict[str, Any] = {}
    for name, policy in policies.items():
        env = make_environment(policy, config, episodes)  # type: ignore[arg-type]
        try:
            returns = play(policy, env, episodes, deterministic=True, seed=0).returns  # type: ignore[arg-type]
        finally:
            env.close()
        found[name] = {"returns": returns.tolist(), "mean": float(returns.mean())}
    reference = np.array(found["JAX"]["returns"])
    for result in found.values():
        difference = np.array(result["returns"]) - reference
        error = difference.std(ddof=1) / len(difference) ** 0.5
        result |= {"mean_difference": float(difference.mean()), "standard_error": float(error),
                   "largest_difference": float(np.abs(difference).max())}  # fmt: skip
    return {"environment": bundle.description.environment.id, "runtimes": found}


def show(section: dict[str, Any]) -> str:
    """The section as Markdown."""
    rows = [
        (name, f"{found['mean']:,.2f}", f"{found['mean_difference']:.2f} ± {found['standard_error']:.2f}",
         f"{found['largest_difference']:.2f}")
        for name, found in section["runtimes"].items()
    ]  # fmt: skip
    return table((section["environment"], "mean return", "to JAX ± error", "largest of one episode"), rows)


def main() -> None:
    """Plays, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, action="append", required=True, help="a run; repeatable")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/returns.json"))
    options = parser.parse_args()
    report = Report(options.out)
    for policy in options.policy:
        results = measure(find_bundle(policy), options.episodes)
        settings = {"episodes": options.episodes}
        print(show(report.add(results["environment"], settings, {"versions": versions(), **results})))


if __name__ == "__main__":
    main()
