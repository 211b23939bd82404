"""Our classic control tasks stepped beside Gymnasium's, from the same states with the same actions."""

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


def theirs(env_id, **options):
    with pytest.MonkeyPatch.context() as patch:  # CartPole-v0 is "out of date" and says so
        patch.setattr(gymnasium.logger, "deprecation", lambda *args: None)
        return gymnasium.make(env_id, disable_env_checker=True, **options)


@pytest.mark.parametrize("name", EPISODES)
def test_an_episode_equals_gymnasiums_step_by_step(name):
    """Both are set to the same float32 state before every step, so the tolerance is float32's error of one step.

    Observations reach 28 (Acrobot's speed) and rewards 100, where float32's spacing is 2e-6 and 8e-6.
    """
    env_id, options, policy, ending = EPISODES[name]
    other = theirs(env_id, **options)
    ours = make_classic(env_id, 1, **options)
    step = jax.jit(ours.step)
    state, _ = ours.reset(jax.random.key(0))
    other.reset(seed=3)
    for elapsed in range(1, ours.spec.max_episode_steps + 1):
        now = np.asarray(other.unwrapped.state, np.float32)
        other.unwrapped.state = now.astype(np.asarray(other.unwrapped.state).dtype)
        action = policy(now)
        obs, reward, terminated, truncated, _ = other.step(action)
        state, out = step(state._replace(raw=now[None]), np.asarray(action, ours.spec.action_space.dtype)[None])
        np.testing.assert_allclose(out.final_obs[0], obs, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(out.reward[0], reward, rtol=2e-6, atol=2e-6)
        assert (out.terminated[0], out.truncated[0]) == (terminated, truncated), f"step {elapsed}"
        if terminated or truncated:
            break
    assert {"terminated": terminated, "truncated": truncated}[ending]
    assert int(state.steps[0]) == 0, "the ended episode must have been reset within the step"


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
    other, ours = theirs(env_id).unwrapped, make_classic(env_id, 500)
    rng = np.random.default_rng(0)
    before = rng.uniform(*BROAD[env_id], (500, len(BROAD[env_id][0]))).astype(np.float32)
    if isinstance(ours.spec.action_space, Box):
        actions = rng.uniform(-3, 3, (500, 1)).astype(np.float32)
    else:
        actions = rng.integers(0, ours.spec.action_space.n, 500, np.int32)
    state, _ = ours.reset(jax.random.key(0))
    state, out = jax.jit(ours.step)(state._replace(raw=before), actions)
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
    other, ours = theirs(env_id), make_classic(env_id, 2000)
    samples = np.asarray(jax.jit(ours.reset)(jax.random.key(1))[1])
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
    other, spec = theirs(env_id), make_classic(env_id, 1).spec
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
