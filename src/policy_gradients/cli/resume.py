"""`policy-gradients resume`: continue a run where it stopped."""

from collections.abc import Sequence
from pathlib import Path

from policy_gradients.cli import distributed
from policy_gradients.cli.arguments import Parser, devices, positive
from policy_gradients.cli.runtime import check_back_end, start_jax


def run(arguments: Sequence[str]) -> int:
    """Resumes the run; the exit code."""
    parser = Parser("resume", "Continues a run from its latest checkpoint, as if it had not stopped.")
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's folder")
    parser.add_argument("--total-steps", type=positive, help="a new length of the run, in environment steps")
    parser.add_argument("--devices", type=devices, help="another number of devices, or all")
    parser.add_argument("--backend", choices=("auto", "cpu", "gpu"), help="another back end; auto chooses anew")
    for name, text in distributed.OPTIONS.items():
        metavar, _, meaning = text.partition(" ")
        parser.add_argument(name, dest=name, metavar=metavar, help=meaning.strip())
    options = parser.parse(arguments)
    start_jax()
    distributed.join(vars(options))
    check_back_end()
    from policy_gradients.cli.train import report
    from policy_gradients.training.loop import resume

    changes = {"total_steps": options.total_steps, "devices": options.devices, "backend": options.backend}
    return report(resume(options.run, **changes))
