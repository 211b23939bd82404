"""`policy_gradients.train`: from Python arguments to an experiment."""

from pathlib import Path

import pytest

import policy_gradients as pg
from policy_gradients.training import loop
from policy_gradients.training.preset import find_preset


@pytest.fixture
def train(monkeypatch):
    """`pg.train`, giving the experiment and the other arguments with which the loop would run."""
    monkeypatch.setattr(loop, "train", lambda experiment, run_dir, **parts: (experiment, run_dir, parts))
    return pg.train


def test_hyperparameters_are_used_as_they_are_without_a_preset(train):
    config = pg.PPOConfig(learning_rate=1e-4, clip_eps=0.3, target_kl=0.01)
    experiment, run_dir, parts = train(config, env="HalfCheetah-v5", total_steps=1e5, seed=3)
    assert experiment == pg.Experiment(
        hyperparameters=config, env=pg.EnvironmentConfig("HalfCheetah-v5"), total_steps=100_000, seed=3
    )
    assert run_dir is None and parts == {"agent": None, "make_env": None}


def test_an_algorithms_name_takes_the_tasks_preset(train):
    experiment, _, _ = train("ppo", env="CartPole-v1")
    settings = find_preset("ppo", "CartPole-v1").settings
    assert experiment.hyperparameters.gae_lambda == settings["hyperparameters"]["gae_lambda"]


def test_an_experiment_is_used_as_it_is_but_for_what_is_given(train):
    experiment = pg.Experiment(env=pg.EnvironmentConfig("CartPole-v1", num_envs=4), seed=9)
    assert train(experiment)[0] == experiment
    changed, run_dir, _ = train(experiment, env="Acrobot-v1", run_dir="runs/x")
    assert changed.env == pg.EnvironmentConfig("Acrobot-v1", num_envs=4) and changed.seed == 9
    assert run_dir == "runs/x"


def test_all_settings_of_the_environment_can_be_given(train):
    env = pg.EnvironmentConfig("CartPole-v1", num_envs=3, kwargs={"sutton_barto_reward": True})
    assert train(pg.PPOConfig(num_minibatches=1), env=env)[0].env == env


def test_other_fields_are_dataclasses_or_mappings_of_what_differs(train):
    network = pg.NetworkConfig(hidden=(32,))
    experiment, _, _ = train(pg.PPOConfig(), network=network, evaluation={"episodes": 3}, video=False)
    assert experiment.network == network and experiment.video is False
    assert experiment.evaluation == pg.EvaluationConfig(episodes=3)


def test_an_unknown_field_is_refused_with_a_suggestion(train):
    with pytest.raises(pg.UserError, match=r"netwrk: there is no such setting. Did you mean 'network'"):
        train(pg.PPOConfig(), netwrk=pg.NetworkConfig())


def test_anything_else_is_no_configuration(train):
    with pytest.raises(pg.UserError, match=r"an algorithm's name, .* VMPOConfig or an Experiment, got PosixPath"):
        train(Path("config.yaml"))


def test_parts_of_your_own_are_handed_on(train):
    agent, make_env = object(), object()
    handed_on = train(pg.PPOConfig(), env="Mine-v0", agent=agent, make_env=make_env)[2]
    assert handed_on == {"agent": agent, "make_env": make_env}


@pytest.mark.parametrize("start", [pg.train, pg.train_seeds])
def test_an_environment_of_your_own_does_not_take_the_default_tasks_name_and_preset(start, tmp_path):
    with pytest.raises(pg.UserError, match=r"make_env: name your environment with env=, such as env='Mine-v0'"):
        start("ppo", make_env=lambda num_envs: None, run_dir=tmp_path / "run")
