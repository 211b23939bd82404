"""Whether the generated C gives the same bits everywhere: SHA-256 of 10,000 actions, by compiler and target.

The reference is no C compiler but the generator's own arithmetic in NumPy. What is not installed is named and left out.

    python benchmarks/bits.py --bundle runs/<run>/policy
"""

import argparse
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import Report, table, versions

from policy_gradients.deployment.bundle import read_bundle
from policy_gradients.deployment.c99 import write_c
from policy_gradients.deployment.c99.reference import reference_answers
from policy_gradients.deployment.measure import random_observations

BASE = ("-std=c99", "-ffp-contract=off", "-static", "-DPOLICY_MAIN")
OPTIONS = ("-O0", "-O2", "-O3", "-O3 -mavx2 -mfma", "-O3 -march=x86-64-v4", "-O3 -march=native -funroll-loops")
TARGETS = (
    *(("gcc", option, ()) for option in OPTIONS),
    *(("clang", option, ()) for option in OPTIONS),
    *(("aarch64-linux-gnu-gcc", option, ("qemu-aarch64-static",)) for option in ("-O0", "-O2", "-O3")),
    *(("clang", f"{option} --target=aarch64-linux-gnu", ("qemu-aarch64-static",)) for option in ("-O0", "-O3")),
    *(("g++", f"{option} -x c++ -std=c++17", ()) for option in ("-O0", "-O3 -march=native")),
    ("clang++", "-O3 -march=native -x c++ -std=c++17", ()),
    ("gcc", "-O3 -march=native -ffp-contract=fast", ()),  # what the flag is for: these bits differ
)


def actions(compiler: str, option: str, runner: Sequence[str], source: Path, obs: bytes) -> bytes | str:
    """The actions that a build gives, or why there is none."""
    for program in (compiler, *runner):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    program = source.parent / "program"
    base = [word for word in BASE if not (word.startswith("-std") and "c++" in option)]
    done = subprocess.run(
        [compiler, *base, *option.split(), str(source), "-lm", "-o", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return (done.stderr.splitlines() or ["it says nothing"])[0]
    ran = subprocess.run([*runner, str(program), "-b"], input=obs, capture_output=True, check=False)
    return ran.stdout if ran.returncode == 0 else f"exit code {ran.returncode}: {ran.stderr.decode()[:100]}"


def measure(path: Path, count: int) -> dict[str, Any]:
    """The hash of every build's actions, beside that of the reference."""
    bundle = read_bundle(path)
    obs = np.concatenate(list(random_observations(bundle, count)))
    answers = [reference_answers(bundle, chunk.reshape(len(chunk), -1)).action for chunk in np.array_split(obs, 20)]
    expected = hashlib.sha256(np.concatenate(answers).tobytes()).hexdigest()
    builds = []
    with tempfile.TemporaryDirectory(prefix="bits-") as folder:
        source = next(file for file in write_c(bundle, folder) if file.suffix == ".c")
        for compiler, option, runner in TARGETS:
            found = actions(compiler, option, runner, source, obs.tobytes())
            build = {"compiler": compiler, "options": option, "runner": list(runner)}
            if isinstance(found, bytes):
                sha = hashlib.sha256(found).hexdigest()
                builds.append({**build, "sha256": sha, "same": sha == expected})
            else:
                builds.append({**build, "skipped": found})
            print(builds[-1], flush=True)
    return {"reference": expected, "observations": count, "builds": builds}


def show(section: dict[str, Any]) -> str:
    """The section as Markdown."""
    rows = [
        (each["compiler"], each["options"], each.get("skipped") or ("same" if each["same"] else "other bits"))
        for each in section["builds"]
    ]
    return table(("compiler", "options", f"{section['observations']:,} actions"), rows)


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", required=True, help="a run or a bundle; repeatable")
    parser.add_argument("--observations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bits.json"))
    options = parser.parse_args()
    report = Report(options.out)
    for path in options.bundle:
        results = measure(path, options.observations)
        section = report.add(path.name, {"observations": options.observations}, {"versions": tools(), **results})
        print(show(section))


def tools() -> dict[str, str]:
    """Versions of Python's libraries and of the compilers that are installed."""
    found = versions(("numpy",))
    for name in ("gcc", "clang", "aarch64-linux-gnu-gcc", "qemu-aarch64-static", "valgrind"):
        if shutil.which(name) is not None:
            done = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
            found[name] = done.stdout.splitlines()[0]
    return found


if __name__ == "__main__":
    main()
