"""Do the trust regions hold over a whole run? A picture from the metrics of one TRPO and one V-MPO run.

TRPO: the mean KL of every update beside its bound δ. V-MPO: the KL of mean and standard deviation, averaged over an
update's gradient steps, beside ε_μ and ε_Σ, and the KL of the weights from uniform beside ε_η.

    python benchmarks/invariants.py --trpo runs/<run> --vmpo runs/<run> --out docs/images/invariants.png
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import yaml
from contest import end_cleanly_on_sigterm
from report import table


def read(run: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Hyperparameters, and every metric that each update has."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = set.intersection(*(set(row) for row in rows))
    numbers = {name: np.array([np.nan if row[name] is None else row[name] for row in rows], float) for name in names}
    return config["hyperparameters"], numbers


def main(options: argparse.Namespace) -> int:
    """Draws the picture and prints how often each bound was exceeded."""
    trpo, trpo_metrics = read(options.trpo)
    vmpo, vmpo_metrics = read(options.vmpo)
    panels = [
        ("TRPO: KL of an update", trpo_metrics, "train/kl_divergence_loss", trpo["max_kl"], "δ"),
        ("V-MPO: KL by the mean", vmpo_metrics, "train/kl_mean", vmpo["eps_mean"], "ε_μ"),
        ("V-MPO: KL by the standard deviation", vmpo_metrics, "train/kl_std", vmpo["eps_std"], "ε_Σ"),
        ("V-MPO: KL of the weights from uniform", vmpo_metrics, "train/weight_kl", vmpo["eps_eta"], "ε_η"),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=False, layout="constrained")
    rows = []
    for axis, (title, metrics, name, bound, symbol) in zip(axes.flat, panels, strict=True):
        steps, values = metrics["time/total_timesteps"] / 1e6, metrics[name]
        axis.plot(steps, values, ".", markersize=2, alpha=0.6)
        axis.axhline(bound, color="black", linewidth=1, label=f"{symbol} = {bound:g}")
        axis.set(title=title, xlabel="million environment steps", ylabel="nats")
        axis.set_ylim(0, max(2.0 * bound, float(np.nanquantile(values, 0.99)) * 1.1))
        axis.legend(loc="upper right")
        late = values[len(values) // 4 :]
        over = f"{np.mean(values > bound):.1%}"
        rows.append((title, f"{bound:g}", f"{np.median(late):.3g}", f"{np.max(values):.3g}", over))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=130)
    print(table(("", "bound", "median after a quarter of the run", "greatest", "updates above"), rows))
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trpo", type=Path, required=True, help="folder of a TRPO run")
    parser.add_argument("--vmpo", type=Path, required=True, help="folder of a V-MPO run with continuous actions")
    parser.add_argument("--out", type=Path, default=Path("docs/images/invariants.png"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main(parse()))
