"""The EnvPool adapter; most of it needs the extra."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments import envpool
from policy_gradients.environments.base import Discrete, EnvironmentFailure
from policy_gradients.environments.envpool import EnvPoolSimulator, make_envpool
from policy_gradients.errors import UserError

needs_envpool = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="EnvPool is not installed")


@pytest.fixture
def simulator():
    made = []

    def make(id, num_envs=2, obs_keys=None, **options):
        made.append(EnvPoolSimulator(id, num_envs, options, obs_keys))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_missing_envpool_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(envpool, "installed", lambda: False)
    envpool.envpool_ids.cache_clear()
    with pytest.raises(UserError, match=r'pip install "policy-gradients\[envpool\]"'):
        make_envpool("Pong-v5", 2)


@needs_envpool
def test_the_row_after_a_fall_is_a_dummy_that_brings_the_first_observation(simulator):
    envs = simulator("CartPole-v1", 3)
    assert np.abs(envs.reset(0)).max() <= 0.05
    ended, falls = np.zeros(3, bool), 0
    for _ in range(60):
        step = envs.step(np.array([0, 1, 1], np.int32))
        np.testing.assert_array_equal(step.valid, ~ended)
        assert (np.abs(step.obs[ended]) <= 0.05).all(), "the dummy row shows the new episode"
        assert not (step.terminated | step.truncated)[ended].any()
        assert (step.reward[~ended] == 1).all()
        ended = step.terminated | step.truncated
        assert (np.abs(step.final_obs[ended, 2]) > 0.2).all(), "the last state of the old episode, fallen over"
        assert not step.truncated.any()
        falls += ended.sum()
    assert falls >= 9


@needs_envpool
def test_a_time_limit_truncates_and_does_not_terminate(simulator):
    envs = simulator("CartPole-v1", 1, max_episode_steps=5)
    assert envs.spec.max_episode_steps == 5
    envs.reset(0)
    steps = [envs.step(np.zeros(1, np.int32)) for _ in range(11)]
    assert [bool(s.truncated[0]) for s in steps] == [False] * 4 + [True] + [False] * 5 + [True]
    assert not any(s.terminated[0] for s in steps)
    assert [bool(s.valid[0]) for s in steps] == [True] * 5 + [False] + [True] * 5


@needs_envpool
def test_valid_rows_count_the_steps_that_the_simulator_took(simulator):
    envs = simulator("CartPole-v1", 4)
    envs.reset(1)
    taken = returned = 0
    for _ in range(40):
        step = envs.step(np.zeros(4, np.int32))
        taken += step.valid.sum()
        returned += step.reward[step.valid].sum()
    assert taken == returned < 160  # CartPole pays 1 for every step taken


@needs_envpool
def test_seeds_decide_the_episodes_and_differ_between_the_environments(simulator):
    first, again, other = (simulator("CartPole-v1", n).reset(seed) for n, seed in ((3, 5), (2, 5), (2, 6)))
    np.testing.assert_array_equal(first[:2], again)
    assert len(np.unique(first, axis=0)) == 3 and (other != again).any()


@needs_envpool
def test_a_new_reset_starts_the_same_episodes_again(simulator):
    envs = simulator("CartPole-v1")
    first = envs.reset(5).copy()
    envs.step(np.zeros(2, np.int32))
    np.testing.assert_array_equal(envs.reset(5), first)


@needs_envpool
def test_parts_of_an_observation_become_one_vector(simulator):
    envs = simulator("CheetahRun-v1")
    assert envs.reset(0).shape == (2, 17) and envs.reset(0).dtype == np.float32
    assert not envs.spec.obs_space.bounded
    assert envs.spec.action_space.shape == (6,) and envs.spec.action_space.bounded
    step = envs.step(np.ones((2, 6), np.float32))
    velocity_only = simulator("CheetahRun-v1", obs_keys=["velocity"])
    velocity_only.reset(0)
    np.testing.assert_array_equal(velocity_only.step(np.ones((2, 6), np.float32)).obs, step.obs[:, 8:])


@needs_envpool
def test_box2d_has_no_bounds_that_mean_nothing(simulator):
    envs = simulator("BipedalWalker-v3", 1)
    assert np.isinf(envs.spec.obs_space.low).all() and np.isinf(envs.spec.obs_space.high).all()
    envs.reset(0)
    assert np.isfinite(envs.step(np.zeros((1, 4), np.float32)).obs).all()


@needs_envpool
def test_pong_shows_four_frames_with_the_channels_last():
    env = make_envpool("Pong-v5", 1)
    assert env.spec.obs_space.shape == (84, 84, 4) and env.spec.obs_space.dtype == np.uint8
    assert env.spec.action_space == Discrete(6)

    @jax.jit
    def run(key):
        state, first = env.reset(key)
        return first, *jax.lax.scan(env.step, state, jnp.zeros((3, 1), jnp.int32))

    first, _, steps = run(jax.random.key(0))
    assert first.shape == (1, 84, 84, 4)
    np.testing.assert_array_equal(steps.obs[0, 0, :, :, 1:], steps.obs[1, 0, :, :, :3])
    env.close()


@needs_envpool
def test_losing_a_life_ends_an_episode_in_training_only(simulator):
    training, scored = simulator("Breakout-v5", 1), simulator("Breakout-v5", 1, episodic_life=False, reward_clip=False)
    assert training._options["reward_clip"] is True
    ends = []
    for envs in (training, scored):
        envs.reset(0)
        ends.append(sum(int(envs.step(np.zeros(1, np.int32)).terminated[0]) for _ in range(60)))
    assert ends[0] >= 2 and ends[1] == 0


@needs_envpool
@pytest.mark.parametrize(
    ("id", "options", "said"),
    [
        ("Pong-v4", {}, "Did you mean 'Pong-v5'"),
        ("Pong-v5", {"stack_nun": 2}, "Did you mean 'stack_num'"),
        ("Pong-v5", {"seed": 2}, "no option 'seed'"),
        ("Pong-v5", {"stack_num": "two"}, "EnvPool cannot make Pong-v5"),
        ("CliffWalking-v1", {}, "one integer"),
        ("KuhnPoker-v1", {}, "2 players"),
        ("MiniGrid-Empty-5x5-v0", {}, r"direction, image, mission.*obs_keys"),
        ("MiniGrid-Empty-5x5-v0", {"obs_keys": ["imag"]}, "obs_keys must name some of"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_sentence(simulator, id, options, said):
    with pytest.raises(UserError, match=said):
        simulator(id, **options)


@needs_envpool
def test_one_part_of_a_mixed_observation_keeps_its_shape(simulator):
    envs = simulator("MiniGrid-Empty-5x5-v0", obs_keys=["image"])
    assert envs.reset(0).shape == (2, 7, 7, 3) and envs.reset(0).dtype == np.uint8


@needs_envpool
def test_restore_starts_new_episodes_and_says_so_with_a_dummy_step(simulator):
    envs = simulator("CartPole-v1")
    first = envs.reset(7)
    for _ in range(3):
        envs.step(np.zeros(2, np.int32))
    saved = envs.snapshot()
    assert not envs.spec.exact_resume
    dummies = []
    for _ in range(2):
        other = simulator("CartPole-v1")
        other.restore(saved)
        dummies.append(other.step(np.zeros(2, np.int32)))
        step = other.step(np.zeros(2, np.int32))
        assert step.valid.all() and step.reward.tolist() == [1, 1]
        assert other.snapshot()["num_steps"] == 4
    assert not dummies[0].valid.any() and (dummies[0].obs != first).any()
    np.testing.assert_array_equal(dummies[0].obs, dummies[1].obs)


@needs_envpool
def test_a_closed_pool_is_not_stepped(simulator):
    envs = simulator("CartPole-v1")
    envs.reset(0)
    envs.close()
    for call in (lambda: envs.step(np.zeros(2, np.int32)), lambda: envs.reset(0)):
        with pytest.raises(EnvironmentFailure, match="close"):
            call()
