"""Wrappers against environments whose steps are written down in the test."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.base import Box, Discrete, Environment, EnvironmentSpec, Step, box
from policy_gradients.environments.device import device_environment
from policy_gradients.environments.mujoco import make_mujoco
from policy_gradients.environments.wrappers import (
    channels_last,
    clip_obs,
    clip_rewards,
    frame_stack,
    rescale_actions,
    time_limit,
)
from policy_gradients.errors import UserError


class Table(NamedTuple):
    """What the steps of one environment return, row after row; `final_obs` is `obs` where it is not given."""

    obs: list
    final_obs: list | None = None
    terminated: tuple = ()
    truncated: tuple = ()
    invalid: tuple = ()
    first: float = 0.0


def told(table: Table, dtype=np.float32, obs_space=None) -> Environment:
    """One environment that returns the rows of a table, with reward 100 · row − 150."""
    rows = len(table.obs)
    flag = lambda at: jnp.isin(jnp.arange(rows), jnp.array(at, int))  # noqa: E731
    obs = jnp.asarray(np.array(table.obs, dtype))
    final_obs = obs if table.final_obs is None else jnp.asarray(np.array(table.final_obs, dtype))
    ends = (flag(table.terminated), flag(table.truncated), ~flag(table.invalid))
    space = obs_space or box(-np.inf, np.inf, obs.shape[1:], dtype)
    spec = EnvironmentSpec("Told-v0", "jax", 1, space, Discrete(2), max_episode_steps=5)

    def step(row, action):
        reward = 100 * row.astype(jnp.float32) - 150
        fields = [field[row][None] for field in (obs, final_obs)]
        return row + 1, Step(*fields, reward[None], *(end[row][None] for end in ends))

    first = jnp.full((1, *obs.shape[1:]), table.first, obs.dtype)
    return device_environment(spec, lambda key: (jnp.int32(0), first), step)


def echo(space) -> Environment:
    """An environment that observes the action it was given."""
    spec = EnvironmentSpec("Echo-v0", "jax", 2, box(-np.inf, np.inf, space.shape), space, control_bounds=space)

    def step(state, action):
        no = jnp.zeros(2, bool)
        return state, Step(action, action, jnp.zeros(2), no, no, ~no)

    return device_environment(spec, lambda key: (jnp.int32(0), jnp.zeros((2, *space.shape))), step)


def reach(env, drawn):
    """The actions that reach the simulator of an echo."""
    drawn = jnp.asarray(drawn, jnp.float32)
    pairs = drawn.reshape(-1, 2, *drawn.shape[1:])
    _, steps = jax.jit(lambda pairs: jax.lax.scan(env.step, jnp.int32(0), pairs))(pairs)
    return np.concatenate(steps.obs)


def play(env, steps):
    """The first observation and the steps that follow."""

    @jax.jit
    def run(key):
        state, obs = env.reset(key)
        return obs, jax.lax.scan(env.step, state, jnp.zeros((steps, 1), jnp.int32))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


DRAWN = [[-2.0, -2.0], [-1.0, -0.5], [0.0, 0.5], [3.0, 1.0]]


def test_clip_takes_minus_one_and_one_to_the_bounds():
    env = rescale_actions(echo(box([-0.4, 0.0], [0.4, 10.0])), "clip")
    np.testing.assert_allclose(reach(env, DRAWN), [[-0.4, 0], [-0.4, 2.5], [0, 7.5], [0.4, 10]], rtol=1e-6)


def test_tanh_squashes_into_the_bounds():
    env = rescale_actions(echo(box([-3.0, 0.0], [3.0, 10.0])), "tanh")
    np.testing.assert_allclose(reach(env, DRAWN), [0, 5] + np.array([3, 5]) * np.tanh(DRAWN), rtol=1e-5, atol=1e-6)


def test_none_only_clips_to_the_bounds():
    env = rescale_actions(echo(box([-0.4, 0.0], [2.0, 10.0])), "none")
    np.testing.assert_allclose(reach(env, DRAWN), [[-0.4, 0], [-0.4, 0], [0, 0.5], [2, 1]])


def test_actions_within_unit_bounds_pass_to_the_last_bit():
    drawn = np.random.default_rng(0).uniform(-1, 1, (4, 300)).astype(np.float32)
    np.testing.assert_array_equal(reach(rescale_actions(echo(box(-1, 1, (300,))), "clip"), drawn), drawn)


@pytest.mark.parametrize("action_map", ["clip", "tanh"])
def test_no_action_leaves_the_bounds_by_rounding(action_map):
    random = np.random.default_rng(1)
    low = random.uniform(-10, 10, 500).astype(np.float32)
    high = low + random.uniform(1e-3, 10, 500).astype(np.float32)
    controls = reach(rescale_actions(echo(box(low, high)), action_map), np.full((2, 500), [[9.0], [-9.0]]))
    assert (controls >= low).all() and (controls <= high).all()


def test_an_unbounded_box_is_not_rescaled_and_says_so():
    env = rescale_actions(echo(box([-np.inf, -0.5], [np.inf, np.inf])), "tanh")
    np.testing.assert_allclose(reach(env, DRAWN), [[-2, -0.5], [-1, -0.5], [0, 0.5], [3, 1]])
    assert env.spec.action_map == "none"


def test_the_spec_says_what_is_drawn_and_what_the_simulator_takes():
    bounds = box([-0.4, 0.0], [0.4, 10.0])
    spec = rescale_actions(echo(bounds), "clip").spec
    assert isinstance(spec.action_space, Box) and np.isinf(spec.action_space.high).all()
    assert spec.action_space.shape == (2,) and spec.action_map == "clip"
    assert spec.control_bounds is bounds


def test_discrete_actions_pass_unchanged():
    env = told(Table([[0.0]]))
    assert rescale_actions(env, "tanh") is env


def test_an_unknown_map_and_a_second_map_are_refused():
    with pytest.raises(UserError, match=r"one of clip, tanh, none, not 'tan'.*'tanh'"):
        rescale_actions(echo(box(-1, 1, (1,))), "tan")
    with pytest.raises(UserError, match="already"):
        rescale_actions(rescale_actions(echo(box(-1, 1, (1,))), "clip"), "clip")


@pytest.mark.parametrize(("task", "bound"), [("Humanoid-v4", 0.4), ("InvertedPendulum-v4", 3.0)])
def test_a_drawn_one_reaches_mujoco_as_its_bound(task, bound):
    results = []
    for wrap, drawn in ((lambda env: rescale_actions(env, "clip"), 1.0), (lambda env: env, bound)):
        env = wrap(make_mujoco(task, 1, num_threads=1))
        state, _ = env.reset(jax.random.key(0))
        results.append(env.step(state, jnp.full((1, *env.spec.action_space.shape), drawn))[1].obs)
        env.close()
    np.testing.assert_array_equal(*results)


def test_every_observation_is_clipped_the_last_of_an_episode_too():
    env = clip_obs(told(Table([[9.0], [-9.0]], [[0.5], [9.0]], terminated=(1,), first=7.0)), 2.0)
    first, steps = play(env, 2)
    assert first[0, 0] == 2
    np.testing.assert_array_equal(steps.obs[:, 0, 0], [2, -2])
    np.testing.assert_array_equal(steps.final_obs[:, 0, 0], [0.5, 2])
    assert env.spec.obs_space.low == -2 and env.spec.obs_space.high == 2


def test_pixels_and_bounds_that_are_not_positive_are_not_clipped():
    with pytest.raises(UserError, match="pixels"):
        clip_obs(told(Table([[[0]]]), np.uint8, box(0, 255, (1, 1), np.uint8)), 2.0)
    with pytest.raises(UserError, match="positive, not 0"):
        clip_obs(told(Table([[0.0]])), 0.0)


def test_rewards_are_clipped_to_the_interval():
    _, steps = play(clip_rewards(told(Table([[0.0]] * 3)), -60.0, 20.0), 3)
    np.testing.assert_array_equal(steps.reward[:, 0], [-60, -50, 20])
    with pytest.raises(UserError, match=r"lower end 1.*upper end -1"):
        clip_rewards(told(Table([[0.0]])), 1.0, -1.0)


def test_a_time_limit_is_only_kept_where_the_environment_has_one():
    env = told(Table([[0.0]]))
    assert time_limit(env, 5) is env
    with pytest.raises(UserError, match=r"resets itself after 5 steps.*limit of 4"):
        time_limit(env, 4)


def test_frames_are_joined_oldest_first():
    env = frame_stack(told(Table([[1, 10], [2, 20], [3, 30]], first=5.0)), 2)
    first, steps = play(env, 3)
    np.testing.assert_array_equal(first, [[5, 5, 5, 5]])
    np.testing.assert_array_equal(steps.obs[:, 0], [[5, 5, 1, 10], [1, 10, 2, 20], [2, 20, 3, 30]])
    np.testing.assert_array_equal(steps.obs, steps.final_obs)
    assert env.spec.obs_space.shape == (4,)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_at_an_end_final_obs_keeps_the_old_frames_and_obs_repeats_the_first_new_one(end):
    table = Table([[1], [7], [8]], [[1], [2], [8]], **{end: (1,)})
    _, steps = play(frame_stack(told(table), 3), 3)
    np.testing.assert_array_equal(steps.final_obs[:, 0], [[0, 0, 1], [0, 1, 2], [7, 7, 8]])
    np.testing.assert_array_equal(steps.obs[:, 0], [[0, 0, 1], [7, 7, 7], [7, 7, 8]])


def test_a_dummy_row_begins_the_frames_of_the_new_episode():
    table = Table([[1], [2], [7], [8]], terminated=(1,), invalid=(2,))
    _, steps = play(frame_stack(told(table), 2), 4)
    np.testing.assert_array_equal(steps.final_obs[:2, 0], [[0, 1], [1, 2]])
    np.testing.assert_array_equal(steps.obs[2:, 0], [[7, 7], [7, 8]])


def test_pixel_frames_are_stacked_along_the_channels():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 3, 2)
    env = frame_stack(told(Table(list(images)), np.uint8, box(0, 255, (2, 3, 2), np.uint8)), 2)
    _, steps = play(env, 2)
    np.testing.assert_array_equal(steps.obs[1, 0], np.concatenate(images, axis=-1))
    assert steps.obs.dtype == np.uint8 and env.spec.obs_space.shape == (2, 3, 4)


def test_frame_stacks_resume_where_they_were():
    rows = [[float(i)] for i in range(1, 9)]
    env = frame_stack(frame_stack(told(Table(rows)), 2), 2)
    state, _ = env.reset(jax.random.key(0))
    for _ in range(3):
        state, _ = env.step(state, jnp.zeros(1, jnp.int32))
    saved = env.snapshot(state)
    assert all(isinstance(array, np.ndarray) for array in saved.values())
    restored = env.restore(saved, env.reset(jax.random.key(1))[0])
    for _ in range(2):
        state, expected = env.step(state, jnp.zeros(1, jnp.int32))
        restored, got = env.step(restored, jnp.zeros(1, jnp.int32))
        np.testing.assert_array_equal(got.obs, expected.obs)


def test_one_frame_is_the_environment_itself_and_none_is_refused():
    env = told(Table([[0.0]]))
    assert frame_stack(env, 1) is env
    with pytest.raises(UserError, match="1 or more frames"):
        frame_stack(env, 0)


def test_one_frame_of_a_single_number_is_the_environment_itself():
    env = told(Table([[0.0]]))
    single = env._replace(spec=replace(env.spec, obs_space=box(-1, 1)))
    assert frame_stack(single, 1) is single
    with pytest.raises(UserError, match="at least one axis"):
        frame_stack(single, 2)


def test_vectors_and_images_that_end_in_their_channels_stay_as_they_are():
    vectors = told(Table([[0.0]]))
    images = told(Table([np.zeros((3, 4, 2))]), np.uint8, box(0, 255, (3, 4, 2), np.uint8))
    assert channels_last(vectors) is vectors and channels_last(images) is images
