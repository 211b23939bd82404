"""Our classic control tasks stepped beside Gymnasium's, from the same states with the same actions."""

import functools

import gymnasium
import jax
import numpy as np
import pytest
from scipy import stats

from policy_gradients.environments.base import Box
from policy_gradients.environments.classic import CLASSIC_IDS, make_classic


def balanced(state):
    """Keeps the pole up for the whole time limit."""
    return int(state[2] + 0.3 * state[3] + 0.05 * state[0] + 0.1 * state[1] > 0)


def idle(state):
    return 1


def pumping(state):
    """Pushes a car the way it rolls, which brings it up the hill."""
    return 2 if state[1] > 0 else 0


def swinging(state):
    """Drives the second link against the first one's swing, which brings Acrobot's tip up."""
    return 2 if state[2] < 0 else 0


def force(value):
    return lambda state: np.array([value], np.float32)


# name: (id, options, policy of Gymnasium's state, how the episode ends)
EPISODES = {
    "pole balanced to v0's limit": ("CartPole-v0", {}, balanced, "truncated"),
    "pole balanced to v1's limit": ("CartPole-v1", {}, balanced, "truncated"),
    "pole pushed over": ("CartPole-v1", {}, idle, "terminated"),
    "pole pushed over, other reward": ("CartPole-v1", {"sutton_barto_reward": True}, idle, "terminated"),
    "acrobot idle": ("Acrobot-v1", {}, idle, "truncated"),
    "acrobot swung up": ("Acrobot-v1", {}, swinging, "terminated"),
    "pendulum spun beyond its bounds": ("Pendulum-v1", {}, force(2.5), "truncated"),
    "pendulum on earth": ("Pendulum-v1", {"g": 9.81}, force(-0.3), "truncated"),
    "car idle": ("MountainCar-v0", {}, idle, "truncated"),
    "car against the wall": ("MountainCar-v0", {}, lambda state: 0 if state[1] <= 0 else 2, "terminated"),
    "car too slow at the flag": ("MountainCar-v0", {"goal_velocity": 0.08}, pumping, "truncated"),
    "continuous car idle": ("MountainCarContinuous-v0", {}, force(0.0), "truncated"),
    "continuous car up the hill": (
        "MountainCarContinuous-v0",
        {"goal_velocity": 0.01},
        lambda state: np.array([1.5 if state[1] > 0 else -1.5], np.float32),
        "terminated",
    ),
}


@functools.cache
def ours(env_id, **options):
    """Our environment with 1,000 copies, and its compiled reset and step."""
    environment = make_classic(env_id, 1000, **options)
    return environment.spec, jax.jit(environment.reset), jax.jit(environment.step)


def theirs(env_id, **options):
    with pytest.MonkeyPatch.context() as patch:  # CartPole-v0 is "out of date" and says so
        patch.setattr(gymnasium.logger, "deprecation", lambda *args: None)
        return gymnasium.make(env_id, disable_env_checker=True, **options)


@pytest.mark.parametrize("name", EPISODES)
def test_an_episode_equals_gymnasiums_step_by_step(name):
    """Gymnasium plays it from float32 states; our 1,000 copies then step from all its states and step counts at once.

    The tolerance is float32's error of one step: observations reach 28 (Acrobot's speed) and rewards 100, where its
    spacing is 2e-6 and 8e-6.
    """
    env_id, options, policy, ending = EPISODES[name]
    spec, reset, step = ours(env_id, **options)
    befores, actions, results = play(theirs(env_id, **options), policy)
    last = len(results) - 1
    rows = np.minimum(np.arange(1000), last)
    state = reset(jax.random.key(0))[0]._replace(raw=befores[rows], steps=rows.astype(np.int32))
    state, out = step(state, actions.astype(spec.action_space.dtype)[rows])
    obs, reward, terminated, truncated = (np.stack(column)[rows] for column in zip(*results, strict=True))
    np.testing.assert_allclose(out.final_obs, obs, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(out.reward, reward, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(out.terminated, terminated)
    np.testing.assert_array_equal(out.truncated, truncated)
    assert {"terminated": terminated, "truncated": truncated}[ending][last]
    np.testing.assert_array_equal(state.steps[: last + 1], [*range(1, last + 1), 0])


def play(environment, policy):
    """States before each step [T, …], actions [T, …] and the rows (obs, reward, terminated, truncated)."""
    befores, actions, results = [], [], []
    environment.reset(seed=3)
    inner = environment.unwrapped
    while not results or not (results[-1][2] or results[-1][3]):
        befores.append(np.asarray(inner.state, np.float32))
        inner.state = befores[-1].astype(np.asarray(inner.state).dtype)
        actions.append(policy(befores[-1]))
        results.append(environment.step(actions[-1])[:4])
    return np.stack(befores), np.stack(actions), results


# States from which one step crosses every bound that a task has, by half-width (MountainCar: its whole space).
BROAD = {
    "CartPole-v1": (-np.array([2.6, 3, 0.23, 3]), np.array([2.6, 3, 0.23, 3])),
    "Acrobot-v1": (-np.pi * np.array([1, 1, 4, 9]), np.pi * np.array([1, 1, 4, 9])),
    "Pendulum-v1": (-np.array([3.14, 8]), np.array([3.14, 8])),
    "MountainCar-v0": (np.array([-1.2, -0.07]), np.array([0.6, 0.07])),
    "MountainCarContinuous-v0": (np.array([-1.2, -0.07]), np.array([0.6, 0.07])),
}


@pytest.mark.parametrize("env_id", BROAD)
def test_one_step_from_anywhere_equals_gymnasiums(env_id):
    """Acrobot at full speed meets forces of 1e3 rad/s² in a step of 0.2 s: its float32 error is 100 times larger."""
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if env_id == "Acrobot-v1" else {"rtol": 2e-6, "atol": 1e-5}
    other, (spec, reset, step) = theirs(env_id).unwrapped, ours(env_id)
    rng = np.random.default_rng(0)
    before = rng.uniform(*BROAD[env_id], (1000, len(BROAD[env_id][0]))).astype(np.float32)
    if isinstance(spec.action_space, Box):
        actions = rng.uniform(-3, 3, (1000, 1)).astype(np.float32)
    else:
        actions = rng.integers(0, spec.action_space.n, 1000, np.int32)
    state, out = step(reset(jax.random.key(0))[0]._replace(raw=before), actions)
    other.reset(seed=0)
    ends = 0
    for i in range(500):
        other.state, other.steps_beyond_terminated = before[i].astype(np.asarray(other.state).dtype), None
        obs, reward, terminated, *_ = other.step(actions[i])
        np.testing.assert_allclose(out.final_obs[i], obs, **tolerance)
        np.testing.assert_allclose(out.reward[i], reward, **tolerance)
        assert out.terminated[i] == terminated
        if not terminated:
            np.testing.assert_allclose(state.raw[i], other.state, **tolerance)
        ends += terminated
    assert ends > 3 or env_id == "Pendulum-v1"


@pytest.mark.parametrize("env_id", CLASSIC_IDS)
def test_first_observations_are_distributed_as_gymnasiums(env_id):
    other, (_, reset, _) = theirs(env_id), ours(env_id)
    samples = np.asarray(reset(jax.random.key(1))[1])
    others = np.stack([other.reset(seed=seed)[0] for seed in range(1000)])
    for ours_i, others_i in zip(samples.T, others.T, strict=True):
        if np.ptp(others_i) == 0:
            np.testing.assert_array_equal(ours_i, others_i[0])
        else:
            assert stats.ks_2samp(ours_i, others_i).pvalue > 1e-3
            np.testing.assert_allclose(
                [ours_i.min(), ours_i.max()], [others_i.min(), others_i.max()], atol=0.01 * np.ptp(others_i)
            )


@pytest.mark.parametrize("env_id", CLASSIC_IDS)
def test_spaces_and_limits_are_gymnasiums(env_id):
    other, spec = theirs(env_id), ours(env_id)[0]
    np.testing.assert_array_equal(spec.obs_space.low, other.observation_space.low)
    np.testing.assert_array_equal(spec.obs_space.high, other.observation_space.high)
    assert spec.obs_space.dtype == other.observation_space.dtype
    assert spec.max_episode_steps == other.spec.max_episode_steps
    assert len(spec.obs_names) == len(spec.obs_space.low)
    if isinstance(spec.action_space, Box):
        np.testing.assert_array_equal(spec.action_space.low, other.action_space.low)
        np.testing.assert_array_equal(spec.action_space.high, other.action_space.high)
        assert spec.control_bounds is spec.action_space
    else:
        assert spec.action_space.n == other.action_space.n == len(spec.action_names)
