"""`policy-gradients evaluate`: which policy, which environment, which episodes."""

import jax
import numpy as np
import pytest

from policy_gradients.cli import evaluate as command
from policy_gradients.deployment.bundle import write_bundle
from policy_gradients.deployment.numpy_policy import load_policy
from policy_gradients.environments.registry import make
from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import NormalizationConfig, init_statistics
from policy_gradients.networks import NetworkConfig, actor_critic
from policy_gradients.training.config import EnvironmentConfig, Experiment, save_experiment


@pytest.fixture(scope="module")
def cartpole():
    """Four CartPoles that end after 20 steps at the latest, and a policy that knows nothing."""
    env = make("CartPole-v1", 4, action_map="none", max_episode_steps=20, evaluation=True)
    yield env
    env.close()


@pytest.fixture(scope="module")
def run_folder(cartpole, tmp_path_factory):
    """A run's folder with a policy in it."""
    folder = tmp_path_factory.mktemp("run")
    network, normalization = NetworkConfig(hidden=(8,)), NormalizationConfig()
    obs = jax.ShapeDtypeStruct((4,), "float32")
    shapes = jax.eval_shape(actor_critic(obs, (), 2, network).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    write_bundle(
        folder / "policy", spec=cartpole.spec, network=network, normalization=normalization,
        params=params, statistics=jax.device_get(init_statistics(normalization, obs, 4)), provenance={},
    )  # fmt: skip
    env = EnvironmentConfig("CartPole-v1", max_episode_steps=20, num_envs=8)
    save_experiment(Experiment(env=env), folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def policy(run_folder):
    return load_policy(run_folder / "policy")


def test_exactly_so_many_episodes_are_played_over_several_rounds(policy, cartpole):
    played = command.play(policy, cartpole, 10, deterministic=True, seed=0)
    assert played.returns.shape == (10,)
    assert (played.lengths > 0).all() and (played.lengths <= 20).all()
    np.testing.assert_array_equal(played.returns, played.lengths)  # CartPole pays 1 a step


def test_rounds_start_from_different_states_and_a_seed_repeats_them(policy, cartpole):
    first = command.play(policy, cartpole, 8, deterministic=False, seed=0)
    again = command.play(policy, cartpole, 8, deterministic=False, seed=0)
    other = command.play(policy, cartpole, 8, deterministic=False, seed=1)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert first.returns.tolist() != other.returns.tolist()
    assert first.returns[:4].tolist() != first.returns[4:].tolist()


def test_the_command_prints_mean_spread_and_length(run, run_folder):
    code, out, _ = run("evaluate", str(run_folder), "--episodes", "4", "--stochastic")
    assert code == 0
    assert out.startswith("CartPole-v1, 4 stochastic episodes\n  return  ") and "  length  " in out


@pytest.fixture
def unplayed(monkeypatch):
    """Evaluation without its episodes."""
    monkeypatch.setattr(command, "play", lambda *_, **__: command.Played(np.array([3.0]), np.array([7])))


def test_the_film_shows_the_policy_and_lies_in_the_runs_folder(run, run_folder, unplayed, monkeypatch):
    filmed = []
    video = pytest.importorskip("policy_gradients.evaluation.video")
    monkeypatch.setattr(video, "record_video", lambda *args, **kwargs: filmed.append((args[1:], kwargs)))
    code, out, _ = run("evaluate", str(run_folder), "--episodes", "4", "--video", "--seed", "3")
    film = run_folder / "evaluation.mp4"
    assert code == 0 and filmed == [(("jax:CartPole-v1", film), {"seed": 3})]
    assert out.endswith(f"Film: {film}\n")


def test_the_environment_has_the_wrappers_of_the_run_around_the_bundle(policy, run_folder):
    env = command.make_environment(policy, run_folder / "policy", 2)
    env.close()
    assert (env.spec.max_episode_steps, env.spec.num_envs) == (20, 2)


def test_a_bundle_without_a_run_gets_its_environment_as_it_comes(policy, run_folder, tmp_path):
    env = command.make_environment(policy, tmp_path, 2)
    env.close()
    assert (env.spec.id, env.spec.engine, env.spec.max_episode_steps) == ("CartPole-v1", "jax", 500)


def test_an_environment_with_other_observations_is_refused(policy, tmp_path):
    save_experiment(Experiment(env=EnvironmentConfig("Pendulum-v1")), tmp_path / "config.yaml")
    with pytest.raises(
        UserError, match=r"Pendulum-v1 gives observations of shape \(3,\), but the policy expects \(4,\)"
    ):
        command.make_environment(policy, tmp_path, 1)


@pytest.mark.parametrize("holds", [(".",), ("policy",), ("policy_best",), ("policy", "policy_best")])
def test_a_path_means_its_own_bundle_or_the_last_policy_or_the_best(tmp_path, holds):
    for name in holds:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "policy.json").write_text("{}")
    assert command.find_bundle(tmp_path) == tmp_path / holds[0]


def test_a_path_without_a_policy_is_refused(run, tmp_path):
    code, _, err = run("evaluate", str(tmp_path))
    assert code == 2 and "holds no policy" in err


def test_episodes_without_an_end_are_told_and_left_out():
    played = command.Played(np.array([3.0, np.nan]), np.array([7, 0]))
    said = command.summary(played, "My-v0", "deterministic")
    assert "1 deterministic episodes\n  return  3.0 ± 0.0" in said and "1 episodes found no end" in said


def test_no_finished_episode_at_all_is_an_error():
    with pytest.raises(UserError, match="no episode of My-v0 found an end"):
        command.summary(command.Played(np.array([np.nan]), np.array([0])), "My-v0", "deterministic")
