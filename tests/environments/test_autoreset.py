"""The generic wrapper: batch axis, time limit, reset within the step, keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.autoreset import (
    _reset_all,
    _reset_draw,
    _reset_gathered,
    _step_draw,
    autoreset,
)
from policy_gradients.environments.base import Discrete, EnvironmentSpec, box, first_elapsed
from policy_gradients.errors import UserError


def spec(num_envs, **changes):
    return EnvironmentSpec("Counting-v0", "jax", num_envs, box(-100, 100, (2,)), Discrete(2), **changes)


def counting(num_envs, length, max_episode_steps=None, **options):
    """Observes (steps so far, a number drawn at reset); ends after `length` steps, or earlier on action 1."""

    def reset(key):
        state = jnp.stack([jnp.float32(0), jax.random.uniform(key)])
        return state, state

    def step(key, state, action):
        state = state.at[0].add(1)
        return state, state, state[0] * 10, (state[0] == length) | (action == 1)

    return autoreset(spec(num_envs), reset, step, max_episode_steps, **options)


def random_walk(num_envs, max_episode_steps=None):
    """Draws from the key at every step, and keeps a typed key in its state."""

    def reset(key):
        obs = jax.random.normal(key, (2,))
        return {"obs": obs, "key": key}, obs

    def step(key, state, action):
        obs = state["obs"] + jax.random.normal(key, (2,))
        return {"obs": obs, "key": key}, obs, obs.sum(), jnp.abs(obs[0]) > 2

    return autoreset(spec(num_envs), reset, step, max_episode_steps)


def roller(environment, num_steps):
    """Compiled `(key, actions [T, N] or none) -> (last state, first obs, steps stacked to [T, N])`."""
    idle = jnp.zeros((num_steps, environment.spec.num_envs), jnp.int32)

    @jax.jit
    def run(key, actions=idle):
        state, obs = environment.reset(key)
        state, steps = jax.lax.scan(environment.step, state, actions)
        return state, obs, steps

    return run


count_to_four = functools.cache(lambda: roller(counting(3, length=4), 7))
count_to_limit_three = functools.cache(lambda: roller(counting(3, length=99, max_episode_steps=3), 7))
walk = functools.cache(lambda num_envs: roller(random_walk(num_envs, 7), 30))
KEY = jax.random.key(3)


def one_action(time, copy):
    return jnp.zeros((7, 3), jnp.int32).at[time, copy].set(1)


def test_the_final_observation_is_the_one_before_the_reset():
    _, first, steps = count_to_four()(KEY)
    np.testing.assert_array_equal(steps.final_obs[:, :, 0], np.tile([[1], [2], [3], [4], [1], [2], [3]], (1, 3)))
    np.testing.assert_array_equal(steps.final_obs[:4, :, 1], np.tile(first[:, 1], (4, 1)))
    np.testing.assert_array_equal(steps.obs[:, :, 0], np.tile([[1], [2], [3], [0], [1], [2], [3]], (1, 3)))
    assert not np.any(np.isin(steps.obs[3, :, 1], first[:, 1])), "the next episode draws anew"
    np.testing.assert_array_equal(steps.obs[:3], steps.final_obs[:3])


def test_the_reward_and_flags_of_the_last_step_belong_to_the_ended_episode():
    _, _, steps = count_to_four()(KEY)
    np.testing.assert_array_equal(steps.reward[:, 0], [10, 20, 30, 40, 10, 20, 30])
    assert np.flatnonzero(steps.terminated[:, 0]).tolist() == [3]
    assert not steps.truncated.any()
    assert steps.valid.all()


def test_a_time_limit_truncates_and_the_count_starts_again():
    _, _, steps = count_to_limit_three()(KEY)
    assert np.flatnonzero(steps.truncated[:, 0]).tolist() == [2, 5]
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.final_obs[:, 0, 0], [1, 2, 3, 1, 2, 3, 1])


@pytest.mark.parametrize("n", [1, 7, 64, 8192])
def test_staggered_copies_reach_the_limit_at_times_that_are_spread_evenly(n):
    elapsed = first_elapsed(n, 1000)
    assert elapsed.dtype == np.int32 and elapsed[0] == 0 and elapsed.max() < 1000
    ends = np.sort(np.append(elapsed, 1000))
    assert np.diff(ends).max() <= 2 * 1000 / n + 1
    np.testing.assert_array_equal(first_elapsed(5, 1000), first_elapsed(8192, 1000)[:5])


def test_only_the_first_episode_of_a_staggered_copy_is_shorter():
    env = counting(3, length=99, max_episode_steps=8, stagger=True)
    _, _, steps = roller(env, 20)(KEY)
    assert env.spec.staggered and not counting(3, 99, 8).spec.staggered
    for copy, begun in enumerate(first_elapsed(3, 8)):
        wanted = np.arange(8 - begun, 21, 8)
        np.testing.assert_array_equal(1 + np.flatnonzero(steps.truncated[:, copy]), wanted)
    assert len({int(np.argmax(steps.truncated[:, copy])) for copy in range(3)}) == 3


def test_copies_without_a_limit_cannot_be_staggered():
    with pytest.raises(UserError, match="there is none; set max_episode_steps"):
        counting(2, 3, stagger=True)


def test_an_end_of_the_process_restarts_the_count_of_the_time_limit():
    _, _, steps = count_to_limit_three()(KEY, one_action(time=1, copy=0))
    assert np.flatnonzero(steps.terminated[:, 0]).tolist() == [1]
    assert np.flatnonzero(steps.truncated[:, 0]).tolist() == [4]


def test_both_flags_are_set_where_process_and_limit_end_together():
    _, _, steps = count_to_limit_three()(KEY, one_action(time=2, copy=1))
    assert np.flatnonzero(steps.terminated[:, 1]).tolist() == [2]
    assert np.flatnonzero(steps.truncated[:, 1]).tolist() == [2, 5]


def test_only_the_copy_that_ended_is_reset():
    _, first, steps = count_to_four()(KEY, one_action(time=0, copy=1))
    np.testing.assert_array_equal(steps.obs[0, :, 0], [1, 0, 1])
    np.testing.assert_array_equal(steps.obs[0, :, 1] == first[:, 1], [True, False, True])


def test_a_copy_lives_the_same_life_whatever_the_number_of_copies():
    _, first_few, few = walk(2)(KEY)
    _, first_many, many = walk(40)(KEY)
    assert few.terminated.any() and few.truncated.any()
    np.testing.assert_array_equal(first_few, first_many[:2])
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:, :2])


def test_copies_episodes_and_steps_draw_different_numbers():
    _, first, steps = walk(40)(KEY)
    moves = np.asarray(steps.final_obs - np.concatenate([first[None], steps.obs[:-1]]))
    starts = np.asarray(steps.obs[steps.terminated | steps.truncated])
    draws = np.concatenate([np.asarray(first).ravel(), starts.ravel(), moves.ravel()])
    assert len(np.unique(draws)) > 0.99 * len(draws)
    assert abs(np.corrcoef(moves[:, :, 0].T)[np.triu_indices(40, 1)]).mean() < 0.2, "copies are uncorrelated"


def test_reset_keys_are_never_step_keys():
    clocks = jnp.arange(100, dtype=jnp.uint32)
    assert not set(np.asarray(_reset_draw(clocks)).tolist()) & set(np.asarray(_step_draw(clocks)).tolist())


def test_vmapped_seeds_equal_seeds_alone():
    keys = jax.random.split(KEY, 2)
    together = jax.vmap(lambda key: walk(2)(key)[1:])(keys)
    for i, key in enumerate(keys):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a, b[i]), walk(2)(key)[1:], together)


@pytest.mark.parametrize("n", [1, 9, 300])
def test_gathering_the_ended_rows_equals_resetting_all(n):
    keys = jax.random.split(jax.random.key(1), n)
    current = (jnp.zeros((n, 3)), jnp.zeros(n, jnp.int32))

    def fresh(keys):
        return jax.vmap(lambda k: (jax.random.bits(k, (3,)).astype(jnp.float32), jnp.int32(1)))(keys)

    compiled = [jax.jit(f, static_argnums=1) for f in (_reset_gathered, _reset_all)]
    for share in (0.0, 0.05, 1.0):
        done = jax.random.uniform(jax.random.key(0), (n,)) < share
        gathered, drawn = (f(done, fresh, keys, current) for f in compiled)
        jax.tree.map(np.testing.assert_array_equal, gathered, drawn)
        np.testing.assert_array_equal(gathered[1], done)


def test_a_step_that_draws_nothing_pays_for_no_key():
    environment = counting(64, length=9)
    state, _ = jax.eval_shape(environment.reset, KEY)
    step = lambda state: environment.step(state, jnp.zeros(64, jnp.int32))[1].final_obs  # noqa: E731
    assert "xor" not in jax.jit(step).lower(state).compile().as_text()


def test_snapshot_and_restore_continue_the_same_trajectory():
    environment = random_walk(4, 5)
    reset = jax.jit(environment.reset)
    run = jax.jit(lambda state: jax.lax.scan(environment.step, state, jnp.zeros((7, 4), jnp.int32)))
    state, _ = run(reset(KEY)[0])
    restored = environment.restore(environment.snapshot(state), reset(jax.random.key(99))[0])
    jax.tree.map(np.testing.assert_array_equal, run(state)[1], run(restored)[1])


def test_the_specification_states_the_limit_in_use():
    assert counting(1, 3, max_episode_steps=17).spec.max_episode_steps == 17
    assert counting(1, 3).spec.max_episode_steps is None


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_an_impossible_limit_is_refused(limit):
    with pytest.raises(UserError, match="max_episode_steps must be an integer of 1 or more"):
        counting(1, 3, max_episode_steps=limit)


def test_no_copies_are_refused():
    with pytest.raises(UserError, match="num_envs must be an integer of 1 or more"):
        counting(0, 3)


@pytest.mark.parametrize(
    ("reset", "step", "message"),
    [
        (lambda k: (0.0, jnp.zeros(3)), lambda k, s, a: (s, jnp.zeros(2), 0.0, False), r"reset returns .* \(3,\)"),
        (lambda k: (0.0, jnp.zeros(2)), lambda k, s, a: (s, jnp.zeros(2, int), 0.0, False), "step returns .* int32"),
        (lambda k: (0.0, jnp.zeros(2)), lambda k, s, a: (s, jnp.zeros(2), jnp.zeros(1), False), "scalar reward"),
        (lambda k: (0.0, jnp.zeros(2)), lambda k, s, a: (s, jnp.zeros(2), 0.0, 0.0), "scalar bool terminated"),
        (lambda k: (0.0, jnp.zeros(2)), lambda k, s, a: (s, jnp.zeros(2), 0.0, False, 0), "and truncated"),
        (lambda k: (0.0, jnp.zeros(2)), lambda k, s, a: ((s, s), jnp.zeros(2), 0.0, False), "differs in structure"),
        (lambda k: (0.0, jnp.zeros(2)), lambda k, s, a: (s, jnp.zeros(2), 0.0), r"or truncated .* it returns 3 values"),
        (lambda k: (0.0, jnp.zeros(2)), lambda k, s, a: (s, jnp.zeros(2), 0.0, False, {}), "ends of .*, type dict"),
        (lambda k: jnp.zeros(2), lambda k, s, a: (s, jnp.zeros(2), 0.0, False), r"\(state, obs\); .* a single value"),
        (lambda k: (0.0, [0.0, 0.0]), lambda k, s, a: (s, jnp.zeros(2), 0.0, False), "observations of type list"),
    ],
)
def test_a_raw_environment_that_breaks_its_word_is_refused(reset, step, message):
    with pytest.raises(UserError, match=message):
        autoreset(spec(2), reset, step)


def test_a_step_is_given_the_actions_of_its_space_whatever_the_first_of_them():
    space = EnvironmentSpec("Mine-v0", "jax", 3, box(-1, 1, (1,)), Discrete(3, start=5))
    reset = lambda key: (0.0, jnp.zeros(1))  # noqa: E731
    env = autoreset(space, reset, lambda key, state, action: (state, jnp.zeros(1), action, False))
    state, _ = env.reset(jax.random.key(0))
    _, out = env.step(state, jnp.arange(3, dtype=jnp.int32))
    np.testing.assert_array_equal(out.reward, [5.0, 6.0, 7.0])
