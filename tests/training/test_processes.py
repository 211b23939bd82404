"""Several processes that train together: the results of one, files from the first, and an end for all of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from policy_gradients import processes
from policy_gradients.errors import UserError
from policy_gradients.training import loop, session
from policy_gradients.training.checkpoint import latest_checkpoint, load_checkpoint
from policy_gradients.training.config import load_experiment

QUICK = [
    "--preset=none", "--num-envs=8", "--num-steps=16", "--num-epochs=2", "--num-minibatches=2", "--network.hidden=8",
    "--lr-schedule=constant", "--logging.progress=lines", "--evaluation.num-evaluations=1", "--evaluation.episodes=2",
    "--evaluation.stochastic-episodes=0", "--no-video", "--env.num-threads=1",
]  # fmt: skip
FAILING = """
import os
import gymnasium, numpy as np

class Failing(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    def reset(self, seed=None, options=None):
        if os.environ.get("FAILS") == "reset":
            raise ValueError("the battery is flat")
        self.steps = 0
        return np.zeros(3, np.float32), {}
    def step(self, action):
        self.steps += 1
        if self.steps == 20 and os.environ.get("FAILS") == "step":
            raise ValueError("the motor burns")
        return np.zeros(3, np.float32), 1.0, False, False, {}

gymnasium.register("Failing-v0", Failing)
"""


@pytest.fixture
def start(tmp_path):
    """Starts one command line as two processes; the first comes first, the second may get more."""
    started = []

    def begin(*arguments, extra=(), **second):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{probe.getsockname()[1]}"
        paths = os.pathsep.join(sys.path)
        settings = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        for index in range(2):
            own = [f"--coordinator={where}", "--num-processes=2", f"--process-id={index}", *(extra if index else ())]
            process = subprocess.Popen(
                [sys.executable, "-m", "policy_gradients", *map(str, arguments), *own], cwd=tmp_path, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=settings | (second if index else {}),
            )  # fmt: skip
            started.append(process)
        return started[-2:]

    yield begin
    for process in started:
        process.kill()


def finish(both):
    """Exit codes, what was printed and what was complained of, of each."""
    told = [process.communicate(timeout=300) for process in both]
    return [(process.returncode, *text) for process, text in zip(both, told, strict=True)]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_learn_what_two_devices_learn(start, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "make_pictures", lambda *args, **kwargs: None)
    run = tmp_path / "run"
    first, second = finish(start("train", "ppo", "--env=CartPole-v1", f"--run-dir={run}", "--total-steps=384", *QUICK))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert f"Run folder: {run}" in first[1] and "Run folder" not in second[1]
    assert {"config.yaml", "metrics.jsonl", "policy", "checkpoints", "curve.png"} <= {p.name for p in run.iterdir()}
    loop.train(replace(load_experiment(run / "config.yaml"), devices=2), tmp_path / "alone")
    together, alone = rows(run), rows(tmp_path / "alone")
    assert len(together) == len(alone) == 3
    for name in ("rollout/ep_rew_mean", "train/value_loss", "train/update_norm", "eval/mean_reward"):
        assert together[-1][name] == pytest.approx(alone[-1][name], rel=1e-4), name


@pytest.mark.slow
def test_each_process_steps_its_share_of_a_simulator_and_goes_on_where_it_stopped(start, tmp_path):
    arguments = ["ppo", "--env=HalfCheetah-v4", "--total-steps=2560", "--checkpoint.num-checkpoints=2", *QUICK]
    assert [code for code, *_ in finish(start("train", *arguments, f"--run-dir={tmp_path / 'whole'}"))] == [0, 0]
    arguments[2] = "--total-steps=1280"
    assert [code for code, *_ in finish(start("train", *arguments, f"--run-dir={tmp_path / 'parts'}"))] == [0, 0]
    assert [code for code, *_ in finish(start("resume", tmp_path / "parts", "--total-steps=2560"))] == [0, 0]
    (whole, _), (parts, facts) = (load_checkpoint(latest_checkpoint(tmp_path / name)) for name in ("whole", "parts"))
    assert facts["processes"] == 2 and whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)
    states = whole["env.state"]
    assert states.shape[:2] == (2, 4) and not np.array_equal(states[0], states[1])
    with pytest.raises(UserError, match=r"was trained by 2 processes, each of which .* resume it with 2"):
        loop.resume(tmp_path / "whole", total_steps=5120)


@pytest.mark.slow
def test_simulators_without_a_state_start_anew_in_each_process(start, tmp_path):
    run = tmp_path / "run"
    arguments = ["a2c", "--env=gymnasium:Pendulum-v1", f"--run-dir={run}", "--total-steps=256", *QUICK[:3], *QUICK[5:]]
    assert [code for code, *_ in finish(start("train", *arguments))] == [0, 0]
    first, second = finish(start("resume", run, "--total-steps=512"))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "start new episodes" in first[1] and rows(run)[-1]["time/total_timesteps"] == 512


@pytest.mark.slow
def test_a_signal_to_one_stops_all(start, tmp_path):
    run = tmp_path / "run"
    both = start("train", "ppo", "--env=HalfCheetah-v4", f"--run-dir={run}", "--total-steps=10_000_000", *QUICK)
    until = time.monotonic() + 120
    while not ((run / "metrics.jsonl").exists() and rows(run)) and time.monotonic() < until:
        time.sleep(0.2)
    both[1].send_signal(signal.SIGTERM)
    first, second = finish(both)
    assert first[0] == second[0] == 143
    assert "Stopped after update" in first[1]
    assert load_checkpoint(latest_checkpoint(run))[1]["update"] == len(rows(run)) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("where", "cause"), [("step", "the motor burns"), ("reset", "the battery is flat")])
def test_one_that_fails_ends_the_others_with_a_sentence(start, tmp_path, where, cause):
    (tmp_path / "failing.py").write_text(FAILING)
    run = tmp_path / "run"
    arguments = ["--env=failing:Failing-v0", f"--run-dir={run}", "--total-steps=100_000", *QUICK]
    both = start("train", "ppo", *arguments, FAILS=where)
    first, second = finish(both)
    assert second[0] == 2 and cause in second[2]
    assert first[0] == 1 and "Traceback" not in first[2]
    assert "Another process of this run stopped" in first[2] and "start all processes again" in first[2]


@pytest.mark.slow
def test_what_the_first_refuses_the_others_refuse(start, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    first, second = finish(start("train", "ppo", "--env=CartPole-v1", "--run-dir=taken", *QUICK))
    assert first[0] == second[0] == 2
    assert "already exists and is not empty" in first[2]
    assert "The first process stopped before it began" in second[2]


@pytest.mark.slow
def test_processes_with_other_settings_refuse_to_train_together(start, tmp_path):
    run = tmp_path / "run"
    both = start("train", "ppo", "--env=CartPole-v1", f"--run-dir={run}", *QUICK, extra=["--gamma=0.9"])
    for code, _, error in finish(both):
        assert code == 2 and "the same settings, but process 1 has others than process 0" in error
    assert not run.exists()


def test_one_process_alone_sends_nothing():
    numbers = np.array([1e-300, np.nan])
    np.testing.assert_array_equal(processes.gather(numbers), numbers[None])
    assert processes.from_lead(lambda: "here") == "here" and processes.leads() and processes.count() == 1
