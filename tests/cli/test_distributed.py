"""What is said of processes that cannot train together."""

import socket

import pytest

from policy_gradients.cli import distributed
from policy_gradients.errors import UserError

BAD = {
    "auto outside a cluster": (["--coordinator=auto"], "could not join the others"),
    "an address alone": (["--coordinator", "a:1"], "belong together"),
    "no port": (["--coordinator=a", "--num-processes=2", "--process-id=0"], "expected HOST:PORT or auto, got 'a'"),
    "no such port": (["--coordinator=a:70000", "--num-processes=2", "--process-id=0"], "HOST:PORT or auto, got 'a:70"),
    "no such process": (["--coordinator=a:1", "--num-processes=2", "--process-id=2"], "a number from 0 to 1, got 2"),
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
