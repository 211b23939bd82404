"""`verify`: what is not installed is left out, what is installed and fails is a failure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy_gradients.deployment import load_policy, read_bundle, verification
from policy_gradients.errors import UserError


@pytest.fixture
def without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes answer at once, with NumPy's actions."""

    def answer(runtime: str, path: Path, model: Path, folder: Path, count: int, seconds: float) -> Any:
        golden = load_policy(path)(read_bundle(path).golden["obs"])
        found = {"golden": golden, "random": np.resize(golden, (count, golden.shape[1]))}
        return found, {"startup": 0.1, "memory": 1, "latency": [1e-6, 2e-6, 3e-6]}

    program = verification.Measured("C program", 0, True, (), 0, 0, 0)
    monkeypatch.setattr(verification, "_run", answer)
    monkeypatch.setattr(verification, "_run_program", lambda *_: program)


@pytest.mark.usefixtures("without_processes")
def test_a_compiler_that_fails_is_a_failure(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    found = verification.verify(toy_bundle, observations=5)
    text = verification.report(found)
    assert not found.agrees and "C" not in found.skipped
    assert "FAILED: C: /bin/false cannot compile policy.c" in text and "within 1e-05, but C failed." in text


@pytest.mark.usefixtures("without_processes")
def test_an_export_that_fails_is_a_failure(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("policy_gradients.deployment.onnx")

    def fail(*_: object) -> None:
        raise UserError("The model is too odd.")

    monkeypatch.setenv("CC", "/bin/false")
    monkeypatch.setattr(onnx, "write_onnx", fail)
    found = verification.verify(toy_bundle, observations=5)
    assert not found.agrees and found.failed["ONNX Runtime"] == "The model is too odd."
    assert "installed" not in verification.report(found)


@pytest.mark.usefixtures("without_processes")
def test_a_runtime_that_crashes_leaves_the_others_their_table(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = verification._run

    def crash(runtime: str, *rest: Any) -> Any:
        if runtime == "NumPy":
            raise UserError("Segmentation fault.")
        return run(runtime, *rest)

    monkeypatch.setenv("CC", "/bin/false")
    monkeypatch.setattr(verification, "_run", crash)
    found = verification.verify(toy_bundle, observations=5)
    assert "JAX" in [each.runtime for each in found.measured] and found.failed["NumPy"] == "Segmentation fault."
    assert not found.agrees
