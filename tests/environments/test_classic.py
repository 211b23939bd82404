"""Classic tasks as batched environments; tests/parity/test_classic.py compares them with Gymnasium."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.classic import CLASSIC_IDS, make_classic
from policy_gradients.errors import UserError


@pytest.mark.parametrize("env_id", CLASSIC_IDS)
def test_a_batch_of_random_steps_stays_within_the_observation_space(env_id):
    environment = make_classic(env_id, 8, max_episode_steps=20)
    space = environment.spec.action_space

    @jax.jit
    def run(key):
        state, first = environment.reset(key)
        shape = (50, 8, *space.shape)
        if space.dtype == np.int32:
            actions = jax.random.randint(key, shape, 0, space.n)
        else:
            actions = 2 * jax.random.normal(key, shape)
        return first, jax.lax.scan(environment.step, state, actions)[1]

    first, steps = jax.tree.map(np.asarray, run(jax.random.key(0)))
    low, high = environment.spec.obs_space.low, environment.spec.obs_space.high
    for obs in (first, steps.obs, steps.final_obs):
        assert obs.dtype == np.float32
        assert np.all(obs >= low - 1e-6) and np.all(obs <= high + 1e-6)
    assert np.isfinite(steps.reward).all() and steps.reward.dtype == np.float32
    assert steps.truncated.any()
    assert steps.valid.all()


@pytest.mark.parametrize("env_id", CLASSIC_IDS)
def test_numbers_are_float32_whatever_jaxs_x64_flag(env_id):
    with jax.enable_x64(True):
        environment = make_classic(env_id, 2)
        shapes = jax.eval_shape(environment.reset, jax.random.key(0))[1]
        state = environment.reset(jax.random.key(0))[0]
        action = jnp.zeros((2, *environment.spec.action_space.shape), environment.spec.action_space.dtype)
        step = jax.eval_shape(environment.step, state, action)[1]
    assert {shapes.dtype, step.obs.dtype, step.reward.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("CartPole-v2", {}, "Did you mean 'CartPole-v1'"),
        ("Pendulum-v1", {"gravity": 9.8}, r"no option 'gravity' \(it has: g\)"),
        ("Acrobot-v1", {"g": 9.8}, r"no option 'g' \(it has: none\)"),
        ("MountainCar-v0", {"goal_velocty": 0.1}, "Did you mean 'goal_velocity'"),
        ("Pendulum-v1", {"g": "ten"}, "g must be a finite number, not 'ten'"),
        ("Pendulum-v1", {"g": float("nan")}, "g must be a finite number"),
        ("Pendulum-v1", {"g": True}, "g must be a finite number"),
        ("CartPole-v1", {"sutton_barto_reward": 1}, "must be true or false, not 1"),
        ("CartPole-v1", {"max_episode_steps": 0}, "max_episode_steps must be an integer of 1 or more"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(env_id, options, message):
    with pytest.raises(UserError, match=message):
        make_classic(env_id, 2, **options)


def test_the_time_limit_can_be_shortened():
    environment = make_classic("Pendulum-v1", 1, max_episode_steps=3)
    run = jax.jit(lambda key: jax.lax.scan(environment.step, environment.reset(key)[0], jnp.zeros((7, 1, 1))))
    _, steps = run(jax.random.key(0))
    assert np.flatnonzero(steps.truncated).tolist() == [2, 5]
    assert environment.spec.max_episode_steps == 3
