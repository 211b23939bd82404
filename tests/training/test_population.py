"""Members of one program: each is the run that it would be alone."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from policy_gradients.algorithms import A2CConfig, PPOConfig, REINFORCEConfig, TRPOConfig, VMPOConfig
from policy_gradients.environments.registry import make
from policy_gradients.networks import NetworkConfig
from policy_gradients.training import loop, session
from policy_gradients.training.config import EnvironmentConfig, EvaluationConfig, Experiment, LoggingConfig
from policy_gradients.training.population import Member, course, moments, train_members
from policy_gradients.training.setup import make_agent

CARTPOLE = Experiment(
    hyperparameters=PPOConfig(num_steps=16, num_epochs=1, num_minibatches=2),
    env=EnvironmentConfig(id="CartPole-v1", num_envs=4),
    network=NetworkConfig(hidden=(8,)),
    evaluation=EvaluationConfig(num_evaluations=0),
    logging=LoggingConfig(progress="none"),
    total_steps=4 * 16 * 6,
    video=False,
)
pytestmark = pytest.mark.usefixtures("programs_compiled_once")


def curves(experiment: Experiment, *members: Member) -> np.ndarray:
    """Returns [moment, member]."""
    return np.stack(list(train_members(experiment, members)))


def test_a_member_is_the_run_that_train_makes_of_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "make_pictures", lambda *args, **kwargs: None)
    config = replace(CARTPOLE.hyperparameters, learning_rate=0.01)
    evaluated = replace(CARTPOLE, evaluation=EvaluationConfig(num_evaluations=3, episodes=2, stochastic_episodes=1))
    run = loop.train(replace(evaluated, hyperparameters=config, seed=1001), tmp_path / "run")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    trained = [row["eval/mean_reward"] for row in rows if "eval/mean_reward" in row]
    assert len(trained) == 3 and len(set(trained)) > 1
    found = curves(evaluated, Member({"learning_rate": 0.3}, 1000), Member({"learning_rate": 0.01}, 1001))
    np.testing.assert_allclose(found[:, 1], trained)


@pytest.fixture(scope="module")
def alone(programs_compiled_once):
    """The course of one member, judged by its training episodes."""
    return curves(CARTPOLE, Member({"learning_rate": 1e-3}, 1000))


def test_without_evaluations_a_member_is_judged_by_its_training_episodes(alone):
    assert alone.shape == (6, 1) and np.isfinite(alone[-1]).all() and 8 < alone[-1, 0] < 200


def test_a_member_that_diverges_is_minus_infinity_and_the_others_go_on(alone):
    found = curves(CARTPOLE, Member({"learning_rate": 1e38}, 1000), Member({"learning_rate": 1e-3}, 1000))
    assert found[-1, 0] == -np.inf and np.isfinite(found[-1, 1])
    np.testing.assert_allclose(found[-1, 1], alone[-1, 0], rtol=1e-6)


def test_parameters_are_drawn_for_one_member_after_another():
    """Side by side, the QR factorisations of orthogonal weights can wait for each other without end on two cores."""
    env = make("CartPole-v1", num_envs=4)
    agent = make_agent(CARTPOLE, env.spec)
    init = jax.custom_batching.custom_vmap(agent.init)

    @init.def_vmap
    def batched(axis_size, in_batched, key):
        raise AssertionError("several members at once")

    members = [Member({"learning_rate": 1e-3}, seed) for seed in (1000, 1001)]
    at = next(course(CARTPOLE, members, env, agent._replace(init=init), updates=1))
    weights = jax.tree.leaves(at.learner.params)[1]
    assert weights.shape[0] == 2 and not np.array_equal(weights[0], weights[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "algorithm"),
    [
        (REINFORCEConfig(num_steps=16), "reinforce"),
        (A2CConfig(num_steps=16), "a2c"),
        (TRPOConfig(num_steps=16), "trpo"),
        (PPOConfig(num_steps=16, num_epochs=2, num_minibatches=2), "ppo"),
        (VMPOConfig(num_steps=16), "vmpo"),
    ],
)
def test_every_number_of_every_algorithm_can_be_an_array(config, algorithm):
    numbers = {name: value for name, value in vars(config).items() if type(value) is float}
    experiment = replace(CARTPOLE, algorithm=algorithm, hyperparameters=config, total_steps=64)
    assert curves(experiment, Member(numbers, 1000)).shape == (1, 1)


def test_a_simulator_on_the_host_has_one_member():
    experiment = replace(CARTPOLE, env=EnvironmentConfig(id="InvertedPendulum-v4", num_envs=2, num_threads=1))
    found = curves(replace(experiment, total_steps=2 * 16 * 4), Member({"learning_rate": 1e-3}, 1000))
    assert found.shape == (4, 1) and np.isfinite(found[-1]).all()


@pytest.mark.slow
def test_closing_closes_the_environments(monkeypatch):
    closed = []

    def watched(*args, **kwargs):
        return make(*args, **kwargs)._replace(close=lambda: closed.append(True))

    monkeypatch.setattr("policy_gradients.environments.registry.make", watched)
    course = train_members(CARTPOLE, [Member({}, 1000)])
    next(course)
    assert not closed
    course.close()
    assert closed == [True]


@pytest.mark.slow
def test_a_stop_request_ends_the_course_before_the_next_update():
    asked = iter([False, False, True])
    assert len(list(train_members(CARTPOLE, [Member({}, 1000)], lambda: next(asked)))) == 2


def test_the_moments_are_those_of_the_experiments_evaluations():
    many = replace(CARTPOLE, total_steps=64 * 100, evaluation=EvaluationConfig(num_evaluations=4))
    assert moments(many) == (25, 50, 75, 100)
    assert moments(replace(many, total_steps=64 * 3)) == (1, 2, 3)
    assert len(moments(replace(many, evaluation=EvaluationConfig(num_evaluations=0)))) == 20
