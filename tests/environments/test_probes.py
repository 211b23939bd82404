"""Every probe gives the rewards, ends and values that its row in the table promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.base import Box
from policy_gradients.environments.probes import PROBE_IDS, make_probe, probe_solution
from policy_gradients.errors import UserError

GAMMA = 0.9
WHERE_ACTIONS_COUNT = ("ProbeTwoActions-v0", "ProbeActionOnObservation-v0")
EVERY = pytest.mark.parametrize(
    ("env_id", "continuous"),
    [*((env_id, False) for env_id in PROBE_IDS), *((env_id, True) for env_id in WHERE_ACTIONS_COUNT)],
)


@functools.cache
def play(env_id, continuous=False, max_episode_steps=None):
    """First observations [64, 1] and 400 steps; copies below 32 act best, the others do the contrary, or 0.25 less."""
    environment = make_probe(env_id, 64, max_episode_steps, continuous)
    solution = probe_solution(env_id, GAMMA, continuous)

    def policy(obs):
        if solution.action is None:
            return jnp.zeros(64, jnp.int32)
        action = jnp.asarray(solution.action)[jnp.argmin(jnp.abs(obs - solution.obs.T), axis=1)]
        return jnp.concatenate([action[:32], action[32:] - 0.25 if continuous else 1 - action[32:]])

    def step(carry, _):
        state, out = environment.step(carry[0], policy(carry[1]))
        return (state, out.obs), out

    @jax.jit
    def run(key):
        state, first = environment.reset(key)
        return first, jax.lax.scan(step, (state, first), None, 400)[1]

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


@EVERY
def test_the_best_policy_earns_the_stated_value_of_every_observation(env_id, continuous):
    """Bellman's equation V(s) = r + γ (1 − d) V(s′), along what the best policy meets, with every s met."""
    solution = probe_solution(env_id, GAMMA, continuous)
    first, steps = play(env_id, continuous)
    value = dict(zip(solution.obs[:, 0].tolist(), solution.value.tolist(), strict=True))
    obs = np.concatenate([first[None], steps.obs[:-1]])
    assert set(np.unique(obs).tolist()) == set(value)
    reward, terminated = steps.reward[:, :32], steps.terminated[:, :32]
    successor = steps.final_obs[:, :32, 0]
    now, after = (np.vectorize(lambda s: value.get(s, np.nan))(s) for s in (obs[:, :32, 0], successor))
    np.testing.assert_allclose(now, reward + GAMMA * np.where(terminated, 0, after), atol=1e-5)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("env_id", WHERE_ACTIONS_COUNT)
def test_where_the_action_counts_the_other_one_earns_less(env_id, continuous):
    _, steps = play(env_id, continuous)
    np.testing.assert_allclose(steps.reward[:, :32], 0 if continuous else 1)
    np.testing.assert_allclose(steps.reward[:, 32:], -0.0625 if continuous else -1)


def test_the_best_actions_are_those_of_the_table():
    two, on_obs = "ProbeTwoActions-v0", "ProbeActionOnObservation-v0"
    assert probe_solution(two, 0.9).action.tolist() == [1]
    assert probe_solution(two, 0.9, continuous=True).action.tolist() == [[0.5]]
    for continuous, expected in ((False, {-1: 0, 1: 1}), (True, {-1: [-0.5], 1: [0.5]})):
        solution = probe_solution(on_obs, 0.9, continuous)
        assert dict(zip(solution.obs[:, 0].tolist(), solution.action.tolist(), strict=True)) == expected


@pytest.mark.parametrize("env_id", ["ProbeObservationReward-v0", "ProbeActionOnObservation-v0"])
def test_both_observations_are_met_about_equally_often(env_id):
    _, steps = play(env_id)
    assert abs(steps.obs.mean()) < 0.03
    assert steps.terminated.all()


def test_the_time_limit_cuts_after_ten_steps_that_look_alike():
    first, steps = play("ProbeTimeLimit-v0")
    assert np.flatnonzero(steps.truncated[:, 0]).tolist() == list(range(9, 400, 10))
    assert not steps.terminated.any()
    assert np.unique(np.concatenate([first.ravel(), steps.obs.ravel(), steps.final_obs.ravel()])).size == 1


def test_the_time_limit_can_be_set():
    assert make_probe("ProbeTimeLimit-v0", 1, max_episode_steps=3).spec.max_episode_steps == 3
    assert make_probe("ProbeTwoActions-v0", 1).spec.max_episode_steps is None


def test_mixed_lengths_have_mean_ten_by_episode_and_less_among_the_first_to_end():
    """With 64 copies, the mean over episodes counted per copy is 10; over those that end within 18 steps it is not."""
    _, steps = play("ProbeMixedLengths-v0")
    ends = steps.terminated
    per_copy = [np.diff(np.flatnonzero(ends[:, i]), prepend=-1)[:20] for i in range(64)]
    assert set(np.concatenate(per_copy).tolist()) == {2, 18}
    assert all(len(lengths) == 20 for lengths in per_copy)
    assert np.mean(per_copy) == pytest.approx(10, abs=0.9)  # 4 standard errors of 1,280 episodes with σ = 8
    early = np.concatenate([np.diff(np.flatnonzero(ends[:18, i]), prepend=-1) for i in range(64)])
    assert early.mean() < 7


@pytest.mark.parametrize("continuous", [False, True])
def test_actions_are_two_or_a_bounded_line(continuous):
    spec = make_probe("ProbeTwoActions-v0", 2, continuous=continuous).spec
    if continuous:
        assert isinstance(spec.action_space, Box) and spec.action_space.bounded and spec.action_space.shape == (1,)
    else:
        assert spec.action_space.n == 2
    assert (spec.engine, spec.num_envs, spec.obs_space.shape) == ("jax", 2, (1,))


def test_an_unknown_probe_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'ProbeTwoActions-v0'"):
        make_probe("ProbeTwoAction-v0", 1)
    with pytest.raises(UserError, match="is no probe"):
        probe_solution("CartPole-v1", 0.9)


def test_a_kind_of_action_that_is_no_bool_is_refused():
    with pytest.raises(UserError, match="continuous must be true or false"):
        make_probe("ProbeTwoActions-v0", 1, continuous="yes")
