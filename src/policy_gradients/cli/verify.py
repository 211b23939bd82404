"""`policy-gradients verify`: every runtime of a policy against JAX, and what each costs."""

from collections.abc import Sequence
from pathlib import Path

from policy_gradients.cli.arguments import Parser, positive
from policy_gradients.cli.evaluate import find_bundle


def run(arguments: Sequence[str]) -> int:
    """Prints the table; 1 where runtimes disagree, else 0."""
    parser = Parser("verify", "Runs a policy in JAX, NumPy, ONNX Runtime and C, and compares actions and cost.")
    parser.add_argument("path", metavar="RUN", type=Path, help="a run's folder, or a policy bundle")
    parser.add_argument("--observations", type=positive, default=10_000, help="random ones (%(default)s)")
    options = parser.parse(arguments)
    from policy_gradients.deployment.verification import report, verify

    verification = verify(find_bundle(options.path), observations=options.observations)
    print(report(verification))
    return 0 if verification.agrees else 1
