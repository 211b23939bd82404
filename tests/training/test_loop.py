"""The outer loop: exact resume, signals, failures, and what evaluation may and may not touch."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import Discrete, EnvironmentFailure, EnvironmentSpec, Step, box
from policy_gradients.environments.host import host_environment
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig
from policy_gradients.training import loop, program, session
from policy_gradients.training.checkpoint import checkpoint_folder, latest_checkpoint, load_checkpoint, unflatten_tree
from policy_gradients.training.config import (
    CheckpointConfig,
    EnvironmentConfig,
    EvaluationConfig,
    Experiment,
    LoggingConfig,
)
from policy_gradients.training.products import Evaluation
from policy_gradients.training.saving import alone
from policy_gradients.training.setup import build, make_environment

N, T, UPDATES = 4, 8, 10
CARTPOLE = Experiment(
    hyperparameters=PPOConfig(num_steps=T, num_epochs=2, num_minibatches=2, learning_rate=3e-3),
    env=EnvironmentConfig(id="CartPole-v1", num_envs=N),
    network=NetworkConfig(hidden=(8,)),
    evaluation=EvaluationConfig(num_evaluations=5, episodes=2, stochastic_episodes=2),
    checkpoint=CheckpointConfig(num_checkpoints=2),
    logging=LoggingConfig(progress="none"),
    total_steps=N * T * UPDATES,
    seed=3,
    video=False,
)
SILENT = replace(CARTPOLE, evaluation=EvaluationConfig(num_evaluations=0))
LEAST = ("jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes")
pytestmark = pytest.mark.usefixtures("programs_compiled_once")


class Watching:
    """A progress that keeps what it is told, weighs the process, and may do something at an update."""

    def __init__(self, at=None, do=None):
        self.at, self.do = at, do
        self.messages, self.live, self.resident = [], [], []

    def update(self, step, metrics):
        self.live.append(len(jax.live_arrays()))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        if metrics["time/iterations"] == self.at:
            self.do()

    def message(self, text):
        self.messages.append(text)

    def close(self):
        pass


@pytest.fixture(scope="module")
def patch():
    """No pictures; and calls of 1, 2, 4 … updates, however busy the machine is."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(session, "make_pictures", lambda *args, **kwargs: None)
        context.setattr(program, "SECONDS_PER_CALL", 1e9)
        yield context


@pytest.fixture
def watch(patch):
    """`watch(at=5, do=function)` is the progress of the next run."""

    def arrange(**kwargs):
        progress = Watching(**kwargs)
        patch.setattr(session, "make_progress", lambda experiment, run: progress)
        return progress

    return arrange


class Whole(NamedTuple):
    """A run without a break, what it told its progress, the key of each evaluation, and how often it was traced."""

    run: session.Run
    progress: Watching
    eval_keys: list[np.ndarray]
    traces: int


@pytest.fixture(scope="module")
def whole(patch, tmp_path_factory):
    """Ten updates of CartPole."""
    progress, keys, evaluate = Watching(), [], Evaluation.__call__
    traces, several = [], program._several

    def note(self, key, *args):
        keys.append(np.array(jax.random.key_data(key)))  # on the host: what lives on the device is counted
        return evaluate(self, key, *args)

    def traced(*args):
        traces.append(True)
        return several(*args)

    with pytest.MonkeyPatch.context() as watched:
        watched.setattr(session, "make_progress", lambda experiment, run: progress)
        watched.setattr(Evaluation, "__call__", note)
        watched.setattr(program, "_several", traced)
        run = loop.train(CARTPOLE, tmp_path_factory.mktemp("whole") / "run")
    return Whole(run, progress, keys, len(traces))


def arrays_of(run: Path):
    return load_checkpoint(latest_checkpoint(run))[0]


def updates_of(run: Path) -> int:
    return load_checkpoint(latest_checkpoint(run))[1]["update"]


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), f"{name}: {one[name]} != {other[name]}"


def metrics_of(run: Path):
    """All lines of metrics.jsonl, without the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/fps", "time/time_elapsed", "time/compile")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def resume_in_a_new_process(run: Path) -> None:
    program = (
        "import sys; from policy_gradients.training import loop, session; "
        "session.make_pictures = lambda *args, **kwargs: None; print(loop.resume(sys.argv[1]).result['status'])"
    )
    known = ("jax_num_cpu_devices", "jax_compilation_cache_dir", *LEAST)
    settings = {name.upper(): str(getattr(jax.config, name)) for name in known}
    environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr


def stop_halfway(watch, experiment, run: Path) -> Watching:
    progress = watch(at=UPDATES // 2, do=lambda: signal.raise_signal(signal.SIGTERM))
    result = loop.train(experiment, run).result
    assert result["status"] == "terminated"
    return progress


def test_ten_updates_are_five_a_new_process_and_five(whole, watch, tmp_path):
    """Trap 39: every array of the learner and the environments, and every metric, to the last bit."""
    stop_halfway(watch, CARTPOLE, tmp_path / "run")
    assert updates_of(tmp_path / "run") == UPDATES // 2
    resume_in_a_new_process(tmp_path / "run")
    assert_same_bits(arrays_of(tmp_path / "run"), arrays_of(whole.run.path))
    assert metrics_of(tmp_path / "run") == metrics_of(whole.run.path)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "Hopper-v4", "Pendulum-v1"])
def test_ten_updates_are_five_a_new_process_and_five_in_other_simulators(env_id, watch, tmp_path):
    """Trap 39: MuJoCo's state, its warm start and time limits too."""
    experiment = replace(SILENT, env=EnvironmentConfig(id=env_id, num_envs=N, max_episode_steps=23))
    watch()
    loop.train(experiment, tmp_path / "whole")
    stop_halfway(watch, experiment, tmp_path / "run")
    resume_in_a_new_process(tmp_path / "run")
    assert_same_bits(arrays_of(tmp_path / "run"), arrays_of(tmp_path / "whole"))
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


def test_a_signal_that_comes_after_an_update_saves_that_update_and_says_how_to_go_on(watch, tmp_path):
    """Also while metrics are logged or the policy is evaluated: no update that is done is lost."""
    before = signal.getsignal(signal.SIGINT)
    progress = watch(at=3, do=lambda: signal.raise_signal(signal.SIGINT))
    run = loop.train(SILENT, tmp_path / "run")
    assert run.result["status"] == "interrupted"
    assert updates_of(run.path) == 3
    assert len(metrics_of(run.path)) == 3
    assert f"policy-gradients resume {run.path}" in progress.messages[-1]
    assert signal.getsignal(signal.SIGINT) is before


def test_every_update_is_logged_with_its_steps(whole):
    """Trap 43: T·N steps each, and the last line is the result."""
    rows = metrics_of(whole.run.path)
    assert [row["time/iterations"] for row in rows] == list(range(1, UPDATES + 1))
    assert [row["time/total_timesteps"] for row in rows] == [N * T * u for u in range(1, UPDATES + 1)]
    assert sum("eval/mean_reward" in row for row in rows) == 5
    assert whole.run.result["status"] == "finished"
    assert whole.run.result["train/n_updates"] == rows[-1]["train/n_updates"] == 4 * UPDATES


def test_a_run_traces_its_program_once(whole):
    """Trap 40: however many calls its updates take."""
    assert whole.traces == 1


def test_the_last_checkpoints_and_the_best_are_kept(whole):
    folders = sorted(path.name for path in (whole.run.path / "checkpoints").iterdir())
    assert folders == ["best", checkpoint_folder(Path(), 5).name, checkpoint_folder(Path(), 10).name]


def test_nothing_piles_up_on_the_device(whole):
    """Trap 42: no more arrays live in the second half of the run than in the first, evaluations among both."""
    live = whole.progress.live
    assert max(live[5:]) <= max(live[:5]), live


def test_the_best_checkpoint_scores_what_was_recorded(whole):
    """Trap 32: the parameters that were evaluated, not those of one evaluation later."""
    arrays, manifest = load_checkpoint(whole.run.path / "checkpoints" / "best")
    evaluated = [row for row in metrics_of(whole.run.path) if "eval/mean_reward" in row]
    which = [row["time/iterations"] for row in evaluated].index(manifest["update"])
    assert manifest["best"] == max(row["eval/mean_reward"] for row in evaluated)
    assert manifest["best"] == evaluated[which]["eval/mean_reward"]

    parts = build(CARTPOLE, make_environment(CARTPOLE, N))
    template = {"learner": jax.eval_shape(parts.algorithm.init, jax.random.key(0))}
    learner = unflatten_tree(template, arrays, whole.run.path)["learner"]
    judge = Evaluation.build(CARTPOLE, parts.agent, partial(make_environment, CARTPOLE, evaluation=True))
    again = judge(jax.random.wrap_key_data(jnp.asarray(whole.eval_keys[which])), learner.params, learner.statistics)
    assert again["eval/mean_reward"] == manifest["best"]
    assert again["eval/stochastic_mean_reward"] == evaluated[which]["eval/stochastic_mean_reward"]


def test_evaluation_changes_nothing_of_what_is_learnt(whole, watch, tmp_path):
    """Trap 31: statistics, parameters and environments are the same to the last bit without it."""
    watch()
    loop.train(SILENT, tmp_path / "run")
    assert_same_bits(arrays_of(tmp_path / "run"), arrays_of(whole.run.path))


def poisoned(field):
    """An environment whose reward or observation is not a number from the 20th step of a copy on."""

    def make(num_envs):
        def reset(key):
            return jnp.int32(0), jnp.zeros(1)

        def step(key, state, action):
            bad = jnp.where(state >= 19, jnp.nan, 0.0)
            obs, reward = (bad, 1.0) if field == "obs" else (0.0, 1.0 + bad)
            return state + 1, jnp.full(1, obs), reward, state > 90

        spec = EnvironmentSpec("Poisoned-v0", "jax", num_envs, box(-1, 1, (1,)), Discrete(2))
        return autoreset(spec, reset, step)

    return make


@pytest.mark.parametrize(
    ("field", "culprit"),
    [
        ("reward", "the environment's rewards"),
        pytest.param("obs", "the environment's observations", marks=pytest.mark.slow),
    ],
)
def test_numbers_that_are_not_finite_stop_the_run_and_name_the_culprit(field, culprit, watch, tmp_path):
    """Steps 17 to 24 of each copy are the third update; a checkpoint after each, and the last good one is named."""
    watch()
    experiment = replace(SILENT, checkpoint=CheckpointConfig(num_checkpoints=UPDATES))
    with pytest.raises(session.TrainingDiverged, match=f"Update 3 .* first in {culprit}") as stopped:
        loop.train(experiment, tmp_path / "run", make_env=poisoned(field))
    kept = latest_checkpoint(tmp_path / "run")
    assert str(kept) in str(stopped.value)
    arrays, manifest = load_checkpoint(kept)
    assert manifest["update"] == 2
    assert all(np.isfinite(array).all() for array in arrays.values())


class Failing:
    """A simulator without a readable state that breaks at one step, once."""

    def __init__(self, num_envs, fails_at):
        space = box(-1, 1, (1,))
        self.spec = EnvironmentSpec(
            "Failing-v0", "gymnasium", num_envs, space, Discrete(2), on_host=True, exact_resume=False
        )
        self.steps, self.fails_at, self.seeds, self.closed = 0, fails_at, [], False

    def reset(self, seed):
        self.seeds.append(seed)
        return np.zeros((self.spec.num_envs, 1), np.float32)

    def step(self, action):
        self.steps += 1
        if self.steps == self.fails_at:  # once
            raise EnvironmentFailure("Failing-v0: the motor came off")
        obs, flag = np.full((self.spec.num_envs, 1), self.steps % 3, np.float32), np.zeros(self.spec.num_envs, bool)
        return Step(obs, obs, obs[:, 0], flag, flag, ~flag)

    def snapshot(self):
        return {}

    def restore(self, arrays):
        raise AssertionError("its state cannot be restored")

    def close(self):
        self.closed = True


def test_a_simulator_that_fails_leaves_what_was_learnt_and_the_run_goes_on_with_new_episodes(watch, tmp_path):
    """At step 30, in the fourth update: three are kept, though checkpoints were due only at updates 5 and 10."""
    simulator = Failing(N, fails_at=30)
    env = host_environment(simulator)
    watch()
    with pytest.raises(EnvironmentFailure, match="the motor came off"):
        loop.train(SILENT, tmp_path / "run", make_env=lambda num_envs: env)
    assert simulator.closed
    arrays, manifest = load_checkpoint(latest_checkpoint(tmp_path / "run"))
    assert manifest["update"] == 3
    assert manifest["time_elapsed"] > 0
    assert arrays["learner.n_updates"] == 3 * 4

    progress = watch()
    run = loop.resume(tmp_path / "run", make_env=lambda num_envs: env)
    assert any("start new episodes" in message for message in progress.messages)
    assert simulator.steps == 30 + (UPDATES - 3) * T
    assert simulator.seeds[-1] not in simulator.seeds[:-1], "new episodes, not those of the start again"
    assert run.result["time/total_timesteps"] == N * T * UPDATES
    assert run.result["train/n_updates"] == UPDATES * 4


@pytest.mark.slow
def test_a_longer_run_goes_on_where_the_shorter_one_ended(watch, tmp_path):
    watch()
    short = replace(
        SILENT, total_steps=N * T * 2, hyperparameters=replace(SILENT.hyperparameters, lr_schedule="constant")
    )
    loop.train(short, tmp_path / "run")
    run = loop.resume(tmp_path / "run", total_steps=N * T * 3)
    assert run.result["train/n_updates"] == 3 * 4
    assert [row["time/iterations"] for row in metrics_of(run.path)] == [1, 2, 3]
    assert f"total_steps: {N * T * 3}" in (run.path / "config.yaml").read_text()


@pytest.mark.parametrize("given", [2.0 * N * T, f"{2 * N * T}"])
def test_the_steps_of_a_longer_run_are_a_whole_number_however_they_are_given(given, watch, tmp_path):
    watch()
    loop.train(replace(SILENT, total_steps=N * T), tmp_path / "run")
    assert loop.resume(tmp_path / "run", total_steps=given).result["time/iterations"] == 2
    assert f"total_steps: {2 * N * T}\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_run_needs_a_folder_of_its_own(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not empty"):
        loop.train(SILENT, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_start_that_fails_leaves_no_folder_behind(tmp_path):
    """`plot runs/*` would meet it."""
    nowhere = replace(SILENT, env=replace(SILENT.env, id="no_such_module:Nowhere-v0"))
    with pytest.raises(UserError, match="no_such_module"):
        loop.train(nowhere, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_in_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / ".lock").mkdir()  # root may write everywhere, but not into a folder as if it were a file
    with pytest.raises(UserError, match="cannot be written: Is a directory"), alone(tmp_path):
        pass


def test_two_processes_cannot_work_on_one_run(watch, tmp_path):
    refused = []

    def meanwhile():
        with pytest.raises(UserError, match="Another process works on") as error:
            loop.resume(tmp_path / "run")
        refused.append(error)

    watch(at=2, do=meanwhile)
    assert loop.train(SILENT, tmp_path / "run").result["status"] == "finished" and refused


def test_a_run_cannot_be_made_shorter_than_it_is(watch, tmp_path):
    watch()
    loop.train(replace(SILENT, total_steps=N * T * 2), tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match=f"has {N * T * 2:,} steps behind it, but {N * T:,} came; give more"):
        loop.resume(tmp_path / "run", total_steps=N * T)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_policy_of_an_earlier_end_is_written_anew(watch, tmp_path, monkeypatch):
    """A longer run was killed between its last checkpoint and its policy."""
    watch()
    run = tmp_path / "run"
    steps = lambda: json.loads((run / "policy" / "policy.json").read_text())["provenance"]["total_timesteps"]  # noqa: E731
    loop.train(replace(SILENT, total_steps=N * T), run)
    with monkeypatch.context() as killed, pytest.raises(ZeroDivisionError):
        killed.setattr(session, "write_policy", lambda *args: 1 / 0)
        loop.resume(run, total_steps=N * T * 2)
    assert steps() == N * T
    loop.resume(run)
    assert steps() == N * T * 2


def test_a_finished_run_gets_the_film_that_it_lacks(watch, tmp_path, monkeypatch):
    """The process was ended while it filmed: the first time, and after a longer run."""
    run, filmed = tmp_path / "run", []
    monkeypatch.setattr(session, "make_film", lambda experiment, run, progress: filmed.append(run))
    progress = watch()
    loop.train(replace(SILENT, total_steps=N * T, video=True), run)
    policy = (run / "policy" / "policy.json").stat().st_mtime
    for age, count in ((None, 1), (1, 1), (-1, 2)):
        if age is not None:
            (run / "video.mp4").touch()
            os.utime(run / "video.mp4", (policy + age, policy + age))
        assert loop.resume(run).result == {"status": "finished"}
        assert filmed == [run] * count and "This run is finished" in progress.messages[-1]


def test_a_finished_run_that_asked_for_no_film_gets_none(watch, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "make_film", lambda *args: 1 / 0)
    watch()
    loop.train(replace(SILENT, total_steps=N * T), tmp_path / "run")
    assert loop.resume(tmp_path / "run").result == {"status": "finished"}


def test_a_logger_that_is_not_installed_is_refused_before_anything_is_written(watch, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    watch()
    with pytest.raises(UserError, match="needs tensorboardX"):
        loop.train(replace(SILENT, logging=LoggingConfig(True, "none")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_resume_that_is_refused_late_changes_nothing_of_the_run(watch, tmp_path):
    watch()
    run = loop.train(replace(SILENT, total_steps=N * T * 3), tmp_path / "run").path
    metrics = run / "metrics.jsonl"
    metrics.write_text("garbage\n" + metrics.read_text())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="line is damaged"):
        loop.resume(run, N * T * 4)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_run_whose_folder_is_gone_says_so_and_makes_none_anew(how, watch, tmp_path):
    run = tmp_path / "run"
    watch(at=2, do=lambda: run.rename(tmp_path / "other") if how == "renamed" else shutil.rmtree(run))
    with pytest.raises(UserError, match=r"run was renamed or deleted while it was trained"):
        loop.train(SILENT, run)
    assert not run.exists()


def test_a_file_is_no_place_for_a_run(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match=r"run is a file, but a run needs a folder; choose another --run-dir\.$"):
        loop.train(SILENT, tmp_path / "run")


def test_resuming_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        loop.resume(tmp_path)


@pytest.mark.parametrize("wrong", [None, 5, b"run"])
def test_resuming_what_is_no_path_is_refused(wrong):
    with pytest.raises(UserError, match=f"run_dir: expected a path, got {wrong!r}"):
        loop.resume(wrong)


@pytest.mark.slow
def test_a_thousand_updates_need_the_memory_of_a_hundred(watch, tmp_path):
    """Trap 42: resident memory, which also shows what Python and NumPy forget to free."""
    progress = watch()
    loop.train(replace(SILENT, total_steps=N * T * 1000), tmp_path / "run")
    grown = progress.resident[999] - progress.resident[99]
    assert grown < 4 * 2**20, f"{grown / 2**20:.1f} MiB"
