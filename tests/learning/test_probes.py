"""Every algorithm solves the probes: tiny environments whose values and best actions are known in closed form."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.algorithms import A2CConfig, PPOConfig, REINFORCEConfig, TRPOConfig, VMPOConfig
from policy_gradients.environments.base import Environment
from policy_gradients.environments.probes import make_probe, probe_solution
from policy_gradients.environments.wrappers import rescale_actions
from policy_gradients.estimation.normalization import NormalizationConfig, denormalize_value, normalize_obs
from policy_gradients.networks import NetworkConfig
from policy_gradients.training.config import EnvironmentConfig, Experiment
from policy_gradients.training.rollout import init_carry
from policy_gradients.training.setup import Parts, build
from policy_gradients.types import LearnerState

N, T, GAMMA = 16, 16, 0.9
PLAIN = NormalizationConfig(obs=False, reward=False)
QUICK = {"num_steps": T, "gamma": GAMMA}
CONFIGS = {
    "reinforce": REINFORCEConfig(**QUICK, learning_rate=1e-2, max_grad_norm=5.0),
    "reinforce-value": REINFORCEConfig(**QUICK, baseline="value", learning_rate=1e-2, max_grad_norm=5.0),
    "a2c": A2CConfig(**QUICK, learning_rate=5e-3, max_grad_norm=5.0),
    "trpo": TRPOConfig(**QUICK, max_kl=0.05, value_epochs=4, num_minibatches=4, learning_rate=5e-3),
    "ppo": PPOConfig(**QUICK, num_epochs=4, num_minibatches=4, learning_rate=5e-3, max_grad_norm=5.0),
    "vmpo": VMPOConfig(
        **QUICK, num_epochs=4, learning_rate=5e-3, max_grad_norm=5.0, eps_eta=0.1, eps_mean=0.1, eps_std=0.05
    ),
}
UPDATES = {"reinforce": 500, "reinforce-value": 500, "a2c": 500, "trpo": 60, "ppo": 60, "vmpo": 100}
"""One gradient step per update needs more of them."""
CRITICS = [name for name in CONFIGS if name != "reinforce"]
NORMALIZERS = {
    "none": PLAIN,
    "observations and rewards": NormalizationConfig(),
    "observations and values": NormalizationConfig(reward=False, reward_scale=0.1, value=True),
}
ACTION_PROBES = ("ProbeTwoActions-v0", "ProbeActionOnObservation-v0")
PROBES = (
    "ProbeConstantReward-v0",
    "ProbeObservationReward-v0",
    "ProbeDelayedReward-v0",
    *ACTION_PROBES,
    "ProbeTimeLimit-v0",
)


class Trainer(NamedTuple):
    """One program that learns any of the probes."""

    parts: Parts
    start: Callable[[Any, Any], Any]  # (key, index of the probe) -> (learner, carry)
    normalization: NormalizationConfig
    updates: int


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
    normalization = NORMALIZERS[normalizer]
    if algorithm == "reinforce":  # its baseline is the running mean of returns
        normalization = replace(normalization, value=True)
    config = replace(CONFIGS[algorithm], normalization=normalization)
    env = any_probe(distribution)
    experiment = Experiment(
        algorithm=algorithm.split("-")[0],
        hyperparameters=config,
        env=EnvironmentConfig(num_envs=N),
        network=NetworkConfig(hidden=(16,), distribution=distribution, log_std_init=-0.5),
        total_steps=UPDATES[algorithm] * T * N,
    )
    parts = build(experiment, env)

    @jax.jit
    def start(key, which):
        learner_key, env_key = jax.random.split(key)
        return parts.algorithm.init(learner_key), init_carry(env, (env_key, which))

    return Trainer(parts, start, normalization, UPDATES[algorithm])


def learn(to: Trainer, probe: str) -> LearnerState:
    learner, carry = to.start(jax.random.key(100), jnp.int32(PROBES.index(probe)))
    for update in range(to.updates):
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


def cases(fast: tuple[str, ...] = ()) -> list[Any]:
    """Every algorithm on every probe that it can solve: what no action changes is nothing to one without a critic."""
    pairs = [(a, p) for a in CONFIGS for p in (PROBES if a in CRITICS else ACTION_PROBES)]
    marks = lambda algorithm: () if algorithm in fast else pytest.mark.slow  # noqa: E731
    return [pytest.param(*pair, marks=marks(pair[0]), id="-".join(pair)) for pair in pairs]


@pytest.mark.parametrize(("algorithm", "probe"), cases(fast=("ppo",)))
def test_values_and_actions_are_those_of_the_closed_form(algorithm, probe):
    """Traps 1 and 45: V = 1, V = s, V = γ, V = r of the best action, and V = 1/(1 − γ) behind an unseen time limit."""
    to = trainer(algorithm, "none", "categorical")
    solution = probe_solution(probe, GAMMA)
    value, policy = judged(to, learn(to, probe), solution.obs)
    if algorithm in CRITICS:
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
@pytest.mark.parametrize("algorithm", CRITICS)
def test_values_are_right_in_units_of_the_raw_return_whatever_is_normalised(algorithm, normalizer, probe):
    to = trainer(algorithm, normalizer, "categorical")
    solution = probe_solution(probe, GAMMA)
    value, _ = judged(to, learn(to, probe), solution.obs)
    np.testing.assert_allclose(value, solution.value, rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["normal", "tanh_normal"])
@pytest.mark.parametrize(("algorithm", "probe"), cases())
def test_continuous_actions_find_their_targets(algorithm, distribution, probe):
    """The best value is 0; a policy of standard deviation σ gets −σ², and σ has shrunk."""
    to = trainer(algorithm, "none", distribution)
    solution = probe_solution(probe, GAMMA, continuous=True)
    value, policy = judged(to, learn(to, probe), solution.obs)
    if algorithm in CRITICS:
        np.testing.assert_allclose(value, solution.value, rtol=0.1, atol=0.1)
    if solution.action is not None:
        action = np.tanh(policy.mode()) if distribution == "tanh_normal" else policy.mode()
        np.testing.assert_allclose(action, solution.action, atol=0.1)
