"""`policy-gradients export` and `verify`: what they write, what they say, and their exit codes."""

import shutil

import numpy as np
import pytest

from policy_gradients.deployment import load_policy, verification
from policy_gradients.environments import registry


@pytest.fixture(scope="module")
def run_folder(write_cartpole_policy, tmp_path_factory):
    """A run's folder with a policy for CartPole in it."""
    folder = tmp_path_factory.mktemp("run")
    env = registry.make("CartPole-v1", 1)
    write_cartpole_policy(folder, env.spec)
    env.close()
    return folder


def test_c99_is_written_beside_the_policy(run, run_folder):
    code, out, _ = run("export", str(run_folder), "--format", "c99", "--name", "balance")
    assert code == 0 and "balance.c" in out
    assert "int balance_act(" in (run_folder / "c99" / "balance.h").read_text()


def test_onnx_is_written_with_the_users_metadata(run, run_folder, tmp_path):
    onnx = pytest.importorskip("onnx")
    (tmp_path / "meta.yaml").write_text("robot: cart\n")
    out = tmp_path / "new" / "p.onnx"
    options = ("--stochastic", "--distribution", "--metadata", str(tmp_path / "meta.yaml"), "--out", str(out))
    assert run("export", str(run_folder / "policy"), "--format", "onnx", *options)[0] == 0
    model = onnx.load(out)
    assert [put.name for put in model.graph.input] == ["obs", "noise"]
    assert {each.key: each.value for each in model.metadata_props}["robot"] == "cart"


def test_a_zip_acts_as_its_folder_does(run, run_folder, tmp_path):
    assert run("export", str(run_folder), "--format", "zip", "--out", str(tmp_path / "p.zip"))[0] == 0
    obs = np.ones((3, 4))
    np.testing.assert_array_equal(load_policy(tmp_path / "p.zip")(obs), load_policy(run_folder)(obs))
    assert run("export", str(tmp_path / "p.zip"), "--format", "c99")[0] == 0
    assert (tmp_path / "c99" / "policy.c").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--format", "onxx"), "Did you mean 'onnx'?"),
        ((), "--format"),
        (("--format", "c99", "--name", "My Policy"), "lower-case identifier"),
        (("--format", "c99", "--stochastic"), "--stochastic does not go with --format c99; leave it out."),
        (("--format", "zip", "--name", "p"), "--name does not go with --format zip"),
        (("--format", "onnx", "--metadata", "nowhere.yaml"), "cannot be read as YAML"),
    ],
)
def test_bad_input_is_a_sentence(run, run_folder, arguments, sentence):
    code, _, err = run("export", str(run_folder), *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1


def test_a_folder_without_a_policy_is_refused(run, tmp_path):
    for command in (("export", "--format", "c99"), ("verify",)):
        code, _, err = run(command[0], str(tmp_path), *command[1:])
        assert code == 2 and "holds no policy" in err


@pytest.mark.slow
def test_verify_finds_all_runtimes_equal(run, run_folder, monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name)  # which conftest.py emptied, and processes of their own would read
    code, out, err = run("verify", str(run_folder), "--observations", "500")
    assert err == ""
    assert code == 0 and "within 1e-05" in out
    assert [line.split("  ")[0] for line in out.splitlines()[1:4]] == ["JAX", "NumPy", "ONNX Runtime"]


@pytest.fixture
def without_processes(monkeypatch):
    """Runtimes answer at once; the one named "NumPy" is wrong by as much as the test says."""
    wrong = {"NumPy": 0}

    def answer(runtime, path, model, folder, count, seconds):
        golden = load_policy(path)(verification.read_bundle(path).golden["obs"])
        found = {"golden": golden, "random": np.resize(golden, count)}
        if runtime in wrong:
            found["random"] = found["random"] + wrong[runtime]
        return found, {"startup": 0.1, "memory": 1, "latency": [1e-6, 2e-6, 3e-6]}

    monkeypatch.setattr(verification, "_run", answer)
    monkeypatch.setattr(
        verification, "_run_program", lambda *_: verification.Measured("C program", 0, True, (), 0, 0, 0)
    )
    return wrong


def test_a_runtime_that_disagrees_fails_the_command(run, run_folder, without_processes):
    assert run("verify", str(run_folder), "--observations", "50")[0] == 0
    without_processes["NumPy"] = 1
    code, out, _ = run("verify", str(run_folder), "--observations", "50")
    assert code == 1 and "DISAGREES" in out and "NOT within" in out


def test_a_runtime_that_is_not_installed_is_named(run, run_folder, without_processes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, out, _ = run("benchmark", "latency", str(run_folder), "--seconds", "1")
    assert code == 0
    assert "not run: ONNX Runtime: onnx and onnxruntime are not installed" in out
    assert "not run: C: No C compiler" in out
