"""`policy-gradients evaluate`: which policy, which environment, which episodes."""

import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.cli import evaluate as command
from policy_gradients.deployment.numpy_policy import load_policy
from policy_gradients.environments import registry
from policy_gradients.environments.base import Discrete, Environment, EnvironmentSpec, Step, box
from policy_gradients.errors import UserError
from policy_gradients.evaluation import video
from policy_gradients.training.config import EnvironmentConfig, Experiment, save_experiment


@pytest.fixture(scope="module")
def cartpole():
    """Four CartPoles that end after 20 steps at the latest, and a policy that knows nothing."""
    env = registry.make("CartPole-v1", 4, action_map="none", max_episode_steps=20, evaluation=True)
    yield env
    env.close()


@pytest.fixture(scope="module")
def run_folder(cartpole, write_cartpole_policy, tmp_path_factory):
    """A run's folder with a policy in it."""
    folder = tmp_path_factory.mktemp("run")
    write_cartpole_policy(folder, cartpole.spec)
    env = EnvironmentConfig("CartPole-v1", max_episode_steps=20, num_envs=8)
    save_experiment(Experiment(env=env), folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def policy(run_folder):
    return load_policy(run_folder / "policy")


class Watcher:
    """A policy that remembers what it saw and how it was asked to act."""

    description = SimpleNamespace(action=SimpleNamespace(start=0))

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.drawn: list[float] = []

    def __call__(self, obs: np.ndarray, *, deterministic: bool, rng: np.random.Generator) -> np.ndarray:
        self.seen.append(np.array(obs))
        self.drawn.append(0.0 if deterministic else rng.random())
        return np.zeros((2, 1), np.float32)


@pytest.fixture(scope="module")
def clockwork():
    """Two environments whose episodes pay 1 a step and last 3 and 5 steps; observations tell the key of the reset."""
    lengths = jnp.array([3, 5])

    def reset(key):
        obs = jnp.full((2, 1), jax.random.uniform(key))
        return (jnp.zeros(2, jnp.int32), obs), obs

    def step(state, action):
        age, obs = state[0] + 1, state[1]
        ended = age >= lengths
        row = Step(obs, obs, jnp.ones(2), ended, jnp.zeros(2, bool), jnp.ones(2, bool))
        return (jnp.where(ended, 0, age), obs), row

    spec = EnvironmentSpec("Clockwork-v0", "jax", 2, box(0, 1, (1,)), box(-1, 1, (1,)), max_episode_steps=5)
    return Environment(spec, reset, step, dict, lambda arrays, state: state)


def test_every_environment_plays_its_own_episodes_and_no_more_than_were_asked_for(clockwork):
    played = command.play(Watcher(), clockwork, 3, deterministic=True, seed=0)
    assert played.returns.tolist() == [3.0, 5.0, 3.0] and played.lengths.tolist() == [3, 5, 3]


def test_an_episode_is_counted_once_however_long_others_last(clockwork):
    assert command.play(Watcher(), clockwork, 2, deterministic=True, seed=0).returns.tolist() == [3.0, 5.0]


def test_rounds_start_from_different_states_and_a_seed_repeats_them(clockwork):
    first, again, other = Watcher(), Watcher(), Watcher()
    for watcher, seed in ((first, 0), (again, 0), (other, 1)):
        command.play(watcher, clockwork, 4, deterministic=False, seed=seed)
    starts = {obs[0, 0] for obs in first.seen}
    assert len(starts) == 2 and not starts & {obs[0, 0] for obs in other.seen}
    assert first.drawn == again.drawn and first.drawn != other.drawn


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
    monkeypatch.setattr(video, "record_video", lambda *args, **kwargs: filmed.append((args[1:], kwargs)))
    code, out, _ = run("evaluate", str(run_folder), "--episodes", "4", "--video", "--seed", "3")
    film = run_folder / "evaluation.mp4"
    assert code == 0 and filmed == [(("CartPole-v1", film), {"seed": 3, "frame_stack": 1, "env_options": {}})]
    assert out.endswith(f"Film: {film}\n")


def test_the_environment_has_the_wrappers_of_the_run_around_the_bundle(policy, run_folder):
    env = command.make_environment(policy, command.environment_config(policy, run_folder / "policy"), 2)
    env.close()
    assert (env.spec.max_episode_steps, env.spec.num_envs) == (20, 2)


@pytest.fixture
def carried_off(run_folder, tmp_path):
    """`carried_off(name)` is a copy of the run's bundle under that name, without the run."""
    return lambda name: shutil.copytree(run_folder / "policy", tmp_path / name)


@pytest.mark.parametrize("name", ["policy", "mine"])
@pytest.mark.parametrize("config", [None, "robot: {wheel_radius: 0.1}", "env: {id: Pendulum-v1, max_episode_steps: 7}"])
def test_a_bundle_without_its_run_plays_in_its_own_environment(policy, carried_off, name, config):
    """With the time limit of training, whatever project it lies in."""
    bundle = carried_off(name)
    if config is not None:
        (bundle.parent / "config.yaml").write_text(config)
    env = command.make_environment(policy, command.environment_config(policy, bundle), 2)
    env.close()
    assert (env.spec.id, env.spec.engine, env.spec.max_episode_steps) == ("CartPole-v1", "jax", 20)


def test_a_bundle_names_no_module_to_import(run, cartpole, write_cartpole_policy, tmp_path, monkeypatch):
    """A stranger's bundle would execute what lies in the folder it was unpacked into."""
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    for engine, env_id in (("gymnasium", "evil:X-v0"), ("evil", "X-v0"), ("jax", "evil:CartPole-v1")):
        write_cartpole_policy(tmp_path, replace(cartpole.spec, id=env_id, engine=engine))
        code, _, err = run("evaluate", "policy", "--episodes", "1")
        assert code == 2 and "names the environment" in err and "--env ID" in err and err.count("\n") == 1
        assert "evil" not in sys.modules


def test_another_environment_can_be_asked_for(run, carried_off, unplayed):
    _, out, _ = run("evaluate", str(carried_off("mine")), "--env", "jax:CartPole-v1", "--episodes", "1")
    assert out.startswith("CartPole-v1, 1 deterministic")


def test_a_run_with_an_environment_of_its_own_is_told_of_the_flag(run, run_folder, tmp_path):
    """`make_env=` is Python's: the run knows only the name that it was given."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    save_experiment(Experiment(env=EnvironmentConfig("Mine-CartPole-v1")), folder / "config.yaml")
    code, _, err = run("evaluate", str(folder), "--episodes", "1")
    assert code == 2 and "Unknown environment 'Mine-CartPole-v1'" in err and "--env ID" in err and err.count("\n") == 1
    assert "--env ID" not in run("evaluate", str(folder), "--env", "Nowhere-v0")[2]


def test_an_environment_with_other_actions_is_refused(policy):
    action = SimpleNamespace(kind="box", shape=(3,), n=0)
    other = SimpleNamespace(description=replace(policy.description, action=action))
    with pytest.raises(UserError, match=r"CartPole-v1 takes actions in Discrete.*, but the policy gives \(3,\)"):
        command.make_environment(other, EnvironmentConfig("CartPole-v1"), 1)


def test_what_is_made_from_a_bundle_lies_beside_it(run_folder, carried_off, tmp_path):
    assert command.beside(run_folder) == command.beside(run_folder / "policy") == run_folder
    assert command.beside(carried_off("mine")) == tmp_path
    (tmp_path / "policy.zip").write_bytes(b"")
    assert command.beside(tmp_path / "policy.zip") == tmp_path


@pytest.mark.parametrize("path", ["a" * 300, "\0"])
def test_a_path_that_no_file_can_have_holds_no_policy(run, path):
    code, _, err = run("evaluate", path)
    assert code == 2 and err.count("\n") == 1


def test_a_seed_that_training_refuses_is_refused(run, run_folder):
    code, _, err = run("evaluate", str(run_folder), "--seed", "1e30")
    assert code == 2 and "0 to 2³² − 1" in err


def test_an_environment_with_other_observations_is_refused(policy):
    with pytest.raises(
        UserError, match=r"Pendulum-v1 gives observations of shape \(3,\), but the policy expects \(4,\)"
    ):
        command.make_environment(policy, EnvironmentConfig("Pendulum-v1"), 1)


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


def test_scores_are_of_raw_rewards_and_whole_games(policy, clockwork, monkeypatch):
    asked = {}

    def remember(id, num_envs, **options):
        asked.update(options)
        return clockwork._replace(spec=replace(clockwork.spec, obs_space=box(-1, 1, (4,)), action_space=Discrete(2)))

    monkeypatch.setattr(registry, "make", remember)
    command.make_environment(policy, EnvironmentConfig("CartPole-v1", reward_clip=1.0, frame_stack=2), 2)
    assert asked["evaluation"] is True and asked["action_map"] == "none" and "reward_clip" not in asked
    assert asked["frame_stack"] == 2
