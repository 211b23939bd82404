"""How late the 1 kHz loop of examples/control_loop.py is, with and without a real-time class; with a picture.

python benchmarks/control_loop.py --policy runs/<run of HalfCheetah>
"""

import argparse
import contextlib
import importlib.util
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
from contest import ROOT
from report import Report, table, versions

PERCENTILES = (50.0, 99.0, 99.9, 100.0)
CLASSES = {"ordinary scheduling": 0, "SCHED_FIFO": 80}
EDGES = np.geomspace(10, 1e5, 200)  # of the histogram, µs


def example() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("control_loop_example", ROOT / "examples" / "control_loop.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Measures, writes, draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="a run or a bundle of HalfCheetah")
    parser.add_argument("--seconds", type=float, default=20.0, help="per scheduling class (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/control_loop.json"))
    options = parser.parse_args()
    loop, found = example(), {}
    for name, priority in CLASSES.items():
        with contextlib.suppress(PermissionError):  # the right to it is missing: left out
            ticks = loop.main(str(options.policy), options.seconds, priority)
            counts = np.histogram(ticks, EDGES)[0].tolist()
            found[name] = {"late_us": np.percentile(ticks, PERCENTILES).tolist(), "histogram": counts}
            plt.stairs(counts, EDGES, label=name)
    results = {"versions": versions(("numpy", "mujoco")), "percentiles": PERCENTILES, "edges_us": EDGES.tolist()}
    Report(options.out).add("HalfCheetah", {"seconds": options.seconds}, {**results, "classes": found})
    plt.gca().set(xscale="log", yscale="log", xlabel="µs from deadline to action and step", ylabel="ticks")
    plt.legend(frameon=False)
    plt.savefig(options.out.with_suffix(".png"), dpi=120, bbox_inches="tight")
    rows = [(name, *(f"{value:.0f}" for value in each["late_us"])) for name, each in found.items()]
    print(table(("µs after the deadline", "p50", "p99", "p99.9", "most"), rows))


if __name__ == "__main__":
    main()
