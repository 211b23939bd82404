"""Real suites stepped through ours and through their own functions, with the same keys and actions, across episodes.

Each suite is tested where it is installed; an environment with all four is seldom to be had.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.autoreset import _reset_draw, _step_draw
from policy_gradients.environments.registry import make
from policy_gradients.environments.suites.task import observation_vector

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
KEY, N = jax.random.key(11), 3


@pytest.fixture(autouse=True)
def the_suites_own_habits():
    """Suites mix types and ranks, which the other tests forbid."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def drawn(env, num_steps):
    """Actions [T, N, …], continuous ones beyond their bounds now and then."""
    space = env.spec.action_space
    key = jax.random.key(5)
    if hasattr(space, "n"):
        return jax.random.randint(key, (num_steps, N), 0, space.n)
    return 0.6 * jax.random.normal(key, (num_steps, N, *space.shape))


def ours(env, actions):
    @jax.jit
    def run(key, actions):
        state, obs = env.reset(key)
        return obs, jax.lax.scan(env.step, state, actions)[1]

    first, steps = run(KEY, actions)
    return np.asarray(first), jax.tree.map(np.asarray, steps)


def word(copy, draw):
    """The raw key that copy i gets for this draw."""
    return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(KEY, copy), draw))


def compare(env, num_steps, reset, step, limit):
    """Steps each copy by the suite's own `reset(key)` and `step(key, state, action)`, and compares all that comes out.

    Returns the number of episodes that ended, and of those that were cut.
    """
    actions = drawn(env, num_steps)
    first, steps = ours(env, actions)
    reset, step = jax.jit(reset), jax.jit(step)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)  # noqa: E731
    ended = cut = 0
    for copy in range(N):
        state, obs = reset(word(copy, _reset_draw(jnp.uint32(0))))
        close(first[copy], observation_vector(obs))
        length = 0
        for t in range(num_steps):
            clock = jnp.uint32(t + 1)
            state, obs, reward, terminated, truncated = step(word(copy, _step_draw(clock)), state, actions[t, copy])
            length += 1
            truncated = bool(truncated) or length == limit
            close(steps.final_obs[t, copy], observation_vector(obs))
            close(steps.reward[t, copy], reward)
            assert steps.terminated[t, copy] == bool(terminated)
            assert steps.truncated[t, copy] & ~steps.terminated[t, copy] == (truncated and not terminated)
            if terminated or truncated:
                ended, cut, length = ended + bool(terminated), cut + (not terminated), 0
                state, obs = reset(word(copy, _reset_draw(clock)))
            # Ours goes on from its own state; the suite's is followed by the same draws, so both agree again here.
            close(steps.obs[t, copy], observation_vector(obs))
    assert steps.valid.all()
    return ended, cut


@pytest.mark.parametrize(
    ("id", "num_steps", "limit", "ends"),
    [("CartPole-v1", 60, 20, (True, True)), ("Pendulum-v1", 25, 10, (False, True)),
     ("Breakout-MinAtar", 60, 25, (True, True)), ("DiscountingChain-bsuite", 25, 10, (False, True))],
)  # fmt: skip
def test_gymnax_steps_as_by_itself(id, num_steps, limit, ends):
    gymnax = pytest.importorskip("gymnax")
    suite, params = gymnax.make(id)
    params, endless = (params.replace(max_steps_in_episode=steps) for steps in (limit, 10**6))

    def reset(key):
        obs, state = suite.reset_env(key, params)
        return state, obs

    def step(key, state, action):
        obs, after, reward, done, _ = suite.step_env(key, state, action, params)
        terminated = suite.step_env(key, state, action, endless)[3]
        if not hasattr(suite, "is_truncated"):
            assert_done = jnp.where(after.time >= limit, done, done == terminated)
            reward = jnp.where(assert_done, reward, jnp.nan)  # the merged flag means one or the other, or both
        return after, obs, reward, terminated, False

    env = make(f"gymnax:{id}", N, max_episode_steps=limit, action_map="none")
    ended, cut = compare(env, num_steps, reset, step, limit)
    assert (ended > 0, cut > 0) == ends


def test_brax_steps_as_by_its_own_episode_wrapper():
    pytest.importorskip("brax")
    from brax import envs
    from brax.envs.wrappers.training import EpisodeWrapper

    suite = EpisodeWrapper(envs.get_environment("inverted_pendulum"), 5, 1)  # it falls after three to seven

    def reset(key):
        state = suite.reset(key)
        return state, state.obs

    def step(key, state, action):
        state = suite.step(state, action)
        truncated = state.info["truncation"] > 0
        return state, state.obs, state.reward, (state.done > 0) & ~truncated, truncated

    env = make("brax:inverted_pendulum", N, max_episode_steps=5, action_map="none")
    ended, cut = compare(env, 30, reset, step, None)
    assert ended and cut


def test_playground_steps_as_by_itself():
    pytest.importorskip("mujoco_playground")
    from mujoco_playground import registry

    suite = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})

    def reset(key):
        state = suite.reset(key)
        return state, state.obs

    def step(key, state, action):
        state = suite.step(state, action)
        return state, state.obs, state.reward, state.done > 0, False

    env = make("playground:CartpoleBalance", N, max_episode_steps=15, action_map="none")
    assert compare(env, 35, reset, step, 15) == (0, 2 * N)


@pytest.mark.parametrize(("id", "num_steps"), [("Snake-v1", 40), ("Maze-v0", 120), ("Game2048-v1", 120)])
def test_jumanji_steps_as_by_itself(id, num_steps):
    jumanji = pytest.importorskip("jumanji")
    suite = jumanji.make(id)

    def reset(key):
        state, first = suite.reset(key)
        return state, first.observation

    def step(key, state, action):
        state, out = suite.step(state, action)
        return state, out.observation, out.reward, out.last() & (out.discount == 0), out.last() & (out.discount == 1)

    env = make(f"jumanji:{id}", N, action_map="none")
    ended, cut = compare(env, num_steps, reset, step, None)
    assert ended and not cut, "Jumanji's own limits say that the process ended"
