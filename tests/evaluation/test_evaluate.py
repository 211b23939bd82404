"""Evaluation: which episodes count, under which policy and which statistics."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.distributions import Normal
from policy_gradients.environments.base import Environment, EnvironmentSpec, Step, box
from policy_gradients.environments.device import device_environment
from policy_gradients.environments.host import host_environment
from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import Moments, NormalizationConfig, Statistics, init_statistics
from policy_gradients.evaluation.evaluate import Episodes, eval_metrics, make_evaluator
from policy_gradients.types import ActorCritic

CONFIG = NormalizationConfig(reward=False)
OBS = jax.ShapeDtypeStruct((1,), jnp.float32)
NOTHING_SEEN = init_statistics(CONFIG, OBS, 1)
# The mean action is the (normalised) observation times the parameter; the spread is 1.
AGENT = ActorCritic(
    OBS, lambda key: jnp.ones(()), lambda params, obs: Normal(params * obs, jnp.zeros_like(obs)), lambda p, o: o[..., 0]
)
ONE = jnp.ones(())


def spec(num_envs: int, limit: int | None = None, on_host: bool = False) -> EnvironmentSpec:
    unbounded = box(-np.inf, np.inf, (1,))
    return EnvironmentSpec("Toy-v0", "jax", num_envs, unbounded, unbounded, limit, on_host)


def autoreset(state: Any, fresh: Any, obs: Any, fresh_obs: Any, reward: Any, terminated: Any, truncated: Any) -> Any:
    done = terminated | truncated
    step = Step(jnp.where(done, fresh_obs, obs)[:, None], obs[:, None], reward, terminated, truncated, done | True)
    return jnp.where(done, fresh, state), step


def mixed_lengths(n: int) -> Environment:
    """Episodes of 1 or 9 steps with equal probability, reward 1 per step: the mean return is 5."""
    zeros, never = jnp.zeros(n), jnp.zeros(n, bool)

    def lengths(key: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, shape=(n,)), 9, 1)

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        return (lengths(jax.random.fold_in(key, 0)), jax.random.fold_in(key, 1)), zeros[:, None]

    def step(state: Any, action: jax.Array) -> tuple[Any, Step]:
        left, key = state
        key = jax.random.fold_in(key, 2)
        left, out = autoreset(left - 1, lengths(key), zeros, zeros, zeros + 1, left <= 1, never)
        return (left, key), out

    return device_environment(spec(n), reset, step)


def action_is_reward(n: int, limit: int | None = None, ends: bool = True) -> Environment:
    """The reward is the action; the observation is 2 and grows by 1; 3 steps, if it ends, or up to the limit."""
    none = jnp.zeros(n, bool)

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        return jnp.zeros(n), jnp.full((n, 1), 2.0)

    def step(t: jax.Array, action: jax.Array) -> tuple[Any, Step]:
        t = t + 1
        terminated = t >= 3 if ends else none
        truncated = t >= limit if limit else none
        return autoreset(t, 0 * t, 2 + t, 2 + 0 * t, action[:, 0], terminated, truncated)

    return device_environment(spec(n, limit), reset, step)


class NextStepAutoreset:
    """`action_is_reward` on the host, as EnvPool resets: the step after an end ignores its action and is a dummy."""

    def __init__(self, num_envs: int, fails_at: int | None = None) -> None:
        self.spec = spec(num_envs, on_host=True)
        self.fails_at = fails_at

    def reset(self, seed: int) -> np.ndarray:
        self.t = np.zeros(self.spec.num_envs, int)
        self.calls = 0
        return np.full((self.spec.num_envs, 1), 2, np.float32)

    def step(self, action: np.ndarray) -> Step:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ZeroDivisionError("the simulator's own mistake")
        dummy = self.t == 3
        self.t = np.where(dummy, 0, self.t + 1)
        obs = (2 + self.t[:, None]).astype(np.float32)
        reward = np.where(dummy, np.nan, action[:, 0]).astype(np.float32)
        return Step(obs, obs, reward, self.t == 3, np.zeros_like(dummy), ~dummy)

    def snapshot(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, arrays: Any) -> None: ...
    def close(self) -> None: ...


@pytest.fixture(scope="module")
def three_steps() -> tuple[Any, Environment]:
    env = action_is_reward(4)
    return make_evaluator(AGENT, env, CONFIG, episodes=2), env


def test_short_episodes_are_not_preferred() -> None:
    env = mixed_lengths(400)
    episodes = make_evaluator(AGENT, env, CONFIG, episodes=2)(jax.random.key(0), ONE, NOTHING_SEEN, True)
    assert np.isfinite(episodes.returns).all()
    assert abs(episodes.returns.mean() - 5) < 0.5  # 3.5 standard errors; counting the first 800 to end gives about 2
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)


def test_some_environments_act_by_the_mode_and_others_by_a_draw(three_steps: Any) -> None:
    evaluate, _ = three_steps
    episodes = evaluate(jax.random.key(0), ONE, NOTHING_SEEN, np.array([True, False, True, False]))
    np.testing.assert_allclose(episodes.returns[[0, 2]], 2 + 3 + 4)
    assert (np.abs(episodes.returns[[1, 3]] - 9) > 0.01).all()
    assert len(np.unique(episodes.returns[[1, 3]])) == 4  # every draw is another
    np.testing.assert_array_equal(episodes.lengths, 3)
    assert not episodes.truncated.any()


def test_draws_follow_the_distribution() -> None:
    env = action_is_reward(2000)
    episodes = make_evaluator(AGENT, env, CONFIG, episodes=1)(jax.random.key(0), ONE, NOTHING_SEEN, False)
    np.testing.assert_allclose(episodes.returns.mean(), 9, atol=0.15)
    np.testing.assert_allclose(episodes.returns.std(), np.sqrt(3), rtol=0.07)


def test_every_observation_is_normalised_by_statistics_that_stay(three_steps: Any) -> None:
    evaluate, _ = three_steps
    moments = NOTHING_SEEN.obs
    assert moments is not None
    statistics = Statistics(Moments(moments.count, jnp.full(1, 1.0), jnp.full(1, 4.0)), None, None)
    before = jax.device_get(statistics)
    episodes = evaluate(jax.random.key(0), ONE, statistics, True)
    np.testing.assert_allclose(episodes.returns, (1 + 2 + 3) / 2, rtol=1e-6)  # the first observation, 2, is (2 − 1)/2
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(statistics))


def test_a_limit_of_the_environment_truncates() -> None:
    env = action_is_reward(2, limit=5, ends=False)
    episodes = make_evaluator(AGENT, env, CONFIG, episodes=3)(jax.random.key(0), ONE, NOTHING_SEEN, True)
    np.testing.assert_allclose(episodes.returns, 2 + 3 + 4 + 5 + 6)
    np.testing.assert_array_equal(episodes.lengths, 5)
    assert episodes.truncated.all()


def test_an_episode_that_ends_at_its_limit_was_not_cut() -> None:
    env = action_is_reward(2, limit=3)
    episodes = make_evaluator(AGENT, env, CONFIG, episodes=1)(jax.random.key(0), ONE, NOTHING_SEEN, True)
    assert (episodes.lengths == 3).all() and not episodes.truncated.any()


def test_dummy_rows_of_a_host_simulator_leave_no_trace(three_steps: Any) -> None:
    evaluate, _ = three_steps
    simulator = NextStepAutoreset(4)
    simulator.spec = replace(simulator.spec, max_episode_steps=3)  # the time allowed must have room for dummies
    host = make_evaluator(AGENT, host_environment(simulator), CONFIG, episodes=2)
    for _ in range(2):  # the second call starts with a fresh reset
        found = host(jax.random.key(0), ONE, NOTHING_SEEN, True)
        jax.tree.map(np.testing.assert_array_equal, found, evaluate(jax.random.key(0), ONE, NOTHING_SEEN, True))


def test_a_failing_simulator_is_raised_as_itself() -> None:
    evaluate = make_evaluator(AGENT, host_environment(NextStepAutoreset(2, fails_at=4)), CONFIG, episodes=2)
    with pytest.raises(ZeroDivisionError, match="the simulator's own mistake"):
        evaluate(jax.random.key(0), ONE, NOTHING_SEEN, True)


def test_episodes_that_max_steps_cuts_are_not_counted() -> None:
    env = action_is_reward(2)
    episodes = make_evaluator(AGENT, env, CONFIG, episodes=3, max_steps=7)(jax.random.key(0), ONE, NOTHING_SEEN, True)
    np.testing.assert_allclose(episodes.returns, [[9, 9, np.nan]] * 2)
    np.testing.assert_array_equal(episodes.lengths, [[3, 3, 0]] * 2)
    metrics = eval_metrics(episodes, True)
    assert (metrics["eval/mean_reward"], metrics["eval/mean_ep_length"], metrics["eval/episodes"]) == (9, 3, 4)


def test_an_environment_that_never_ends_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_gradients.evaluation.evaluate.LONGEST_EPISODE", 50)
    env = action_is_reward(2, ends=False)
    episodes = make_evaluator(AGENT, env, CONFIG, episodes=1)(jax.random.key(0), ONE, NOTHING_SEEN, True)
    assert np.isnan(episodes.returns).all()
    assert np.isnan(eval_metrics(episodes, True)["eval/mean_reward"])
    assert eval_metrics(episodes, True)["eval/episodes"] == 0


def test_the_program_is_compiled_once() -> None:
    traces = []

    def policy(params: jax.Array, obs: jax.Array) -> Normal:
        traces.append(1)
        return AGENT.policy(params, obs)

    evaluate = make_evaluator(AGENT._replace(policy=policy), action_is_reward(2), CONFIG, episodes=1)
    evaluate(jax.random.key(0), ONE, NOTHING_SEEN, True)
    count = len(traces)
    for i, flag in enumerate((False, np.array([True, False]), jnp.array([False, True]), [True, True])):
        evaluate(jax.random.key(i), i * ONE, NOTHING_SEEN, flag)
    assert len(traces) == count


def test_the_same_key_plays_the_same_episodes(three_steps: Any) -> None:
    evaluate, _ = three_steps
    first, again = (evaluate(jax.random.key(1), ONE, NOTHING_SEEN, False) for _ in range(2))
    other = evaluate(jax.random.key(2), ONE, NOTHING_SEEN, False)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (first.returns != other.returns).all()


def test_no_episodes_to_play_is_refused() -> None:
    with pytest.raises(UserError, match="episodes must be 1 or more, not 0"):
        make_evaluator(AGENT, action_is_reward(1), CONFIG, episodes=0)


def test_metrics_keep_the_two_policies_apart() -> None:
    episodes = Episodes(
        returns=np.array([[1.0, 3.0], [10.0, 30.0], [np.nan, 50.0]]),
        lengths=np.array([[2, 4], [1, 1], [0, 5]]),
        truncated=np.zeros((3, 2), bool),
    )
    assert eval_metrics(episodes, [True, False, False]) == {
        "eval/mean_reward": 2.0,
        "eval/std_reward": 1.0,
        "eval/mean_ep_length": 3.0,
        "eval/stochastic_mean_reward": 30.0,
        "eval/episodes": 2.0,
    }
    assert eval_metrics(episodes, False) == {"eval/stochastic_mean_reward": 94 / 5, "eval/episodes": 5.0}
