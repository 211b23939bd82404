"""CartPole-v1 by every algorithm, with the presets' settings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.classic import make_classic
from policy_gradients.evaluation.evaluate import make_evaluator
from policy_gradients.training.preset import compose
from policy_gradients.training.rollout import init_carry
from policy_gradients.training.setup import build

SEEDS, EPISODES = 5, 20
WITH_CRITIC = {"hyperparameters": {"baseline": "value"}}
RUNS: dict[str, tuple[str, int, dict[str, Any]]] = {
    # algorithm, environment steps in all, what differs from the preset
    "ppo": ("ppo", 100_000, {}),
    "trpo": ("trpo", 300_000, {}),
    "vmpo": ("vmpo", 300_000, {}),
    "a2c": ("a2c", 300_000, {}),
    "reinforce": ("reinforce", 500_000, {}),
    "reinforce-value": ("reinforce", 500_000, WITH_CRITIC),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_median_of_five_seeds_balances_the_pole(name):
    """At least 475 (Gymnasium's threshold) by the deterministic policy, over 20 episodes of each seed."""
    algorithm, total_steps, settings = RUNS[name]
    run = {"algorithm": algorithm, "env": {"id": "CartPole-v1"}, "total_steps": total_steps}
    experiment, _ = compose(run, settings)
    env = make_classic("CartPole-v1", experiment.env.num_envs)
    parts = build(experiment, env)
    updates = -(-total_steps // (experiment.env.num_envs * experiment.hyperparameters.num_steps))

    def train(key):
        learner_key, env_key, update_key = jax.random.split(key, 3)

        def step(state, update):
            learner, carry, metrics = parts.iteration(jax.random.fold_in(update_key, update), *state)
            return (learner, carry), metrics["rollout/ep_rew_mean"]

        start = parts.algorithm.init(learner_key), init_carry(env, env_key)
        (learner, _), curve = jax.lax.scan(step, start, jnp.arange(updates))
        return learner, curve

    learners, curves = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), SEEDS))
    evaluate = make_evaluator(
        parts.agent, make_classic("CartPole-v1", EPISODES), experiment.hyperparameters.normalization, episodes=1
    )
    scores = []
    for seed in range(SEEDS):
        learner = jax.tree.map(lambda leaf, seed=seed: leaf[seed], learners)
        assert int(learner.step) >= total_steps
        scores.append(evaluate(jax.random.key(seed), learner.params, learner.statistics, True).returns.mean())
    assert np.median(scores) >= 475, f"{scores}; training returns {curves[:, -1]}"
