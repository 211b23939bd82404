"""Many seeds in one program: each leaves behind what the run of that seed alone leaves behind."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from policy_gradients.algorithms import A2CConfig
from policy_gradients.cli.main import main
from policy_gradients.deployment.numpy_policy import load_policy
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig
from policy_gradients.training import api, loop, member_run, saving, seeds, session
from policy_gradients.training.config import (
    CheckpointConfig,
    EnvironmentConfig,
    EvaluationConfig,
    Experiment,
    LoggingConfig,
    load_experiment,
)

UPDATE = 4 * 8
CARTPOLE = Experiment(
    algorithm="a2c",  # its program is the quickest to compile
    hyperparameters=A2CConfig(num_steps=8, learning_rate=0.01, lr_schedule="constant"),
    env=EnvironmentConfig(id="CartPole-v1", num_envs=4, max_episode_steps=20),
    network=NetworkConfig(hidden=(4,)),
    evaluation=EvaluationConfig(num_evaluations=0),
    checkpoint=CheckpointConfig(num_checkpoints=1),
    logging=LoggingConfig(progress="none"),
    total_steps=3 * UPDATE,
    video=False,
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Pictures have tests of their own, and take a second each."""
    monkeypatch.setattr(seeds, "make_curve", lambda *args: None)
    monkeypatch.setattr(session, "make_pictures", lambda *args, **kwargs: None)


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Seeds 3 and 4 together, judged once at the end."""
    config = replace(CARTPOLE, evaluation=EvaluationConfig(num_evaluations=1, episodes=2, stochastic_episodes=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "make_curve", lambda *args: None)
        return seeds.train_seeds(config, [3, 4], tmp_path_factory.mktemp("pair") / "both")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of seed 4 by itself, two updates longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "make_pictures", lambda *args, **kwargs: None)
        config = replace(CARTPOLE, seed=4, total_steps=5 * UPDATE)
        return loop.train(config, tmp_path_factory.mktemp("alone") / "run").path


def assert_same_course(one, other):
    for name in ("train/value_loss", "train/update_norm", "train/entropy", "normalizer/return_std"):
        assert one[name] == pytest.approx(other[name], rel=1e-4), name


def test_a_seed_among_many_is_the_run_of_that_seed(pair, alone):
    together = rows(pair.path / "seed4")
    assert [row["time/total_timesteps"] for row in together] == [UPDATE, 2 * UPDATE, 3 * UPDATE]
    for mine, its in zip(together, rows(alone), strict=False):
        assert_same_course(mine, its)
    assert rows(pair.path / "seed3")[-1]["train/value_loss"] != together[-1]["train/value_loss"]


def test_a_seed_among_many_goes_on_as_if_it_had_been_alone(pair, alone):
    loop.resume(pair.path / "seed4", total_steps=5 * UPDATE)
    after = rows(pair.path / "seed4")
    assert len(after) == 5
    assert_same_course(after[-1], rows(alone)[-1])


def test_every_seed_leaves_a_policy_that_acts_and_its_own_settings(pair):
    assert pair.status == "finished" and [run.path.name for run in pair.runs] == ["seed3", "seed4"]
    for run, seed in zip(pair.runs, (3, 4), strict=True):
        assert load_experiment(run.path / "config.yaml").seed == seed
        for name in ("policy", "policy_best"):
            assert load_policy(run.path / name)(np.zeros(4, np.float32)) in (0, 1)
        assert run.result["eval/mean_reward"] > 0 and run.result["eval/episodes"] == 2
    assert pair.interval().low <= pair.interval().value <= pair.interval().high


def test_a_seed_that_diverges_is_named_and_the_others_go_on(tmp_path, capsys):
    config = replace(CARTPOLE, logging=LoggingConfig(progress="lines"))
    found = api.train_seeds(config, [0, 1], numbers={"learning_rate": [1e38, 1e-3]}, run_dir=tmp_path / "both")
    said = capsys.readouterr().out
    assert "Seed 0 diverged: update 2 met numbers that are not finite, first in" in said
    assert [run.result["status"] for run in found.runs] == ["diverged", "finished"]
    assert len(rows(tmp_path / "both" / "seed0")) == 1 and len(rows(tmp_path / "both" / "seed1")) == 3
    assert (tmp_path / "both" / "seed1" / "policy").is_dir() and not (tmp_path / "both" / "seed0" / "policy").exists()
    assert load_experiment(tmp_path / "both" / "seed1" / "config.yaml").hyperparameters.learning_rate == 1e-3


@pytest.mark.slow
def test_a_stop_request_saves_every_seed(tmp_path, monkeypatch):
    class AfterOne:
        status, asked = "interrupted", 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __bool__(self):
            self.asked += 1
            return self.asked > 1

    monkeypatch.setattr(seeds, "StopRequests", AfterOne)
    found = seeds.train_seeds(CARTPOLE, 2, tmp_path / "both")
    assert found.status == "interrupted"
    for run in found.runs:
        assert [folder.name for folder in (run.path / "checkpoints").iterdir()] == ["update_000000001"]
        assert len(rows(run.path)) == 1 and not (run.path / "policy").exists()


@pytest.mark.slow
def test_the_command_prints_a_table_and_the_mean_with_its_interval(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--preset none --env CartPole-v1 --num-envs 4 --num-steps 8 --num-minibatches 1 --num-epochs 1"
    flags += " --total-steps 256 --evaluation.num-evaluations 0 --seeds 3 --run-dir out --network.hidden 4 --no-video"
    assert main(["train", "ppo", *flags.split()]) == 0
    said = capsys.readouterr().out
    assert "seed  return  steps  status" in said and said.count("finished") == 3
    assert "95 % bootstrap interval" in said and "Run folders: out/seed" in said


def test_a_simulator_on_the_host_is_refused(tmp_path):
    config = replace(CARTPOLE, env=EnvironmentConfig(id="InvertedPendulum-v4", num_envs=2, num_threads=1))
    with pytest.raises(UserError, match=r"stepped on the host .* train them one after another with --seed"):
        seeds.train_seeds(config, 2, tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_several_devices_are_refused(tmp_path):
    with pytest.raises(UserError, match="many seeds in one program use one device"):
        seeds.train_seeds(replace(CARTPOLE, devices=2), 2, tmp_path / "both")


@pytest.mark.parametrize("wrong", [0, [], [1, 1]])
def test_no_seeds_and_equal_seeds_are_refused(wrong, tmp_path):
    with pytest.raises(UserError, match="seeds: expected"):
        seeds.train_seeds(CARTPOLE, wrong, tmp_path / "both")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (["gamma"], r"numbers: expected a mapping like .*, got \['gamma'\]"),
        ({"num_steps": [8, 16]}, "'num_steps' is no hyperparameter of a2c that is a number and may differ"),
        ({"learning_rat": [1, 2]}, "Did you mean 'learning_rate'"),
        ({"learning_rate": [1e-3]}, "one number for each of 2 seeds, got 1"),
        ({"learning_rate": [1e-3, -1]}, "expected a number above 0"),
    ],
)
def test_numbers_that_cannot_differ_are_refused(numbers, message, tmp_path):
    with pytest.raises(UserError, match=message):
        seeds.train_seeds(CARTPOLE, 2, tmp_path / "both", numbers=numbers)


def test_a_seed_that_is_being_trained_is_nobody_elses(tmp_path, monkeypatch):
    """A second process on its folder would spoil the metrics and the checkpoints of both."""
    refused = []

    def resumed(run, at, i, told):
        with pytest.raises(UserError, match=r"Another process works on .*seed3"), saving.alone(run.path):
            pass
        refused.append(run.path.name)

    monkeypatch.setattr(member_run.MemberRun, "note", resumed)
    seeds.train_seeds(replace(CARTPOLE, total_steps=UPDATE), [3], tmp_path / "seeds")
    assert refused == ["seed3"]
    with saving.alone(tmp_path / "seeds" / "seed3"):
        pass


@pytest.mark.parametrize("wrong", [2.0, "ab", True, [0.5, 1.9], [True], None])
def test_seeds_are_whole_numbers(wrong, tmp_path):
    with pytest.raises(UserError, match="seeds: expected how many, or whole numbers"):
        seeds.train_seeds(CARTPOLE, wrong, tmp_path / "runs")


def test_the_film_is_of_the_first_seed_that_came_through(tmp_path, monkeypatch):
    filmed = []
    monkeypatch.setattr(seeds, "make_film", lambda experiment, run, progress: filmed.append((experiment.seed, run)))
    numbers = {"learning_rate": [1e38, 1e-3, 1e-3]}
    seeds.train_seeds(replace(CARTPOLE, video=True), [5, 6, 7], tmp_path / "runs", numbers=numbers)
    assert filmed == [(6, tmp_path / "runs" / "seed6")]


def test_a_logger_that_is_not_installed_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="needs tensorboardX"):
        seeds.train_seeds(replace(CARTPOLE, logging=LoggingConfig(True, "none")), 2, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_seeds_may_be_numpys():
    assert seeds._chosen(CARTPOLE, np.int64(2)) == seeds._chosen(CARTPOLE, np.arange(2)) == [0, 1]


@pytest.mark.parametrize("wrong", [0.1, ["a", 1], "ab", [0.1]])
def test_numbers_are_one_for_each_seed(wrong, tmp_path):
    with pytest.raises(UserError, match="learning_rate needs one number for each of 2 seeds"):
        seeds.train_seeds(CARTPOLE, 2, tmp_path / "runs", numbers={"learning_rate": wrong})


def test_a_folder_is_a_path():
    with pytest.raises(UserError, match="run_dir: expected a path, got 5"):
        seeds.train_seeds(CARTPOLE, 2, 5)
