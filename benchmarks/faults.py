"""Faults put into a copy of the source, one at a time: the test named beside each must fail.

    python benchmarks/faults.py
    python benchmarks/faults.py --only seeds

The faults are of the promises that a wrong program keeps quietly: it runs, and learns something. A fault counts as
found only where the test fails; one that cannot be collected proves nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import NamedTuple

from contest import ROOT, end_cleanly_on_sigterm
from report import Report, table


class Fault(NamedTuple):
    """A change that must not go unseen."""

    name: str
    file: str  # below src/policy_gradients
    before: str  # stands there exactly once
    after: str
    test: str  # below tests


CONTRACT = "algorithms/test_contract.py"
ONCE = f"{CONTRACT}::test_rollout_and_update_are_traced_once[ppo-normal]"
SAME = f"{CONTRACT}::test_an_update_keeps_the_structure_shapes_and_dtypes_of_the_state[ppo-normal]"
LOOP_ONCE = "training/test_loop.py::test_a_run_traces_its_program_once"
SEEDS = "training/test_seeds.py::test_a_seed_among_many_is_the_run_of_that_seed"
OTHERS = "training/test_population.py::test_a_member_that_diverges_is_minus_infinity_and_the_others_go_on"
MEMBER = "training/test_population.py::test_a_member_is_the_run_that_train_makes_of_its_seed"
DEVICES = "training/test_devices.py::test_four_devices_learn_what_one_learns[ppo-continuous]"
LAYOUT = "training/test_devices.py::test_each_device_holds_its_environments_and_the_whole_learner"
SHARES = "training/test_devices.py::test_a_simulator_on_each_device_steps_its_share_of_the_copies"
SEVERAL = "training/test_program.py::test_several_updates_in_a_call_are_the_same_updates_one_by_one"
KEYS = "training/test_program.py::test_a_call_runs_the_iteration_with_the_key_of_each_update"

FAULTS = (
    Fault(
        "once: a leaf loses its type in the first update",
        "algorithms/ppo.py", "learning_rate=rate, n_updates=count)",
        "learning_rate=jnp.asarray(config.learning_rate), n_updates=count)", ONCE,
    ),
    Fault(
        "once: a leaf of the first state is weakly typed",
        "algorithms/learner.py", "jnp.asarray(config.learning_rate, jnp.float32)", "jnp.asarray(config.learning_rate)",
        SAME,
    ),
    Fault(
        "once: every call makes its program anew",
        "training/session.py", "state, rows = program(state, update, count)",
        "state, rows = Program(self.parts, self.steps_per_update, self.key, state)(state, update, count)", LOOP_ONCE,
    ),
    Fault(
        "seeds: all draw what the first draws",
        "training/population.py", "(seeds))[:3]", "(jnp.full_like(seeds, seeds[0])))[:3]", SEEDS,
    ),
    Fault(
        "seeds: their updates share one stream",
        "training/population.py", "return iteration(jax.random.fold_in(key, update), learner, carry)",
        "return iteration(jax.random.fold_in(jax.random.key(0), update), learner, carry)", SEEDS,
    ),
    Fault(
        "seeds: all have the numbers of the first",
        "training/population.py", "jnp.array([m.numbers[name] for m in members]",
        "jnp.array([members[0].numbers[name] for m in members]", MEMBER,
    ),
    Fault(
        "seeds: one that diverges takes the others along",
        "training/population.py", 'if "/nonfinite" in name], axis=0)', 'if "/nonfinite" in name])', OTHERS,
    ),
    Fault(
        "devices: the loss is of one device's rows, their sum left out",
        "estimation/batches.py", "weights = valid.astype(rows.dtype)",
        "weights = (valid & (jnp.arange(len(valid)) < len(valid) // _devices())).astype(rows.dtype)", DEVICES,
    ),
    Fault(
        "devices: statistics are of one device's environments",
        "estimation/normalization.py", "obs = update_moments(obs, trajectory.obs, valid)",
        "own = valid.shape[1] // max(1, jax.sharding.get_abstract_mesh().size); "
        "obs = update_moments(obs, trajectory.obs[:, :own], valid[:, :own])", DEVICES,
    ),
    Fault(
        "devices: every device holds every environment",
        "training/devices.py", "spread: Any = NamedSharding(mesh, PartitionSpec(ENV_AXIS))", "spread: Any = whole",
        LAYOUT,
    ),
    Fault(
        "devices: simulators on all of them draw the same",
        "environments/devices.py", "share.reset(jax.random.fold_in(key, jax.lax.axis_index(ENV_AXIS)))",
        "share.reset(jax.random.fold_in(key, 0 * jax.lax.axis_index(ENV_AXIS)))", SHARES,
    ),
    Fault(
        "call: its updates draw from one key",
        "training/program.py", "one(first + index, learner, carry)", "one(first, learner, carry)", SEVERAL,
    ),
    Fault(
        "call: its updates draw as if it were the run's first",
        "training/program.py", "one(first + index, learner, carry)", "one(index, learner, carry)", KEYS,
    ),
    Fault(
        "call: one update too many",
        "training/program.py", "fori_loop(0, count, body", "fori_loop(0, count + 1, body", SEVERAL,
    ),
    Fault(
        "call: metrics of the last update stand in the first row",
        "training/program.py", "table.at[index].set(new)", "table.at[0].set(new)", SEVERAL,
    ),
)  # fmt: skip


def test(source: Path, tests: Iterable[str]) -> tuple[int, str]:
    """pytest's exit code for these tests with the package from `source` (0 passed, 1 failed), and why one failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, next((line for line in done.stdout.splitlines() if line.startswith("E  ")), "")[1:].strip()


def put(fault: Fault, folder: Path) -> Path:
    """A copy of the source with the fault in it, below `folder`."""
    source = copytree(ROOT / "src", folder / "src", ignore=ignore_patterns("__pycache__"))
    file = source / "policy_gradients" / fault.file
    text = file.read_text(encoding="utf-8")
    if text.count(fault.before) != 1:
        raise SystemExit(
            f"{fault.name}: {fault.file} holds {fault.before!r} {text.count(fault.before)} times, not once."
        )
    file.write_text(text.replace(fault.before, fault.after), encoding="utf-8")
    return source


def main(options: argparse.Namespace) -> int:
    """Tries the faults and prints which are found; 1 where one is not."""
    chosen = [fault for fault in FAULTS if options.only in fault.name]
    if test(ROOT / "src", sorted({fault.test for fault in chosen}))[0]:
        raise SystemExit("The tests do not pass without a fault, so that they would tell nothing of one.")
    found, report = {}, Report(options.out)
    for fault in chosen:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            code, why = test(put(fault, Path(folder)), [fault.test])
        found[fault.name] = outcome = {0: "MISSED", 1: "found"}.get(code, "NOT RUN")
        report.add(fault.name, fault._asdict(), {"outcome": outcome, "why": why})
        print(f"{outcome}  {fault.name}", file=sys.stderr)
    print(table(("fault", "test", ""), [(f.name, f.test.partition("::")[2], found[f.name]) for f in chosen]))
    return int(set(found.values()) != {"found"})


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "faults.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main(parse()))
