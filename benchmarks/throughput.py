"""Environment steps per second of training, beside other libraries and beside bare simulators.

Ours is the whole compiled iteration, rollout and update with its metrics fetched, in steady state; compile time is
stated apart, and the return that the same settings reach stands beside the speed. Everything in a section is measured
in turn, in processes of its own (contest.py). Results are written section by section: a stopped benchmark continues.

    python benchmarks/throughput.py                                # everything that is installed
    python benchmarks/throughput.py --against stable-baselines3 --peer-python path/to/its/python
    python benchmarks/throughput.py --sections cartpole --repeats 3 --seconds 2
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from contest import Contestant, ContestantFailure, all_closed, can_import, end_cleanly_on_sigterm, take_turns
from report import Report, paired_ratio, spread, summary, table
from settings import Setting

SB3, MUJOCO, ENVPOOL = "stable-baselines3", "mujoco", "envpool"
OURS = "policy_gradients"

RETURN_TIMEOUT = 3600.0
"""Seconds that training to the step count at which the return is stated may take."""


class Section(NamedTuple):
    """One setting and whom it is measured against."""

    setting: Setting
    against: tuple[str, ...]


def _cheetah(num_envs: int, num_steps: int, minibatch: int, num_epochs: int) -> Setting:
    return Setting("HalfCheetah-v4", num_envs, num_steps, minibatch, num_epochs)


def _other(algorithm: str, num_envs: int, num_steps: int, minibatch: int, num_epochs: int) -> Setting:
    rate = {"a2c": 7e-4, "trpo": 1e-3}[algorithm]
    return Setting(
        "HalfCheetah-v4", num_envs, num_steps, minibatch, num_epochs, learning_rate=rate, algorithm=algorithm
    )


def _humanoid(minibatch: int, num_epochs: int) -> Setting:
    return Setting("Humanoid-v4", 64, 64, minibatch, num_epochs, hidden=(256, 256))


def _cartpole(num_steps: int, minibatch: int, num_epochs: int, hidden: tuple[int, ...], **rates: float) -> Setting:
    return Setting(
        "CartPole-v1", 1024, num_steps, minibatch, num_epochs, hidden, normalize=False, return_steps=5_000_000, **rates
    )


SECTIONS = {
    "halfcheetah-8": Section(_cheetah(8, 256, 64, 10), (SB3,)),
    "halfcheetah-64": Section(_cheetah(64, 64, 2048, 5), (SB3, MUJOCO, ENVPOOL)),
    "halfcheetah-256": Section(_cheetah(256, 16, 2048, 5), (MUJOCO, ENVPOOL)),
    "trpo-halfcheetah-8": Section(_other("trpo", 8, 256, 128, 10), (SB3,)),  # sb3-contrib's defaults
    "a2c-halfcheetah-16x5": Section(_other("a2c", 16, 5, 80, 1), (SB3,)),  # Stable-Baselines3's n_steps
    "a2c-halfcheetah-16x32": Section(_other("a2c", 16, 32, 512, 1), (SB3,)),
    "humanoid-5-epochs": Section(_humanoid(1024, 5), (MUJOCO, ENVPOOL)),
    "humanoid-1-epoch": Section(_humanoid(1024, 1), (MUJOCO, ENVPOOL)),
    "cartpole-64x64-4-epochs": Section(_cartpole(32, 8192, 4, (64, 64), learning_rate=1e-3), ()),
    "cartpole-64x64-1-epoch": Section(_cartpole(32, 4096, 1, (64, 64), learning_rate=2e-3), ()),
    "cartpole-32-1-epoch": Section(_cartpole(16, 4096, 1, (32,), learning_rate=5e-3, gamma=0.98, gae_lambda=0.9), ()),
    "cartpole-16-1-epoch": Section(_cartpole(128, 8192, 1, (16,), learning_rate=1e-2), ()),
}


class Candidate(NamedTuple):
    """A way to run an opponent; of several the fastest is measured."""

    name: str
    script: str
    settings: dict[str, Any]
    python: str


def ours(setting: Setting) -> Candidate:
    """This library."""
    settings = {"experiment": setting.experiment(), "return_steps": setting.return_steps}
    return Candidate(OURS, "contestant_ours.py", settings, sys.executable)


def stable_baselines3(setting: Setting, python: str) -> list[Candidate]:
    """Environments in one process or in one each, PyTorch on one thread or on two."""
    return [
        Candidate(
            f"Stable-Baselines3 ({kind}, {threads} PyTorch thread{'s' * (threads > 1)})",
            "contestant_sb3.py",
            {"setting": setting.plain(), "threads": threads, "processes": kind == "SubprocVecEnv"},
            python,
        )
        for kind in ("DummyVecEnv", "SubprocVecEnv")
        for threads in (1, 2)
    ]


def bare_mujoco(setting: Setting) -> list[list[Candidate]]:
    """`mujoco.batch`; for Humanoid also with the contact forces that the task observes."""
    engines = {"batch": "bare mujoco.batch"}
    if setting.env.startswith("Humanoid"):
        engines = {"batch": "bare mujoco.batch, no contact forces", "contacts": "bare C stepping, contact forces"}
    threads = len(os.sched_getaffinity(0))
    common = {"env": setting.env, "num_envs": setting.num_envs, "threads": threads}
    return [
        [Candidate(name, "contestant_mujoco.py", {**common, "engine": engine}, sys.executable)]
        for engine, name in engines.items()
    ]


def envpool(setting: Setting, python: str) -> list[Candidate]:
    """Synchronous, and asynchronous with half of the environments answering together."""
    threads, n = len(os.sched_getaffinity(0)), setting.num_envs
    common = {"env": setting.env, "num_envs": n, "threads": threads}
    return [
        Candidate(f"bare EnvPool ({mode})", "contestant_envpool.py", {**common, "batch_size": size}, python)
        for mode, size in (("synchronous", n), ("asynchronous", n // 2))
    ]


def opponents(section: Section, options: argparse.Namespace) -> list[list[Candidate]]:
    """For each wanted opponent of a section its candidates."""
    wanted = [name for name in section.against if name in options.against]
    found: list[list[Candidate]] = []
    if SB3 in wanted:
        found.append(stable_baselines3(section.setting, options.peer_python))
    if MUJOCO in wanted:
        found.extend(bare_mujoco(section.setting))
    if ENVPOOL in wanted:
        found.append(envpool(section.setting, options.envpool_python))
    return found


def fastest(candidates: Sequence[Candidate], seconds: float) -> tuple[Candidate, dict[str, float]]:
    """The fastest candidate and every one's steps/s over half of a repeat; one alone is not measured."""
    if len(candidates) == 1:
        return candidates[0], {}
    rates = {}
    for candidate in candidates:
        with _open(candidate) as contestant:
            result = contestant.ask("measure", timeout=60 + 20 * seconds, seconds=seconds / 2)
        rates[candidate.name] = result["steps"] / result["seconds"]
    return max(candidates, key=lambda candidate: rates[candidate.name]), rates


def measure(section: Section, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a section: every contestant's, and the ratios of ours to the others'."""
    chosen, tried = [ours(section.setting)], {}
    for candidates in opponents(section, options):
        winner, rates = fastest(candidates, options.seconds)
        chosen.append(winner)
        tried |= rates
    with all_closed([]) as contestants:
        contestants.extend(map(_open, chosen))
        results = take_turns(contestants, options.repeats, options.seconds)
        for contestant, result in zip(contestants, results, strict=True):
            if contestant.name == OURS or contestant.name.startswith("Stable"):
                result["reached"] = contestant.ask("return", timeout=RETURN_TIMEOUT)
    for result in results:
        result |= summary(result["steps_per_second"])
    mine = results[0]["steps_per_second"]
    ratios = {other["name"]: paired_ratio(mine, other["steps_per_second"]) for other in results[1:]}
    return {"contestants": results, "ratios": ratios, "candidates_steps_per_second": tried}


def show(name: str, section: dict[str, Any]) -> str:
    """A section as Markdown."""
    head = ["", "steps/s: median (range)", "ours / this", "compile, s", "return", "at steps"]
    rows = []
    for result in section["contestants"]:
        ratio, reached = section["ratios"].get(result["name"]), result.get("reached", {})
        value, compiled = reached.get("return"), result["facts"].get("compile_seconds")
        rows.append([
            result["name"], spread(result), "" if ratio is None else spread(ratio, ".2f"),
            "" if compiled is None else f"{compiled:.1f}", "" if value is None else f"{value:,.0f}",
            f"{reached['steps']:,}" if reached else "",
        ])  # fmt: skip
    title = f"**{name}**: {section['label']} ({section['hardware']['cores']} cores, {section['commit']})"
    return f"\n{title}\n\n{table(head, rows)}"


def main(options: argparse.Namespace) -> int:
    """Measures what is not measured yet; returns the exit code."""
    report, failed = Report(options.out, options.fresh), False
    for name in options.sections:
        section = SECTIONS[name]
        if options.return_steps is not None:
            section = section._replace(setting=replace(section.setting, return_steps=options.return_steps))
        against = [opponent for opponent in section.against if opponent in options.against]
        if section.against and not against:
            continue
        settings = {
            "setting": section.setting.plain(), "against": against,
            "repeats": options.repeats, "seconds": options.seconds,
        }  # fmt: skip
        found = report.find(name, settings)
        if found is None:
            try:
                results = measure(section, options)
            except ContestantFailure as failure:
                print(f"\n{name} failed: {failure}", file=sys.stderr, flush=True)
                failed = True
                continue
            found = report.add(name, settings, {"label": section.setting.label, **results})
        print(show(name, found), flush=True)
    return int(failed)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; opponents that are not installed are left out with a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", nargs="+", choices=(SB3, MUJOCO, ENVPOOL), default=[SB3, MUJOCO, ENVPOOL])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has Stable-Baselines3")
    parser.add_argument("--envpool-python", default=sys.executable, help="interpreter that has EnvPool")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each contestant")
    parser.add_argument("--seconds", type=float, default=4.0, help="least length of one measurement")
    parser.add_argument("--return-steps", type=int, help="state the return after so many steps instead")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/throughput.json"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the file holds")
    options = parser.parse_args(arguments)
    needs = {SB3: (options.peer_python, "stable_baselines3"), ENVPOOL: (options.envpool_python, "envpool")}
    for name, (python, module) in needs.items():
        if name in options.against and not can_import(python, module):
            print(f"{name} is left out: {module} is not installed for {Path(python).name}.", file=sys.stderr)
            options.against = [other for other in options.against if other != name]
    return options


def _open(candidate: Candidate) -> Contestant:
    return Contestant(candidate.name, candidate.script, candidate.settings, candidate.python)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main(parse()))
