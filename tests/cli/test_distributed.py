"""What is said of processes that cannot train together."""

import socket

import jax
import pytest

from policy_gradients.cli import distributed
from policy_gradients.errors import UserError

BAD = {
    "auto outside a cluster": (["--coordinator=auto"], "could not join the others"),
    "an address alone": (["--coordinator", "a:1"], "belong together"),
    "no port": (["--coordinator=a", "--num-processes=2", "--process-id=0"], "expected HOST:PORT or auto, got 'a'"),
    "no such port": (["--coordinator=a:70000", "--num-processes=2", "--process-id=0"], "HOST:PORT or auto, got 'a:70"),
    "no such process": (["--coordinator=a:1", "--num-processes=2", "--process-id=2"], "a number from 0 to 1, got 2"),
    "no processes": (
        ["--coordinator=a:1", "--num-processes=0", "--process-id=0"],
        "--num-processes: expected 1 or more",
    ),
    "port 0": (["--coordinator=a:0", "--num-processes=1", "--process-id=0"], "expected HOST:PORT or auto, got 'a:0'"),
    "no number": (["--coordinator=a:1", "--num-processes=two", "--process-id=0"], "expected a whole number, got 'two'"),
    "no value": (["--coordinator"], "expected one value, got none"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_processes_that_are_named_wrongly_are_refused(arguments, sentence, run, monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    code, _, error = run("train", "ppo", "--env", "CartPole-v1", *arguments)
    assert code == 2 and sentence in error


def test_a_coordinator_that_nobody_is_at_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "PATIENCE", 0.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UserError, match=f"nobody listened at {where}"):
        distributed.join({"--coordinator": where, "--num-processes": "2", "--process-id": "1"})
    assert "Process 1 of 2 waits for process 0" in capsys.readouterr().err


@pytest.fixture
def first(monkeypatch):
    """`first("host:1")` joins as process 0, without JAX."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: None)
    return lambda where: distributed.join({"--coordinator": where, "--num-processes": "2", "--process-id": "0"})


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_first_process_whose_name_means_nothing_does_not_wait(host, first):
    with pytest.raises(UserError, match=f"^--coordinator: cannot find the address of '{host}' .*; give this machine's"):
        first(f"{host}:9000")


def test_a_port_at_which_somebody_listens_is_not_shared(first, capsys):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the other process 0 does
        other.bind(("127.0.0.1", 0))
        other.listen()
        where = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"^--coordinator: somebody already listens at {where}; does another proc"):
            first(where)
    first(where)
    assert f"Process 0 of 2 waits for the others at {where}" in capsys.readouterr().err
