"""`policy-gradients export`: a policy for places without Python, or as one file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from policy_gradients.cli.arguments import Parser
from policy_gradients.cli.evaluate import beside, find_bundle
from policy_gradients.errors import UserError, suggest

if TYPE_CHECKING:
    from policy_gradients.deployment.bundle import Bundle

FORMATS = ("c99", "onnx", "zip", "leapp")


def run(arguments: Sequence[str]) -> int:
    """Writes the files and names them; the exit code."""
    options = _parser().parse(arguments)
    if options.format not in FORMATS:
        raise UserError(
            f"export: --format is one of {', '.join(FORMATS)}, not {options.format!r}."
            f"{suggest(options.format, FORMATS)}"
        )
    _check_options(options)
    from policy_gradients.deployment.bundle import read_bundle

    path = find_bundle(options.path)
    for written in _export(options, path, read_bundle(path)):
        print(f"{written}  {written.stat().st_size / 1e6:.2f} MB")
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuses an option that another format has: it would be left out in silence."""
    own = {"c99": ("name",), "onnx": ("stochastic", "distribution", "metadata")}
    for name in (name for kind, names in own.items() if kind != options.format for name in names):
        if getattr(options, name) not in (None, False):
            raise UserError(f"export: --{name} does not go with --format {options.format}; leave it out.")


def _parser() -> Parser:
    parser = Parser("export", "Writes a trained policy for another runtime; normaliser and action map are inside.")
    parser.add_argument("path", metavar="RUN", type=Path, help="a run's folder, or a policy bundle")
    parser.add_argument("--format", required=True, metavar="FORMAT", help="c99, onnx, zip (one file) or leapp")
    out = "c99, leapp: a folder (RUN/c99, RUN/leapp); else a file (RUN/policy.onnx, RUN/policy.zip)"
    parser.add_argument("--out", type=Path, help=out)
    parser.add_argument("--name", help="c99: of the files and of every function (policy)")
    parser.add_argument("--stochastic", action="store_true", help="onnx: an input `noise`, and drawn actions")
    parser.add_argument("--distribution", action="store_true", help="onnx: also put out mean and log σ, or logits")
    parser.add_argument("--metadata", type=Path, metavar="YAML", help="onnx: more entries for the model's metadata")
    return parser


def _export(options: argparse.Namespace, path: Path, bundle: "Bundle") -> list[Path]:
    folder = beside(options.path)
    if options.format == "c99":
        from policy_gradients.deployment.c99 import write_c

        return write_c(bundle, options.out or folder / "c99", options.name or "policy")
    if options.format == "zip":
        from policy_gradients.deployment.bundle import zip_bundle

        return [zip_bundle(path, options.out or folder / "policy.zip")]
    if options.format == "leapp":
        from policy_gradients.deployment.leapp import write_leapp

        return write_leapp(bundle, options.out or folder / "leapp")
    from policy_gradients.deployment.onnx import read_metadata, write_onnx

    metadata = read_metadata(options.metadata) if options.metadata is not None else None
    out = options.out or folder / "policy.onnx"
    return [
        write_onnx(bundle, out, stochastic=options.stochastic, distribution=options.distribution, metadata=metadata)
    ]
