"""Every algorithm solves the probes: tiny environments whose values and best actions are known in closed form."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.environments.base import Environment
from policy_gradients.environments.probes import make_probe, probe_solution
from policy_gradients.environments.wrappers import rescale_actions
from policy_gradients.estimation.normalization import NormalizationConfig, denormalize_value, normalize_obs
from policy_gradients.networks import NetworkConfig
from policy_gradients.training.config import EnvironmentConfig, Experiment
from policy_gradients.training.rollout import init_carry
from policy_gradients.training.setup import Parts, build
from policy_gradients.types import LearnerState

N, T, GAMMA, UPDATES = 16, 16, 0.9, 60
PLAIN = NormalizationConfig(obs=False, reward=False)
CONFIGS = {
    "ppo": PPOConfig(
        num_steps=T,
        num_epochs=4,
        num_minibatches=4,
        learning_rate=5e-3,
        gamma=GAMMA,
        max_grad_norm=5.0,
        normalization=PLAIN,
    )
}
NORMALIZERS = {
    "none": PLAIN,
    "observations and rewards": NormalizationConfig(),
    "observations and values": NormalizationConfig(reward=False, reward_scale=0.1, value=True),
}
PROBES = (
    "ProbeConstantReward-v0",
    "ProbeObservationReward-v0",
    "ProbeDelayedReward-v0",
    "ProbeTwoActions-v0",
    "ProbeActionOnObservation-v0",
    "ProbeTimeLimit-v0",
)


class Trainer(NamedTuple):
    """One program that learns any of the probes."""

    parts: Parts
    start: Callable[[Any, Any], Any]  # (key, index of the probe) -> (learner, carry)
    normalization: NormalizationConfig


def any_probe(distribution: str) -> Environment:
    """All probes as one environment, so that they share a compiled program: the first part of its state says which."""
    continuous = distribution != "categorical"
    envs = [make_probe(probe, N, continuous=continuous) for probe in PROBES]
    if continuous:
        envs = [rescale_actions(env, "tanh" if distribution == "tanh_normal" else "clip") for env in envs]

    def step(state, action):
        which, inner = state
        inner, out = jax.lax.switch(which, [env.step for env in envs], inner, action)
        return (which, inner), out

    def reset(keyed):
        key, which = keyed
        inner, obs = jax.lax.switch(which, [env.reset for env in envs], key)
        return (which, inner), obs

    return envs[0]._replace(reset=reset, step=step)


@cache
def trainer(algorithm: str, normalizer: str, distribution: str) -> Trainer:
    config = replace(CONFIGS[algorithm], normalization=NORMALIZERS[normalizer])
    env = any_probe(distribution)
    experiment = Experiment(
        algorithm=algorithm,
        hyperparameters=config,
        env=EnvironmentConfig(num_envs=N),
        network=NetworkConfig(hidden=(16,), distribution=distribution, log_std_init=-0.5),
        total_steps=UPDATES * T * N,
    )
    parts = build(experiment, env)

    @jax.jit
    def start(key, which):
        learner_key, env_key = jax.random.split(key)
        return parts.algorithm.init(learner_key), init_carry(env, (env_key, which))

    return Trainer(parts, start, config.normalization)


def learn(to: Trainer, probe: str) -> LearnerState:
    learner, carry = to.start(jax.random.key(100), jnp.int32(PROBES.index(probe)))
    for update in range(UPDATES):
        learner, carry, _ = to.parts.iteration(jax.random.fold_in(jax.random.key(0), update), learner, carry)
    return learner


def judged(to: Trainer, learner: LearnerState, obs: np.ndarray) -> tuple[np.ndarray, Any]:
    """V in units of the raw return, and the policy, of raw observations."""
    statistics = learner.statistics
    seen = normalize_obs(to.normalization, statistics, jnp.asarray(obs))
    value = denormalize_value(statistics, to.parts.agent.value(learner.params, seen)) / to.normalization.reward_scale
    if statistics.reward is not None:
        value = value * statistics.reward.std
    return np.asarray(value), to.parts.agent.policy(learner.params, seen)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_values_and_actions_are_those_of_the_closed_form(algorithm, probe):
    """Traps 1 and 45: V = 1, V = s, V = γ, V = r of the best action, and V = 1/(1 − γ) behind an unseen time limit."""
    to = trainer(algorithm, "none", "categorical")
    solution = probe_solution(probe, GAMMA)
    value, policy = judged(to, learn(to, probe), solution.obs)
    np.testing.assert_allclose(value, solution.value, rtol=0.05, atol=0.05)
    if solution.action is not None:
        best = np.exp(policy.log_prob(jnp.asarray(solution.action)))
        assert (best > 0.95).all(), f"probabilities of the best actions: {best}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("normalizer", "probe"),
    [
        *(("observations and values", probe) for probe in PROBES),
        # a constant return has no standard deviation to be measured in
        *(("observations and rewards", probe) for probe in PROBES if probe != "ProbeConstantReward-v0"),
    ],
)
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_values_are_right_in_units_of_the_raw_return_whatever_is_normalised(algorithm, normalizer, probe):
    to = trainer(algorithm, normalizer, "categorical")
    solution = probe_solution(probe, GAMMA)
    value, _ = judged(to, learn(to, probe), solution.obs)
    np.testing.assert_allclose(value, solution.value, rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("distribution", ["normal", "tanh_normal"])
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_continuous_actions_find_their_targets(algorithm, distribution, probe):
    """The best value is 0; a policy of standard deviation σ gets −σ², and σ has shrunk."""
    to = trainer(algorithm, "none", distribution)
    solution = probe_solution(probe, GAMMA, continuous=True)
    value, policy = judged(to, learn(to, probe), solution.obs)
    np.testing.assert_allclose(value, solution.value, rtol=0.1, atol=0.1)
    if solution.action is not None:
        action = np.tanh(policy.mode()) if distribution == "tanh_normal" else policy.mode()
        np.testing.assert_allclose(action, solution.action, atol=0.1)
