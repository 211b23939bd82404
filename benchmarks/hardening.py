"""Attacks: on the generated C (sanitizers, valgrind, libFuzzer), and on the loader of bundles (mutants).

python benchmarks/hardening.py --bundle runs/<run>/policy --fuzz-seconds 600 --mutants 5000
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bits import tools
from mutants import attack
from report import Report

from policy_gradients.deployment.bundle import Bundle, read_bundle
from policy_gradients.deployment.c99 import write_c
from policy_gradients.deployment.numpy_network import control_constants

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-DPOLICY_MAIN")
SANITIZERS = {
    "gcc ASan UBSan": ("gcc", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "clang ASan UBSan": ("clang", "-g", "-O1", "-fsanitize=address,undefined,integer", "-fno-sanitize-recover=all"),
    "clang MSan": ("clang", "-g", "-O1", "-fsanitize=memory", "-fno-sanitize-recover=all"),
}
VALGRIND = ("valgrind", "--error-exitcode=9", "--leak-check=full", "--quiet")
HERE = Path(__file__).resolve().parent


def check_program(command: list[str], inputs: list[bytes]) -> str:
    """ "clean", or what a checked program says about the observations."""
    for data in inputs:
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        said = done.stderr.decode(errors="replace")
        if done.returncode not in (0, 1, 2) or "ERROR" in said or "runtime error" in said:
            return f"exit code {done.returncode}: {said[:2000]}"
    return "clean"


def observations(bundle: Bundle) -> list[bytes]:
    """The golden ones, and extremes: each is a run of its own, since a refusal ends the program."""
    obs = bundle.golden["obs"]
    runs = [obs.tobytes(), obs.tobytes()[:-3]]
    if obs.dtype == np.float32:
        for value in (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0):
            runs.append(np.full(obs.shape[1:], value, np.float32).tobytes())
    return runs


def check_c(bundle: Bundle, folder: Path) -> dict[str, str]:
    """Sanitizers and valgrind on the program, each "clean" or not."""
    source = next(file for file in write_c(bundle, folder) if file.suffix == ".c")
    program, inputs, found = str(folder / "program"), observations(bundle), {}
    for name, command in SANITIZERS.items():
        if shutil.which(command[0]) is None:
            found[name] = f"{command[0]} is not installed"
            continue
        built = subprocess.run([*command, *WARNINGS, str(source), "-lm", "-o", program], capture_output=True, text=True)
        if built.returncode:
            found[name] = built.stderr[:500]
            continue
        found[name] = check_program([program, "-b"], inputs)
    subprocess.run(["cc", "-g", "-O1", *WARNINGS, str(source), "-lm", "-o", program], check=True)
    found["valgrind"] = "not installed"
    if shutil.which("valgrind"):
        found["valgrind"] = check_program([*VALGRIND, program, "-b"], inputs)
    return found


def fuzz(bundle: Bundle, folder: Path, seconds: int) -> dict[str, Any]:
    """libFuzzer on the entry points, with both sanitizers; it ends at the first crash."""
    if shutil.which("clang") is None:
        return {"skipped": "clang is not installed"}
    write_c(bundle, folder)
    (folder / "corpus").mkdir(exist_ok=True)
    for i, obs in enumerate(bundle.golden["obs"][:16]):
        (folder / "corpus" / str(i)).write_bytes(obs.tobytes())
    low, high = _bounds(bundle)
    flags = ("-g", "-O2", "-std=c99", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
    defines = (f"-DFUZZ_LOW={low!r}F", f"-DFUZZ_HIGH={high!r}F", f"-I{folder}")
    program = str(folder / "fuzz")
    subprocess.run(["clang", *flags, *defines, str(HERE / "fuzz_policy.c"), "-lm", "-o", program], check=True)
    done = subprocess.run(
        [program, "corpus", f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=8192"],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    clean = done.returncode == 0
    return {"seconds": seconds, "runs": int(stats.get("number_of_executed_units", 0)), "clean": clean,
            "said": "" if clean else done.stderr[-2000:]}  # fmt: skip


def _bounds(bundle: Bundle) -> tuple[float, float]:
    action = bundle.description.action
    if action.kind == "discrete":
        return float(action.start), float(action.start + action.n - 1)
    low, high, _, _ = control_constants(action)
    return float(low.min()), float(high.max())


def main() -> None:
    """Attacks, writes and prints; exit code 1 where something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="the policy's folder")
    parser.add_argument("--fuzz-seconds", type=int, default=600)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hardening.json"))
    options = parser.parse_args()
    report, bundle = Report(options.out), read_bundle(options.bundle)
    with tempfile.TemporaryDirectory(prefix="hardening-") as name:
        folder = Path(name)
        checks = check_c(bundle, folder)
        print(checks, flush=True)
        found = fuzz(bundle, folder, options.fuzz_seconds)
        print(found, flush=True)
    attacked = attack(options.bundle, options.mutants)
    print(attacked, flush=True)
    settings = {"fuzz_seconds": options.fuzz_seconds, "mutants": options.mutants}
    report.add(bundle.description.environment.id, settings,
               {"versions": tools(), "checks": checks, "fuzz": found, "loader": attacked})  # fmt: skip
    sound = set(checks.values()) <= {"clean"} and found.get("clean") and not attacked["failures"]
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
