"""What the algorithms share: the value of what followed a step, judged only where it is not known already."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.algorithms.learner import entropy_bonus, judge
from policy_gradients.algorithms.ppo import PPOConfig
from policy_gradients.estimation.advantages import gae
from policy_gradients.estimation.normalization import NormalizationConfig, Statistics
from policy_gradients.networks import NetworkConfig, actor_critic
from policy_gradients.types import Transition

T, N, D = 6, 3, 2
CONFIG = PPOConfig(normalization=NormalizationConfig(obs=False, reward=False))
AGENT = actor_critic(jax.ShapeDtypeStruct((D,), jnp.float32), (1,), None, NetworkConfig(hidden=(4,)))
PARAMS = AGENT.init(jax.random.key(0))
NOTHING = Statistics(None, None, None)


def walk(*, cut=(), ended=(), dummy=()):
    """A trajectory in which s′ is the next row's observation, but for rows that are (t, n) cut, ended or dummies."""
    keys = jax.random.split(jax.random.key(1), 4)
    obs = np.array(jax.random.normal(keys[0], (T + 1, N, D)))
    next_obs, flags = obs[1:].copy(), {name: np.zeros((T, N), bool) for name in ("cut", "ended", "dummy")}
    for name, rows in (("cut", cut), ("ended", ended), ("dummy", dummy)):
        for row in rows:
            flags[name][row] = True
    other = flags["cut"] | flags["ended"]
    next_obs[other] = np.array(jax.random.normal(keys[1], (T, N, D)))[other]
    reward = jax.random.normal(keys[2], (T, N))
    action = jnp.zeros((T, N, 1))
    valid = ~flags["dummy"]
    obs = np.where(valid[..., None], obs[:-1], 0.0)
    arrays = obs, action, reward * 0, reward, next_obs, flags["ended"], flags["cut"], valid
    return Transition(*map(jnp.asarray, arrays))


def spelt_out(seen):
    """GAE with the critic run on every s′."""
    value, after = AGENT.value(PARAMS, seen.obs), AGENT.value(PARAMS, seen.next_obs)
    ends = seen.terminated, seen.truncated, seen.valid
    return gae(seen.reward, value, after, *ends, gamma=CONFIG.gamma, gae_lambda=CONFIG.gae_lambda)


@pytest.mark.parametrize(
    "seen",
    [walk(), walk(ended=[(2, 1)]), walk(cut=[(1, 0), (4, 2)]), walk(cut=[(5, 0)]), walk(ended=[(1, 1)], cut=[(3, 1)]),
     walk(dummy=[(3, 0)]), walk(cut=[(2, 0)], dummy=[(3, 0)])],
    ids=["whole", "ended", "cut", "cut at the last row", "both", "before a dummy row", "cut before a dummy row"],
)  # fmt: skip
def test_what_followed_a_step_is_judged_as_if_the_critic_saw_all_of_it(seen):
    found = jax.jit(lambda seen: judge(AGENT, CONFIG, PARAMS, NOTHING, seen))(seen)
    np.testing.assert_allclose(found.advantage, spelt_out(seen), rtol=1e-5, atol=1e-6)


def test_the_critic_sees_what_followed_only_where_no_row_shows_it():
    """One pass over the rollout and one over its last row; a second over the rollout only where an episode was cut."""
    seen, rows = [], lambda obs: obs.shape[:-1]
    watching = AGENT._replace(value=lambda params, obs: seen.append(rows(obs)) or AGENT.value(params, obs))
    with jax.disable_jit():
        judge(watching, CONFIG, PARAMS, NOTHING, walk(ended=[(2, 1)]))
        assert seen == [(T, N), (1, N)]
        judge(watching, CONFIG, PARAMS, NOTHING, walk(cut=[(2, 1)]))
    assert seen[2:] == [(T, N), (1, N), (T, N)]


def test_a_minibatch_of_dummy_rows_has_no_entropy_bonus():
    distribution = AGENT.policy(PARAMS, jnp.zeros((3, D)))
    bonus = lambda valid: entropy_bonus(PPOConfig(entropy_coef=0.5), distribution, jnp.asarray(valid))  # noqa: E731
    assert bonus([False] * 3) == 0.0
    np.testing.assert_allclose(bonus([True, False, True]), 0.5 * distribution.entropy()[0], rtol=1e-6)
