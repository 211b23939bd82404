"""`policy-gradients envs`: what can be trained on."""

from collections.abc import Iterable, Sequence
from typing import Any

from policy_gradients.cli.arguments import Parser
from policy_gradients.cli.runtime import start_jax
from policy_gradients.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Prints the environments; the exit code."""
    parser = Parser("envs", "Lists the environments that this installation can train on.")
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="", help="part of an id, in any case")
    parser.add_argument("--describe", action="store_true", help="start the one environment PATTERN and tell all of it")
    options = parser.parse(arguments)
    start_jax()
    if options.describe:
        from policy_gradients.environments.catalogue import describe

        if not options.pattern:
            raise UserError("envs: --describe needs the id of an environment (envs HalfCheetah-v4 --describe).")
        print("\n".join(f"{name:<20} {value}" for name, value in facts(describe(options.pattern))))
        return 0
    from policy_gradients.environments.catalogue import environments

    found = environments(options.pattern)
    if not found:
        raise UserError(f"envs: no environment's id contains {options.pattern!r}; without a pattern all are listed.")
    head = ("id", "engine", "observations", "actions", "limit")
    print(table([head, *((e.id, e.engine, e.obs, e.actions, e.limit or "") for e in found)]))
    return 0


def facts(spec: Any) -> list[tuple[str, str]]:
    """What an `EnvironmentSpec` says, as names and text."""
    from policy_gradients.environments.catalogue import environment_info

    info = environment_info(spec)
    listed = [
        ("id", spec.id),
        ("engine", spec.engine),
        ("observations", info.obs),
        ("", ", ".join(spec.obs_names)),
        ("actions", info.actions),
        ("", ", ".join(spec.action_names)),
        ("episode limit", f"{spec.max_episode_steps} steps" if spec.max_episode_steps else "none"),
        ("time per step", f"{spec.dt:g} s" if spec.dt else ""),
        ("exact resume", "yes" if spec.exact_resume else "no: the simulator's state cannot be saved"),
        ("versions", ", ".join(f"{name} {version}" for name, version in spec.versions.items())),
    ]
    return [(name, text) for name, text in listed if text]


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows as columns of text, the first column left and all others aligned with it."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)
