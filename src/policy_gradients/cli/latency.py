"""`policy-gradients benchmark latency`: how long one action takes in every runtime."""

from collections.abc import Sequence
from pathlib import Path

from policy_gradients.cli.arguments import Parser, positive
from policy_gradients.cli.evaluate import find_bundle

OBSERVATIONS = 100  # compared on the way; all of them by `verify`


def run(arguments: Sequence[str]) -> int:
    """Prints the table; 1 where runtimes disagree, else 0."""
    parser = Parser("benchmark latency", "Times one action of a trained policy in JAX, NumPy, ONNX Runtime and C.")
    parser.add_argument("path", metavar="RUN", type=Path, help="a run's folder, or a policy bundle")
    parser.add_argument("--seconds", type=positive, default=5, help="how long each runtime is timed (%(default)s)")
    options = parser.parse(arguments)
    from policy_gradients.deployment.verification import report, verify

    verification = verify(find_bundle(options.path), observations=OBSERVATIONS, seconds=options.seconds)
    print(report(verification))
    return 0 if verification.agrees else 1
