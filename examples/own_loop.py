"""The parts one floor down: environment, networks, algorithm, and a loop of your own.

python examples/own_loop.py
"""

import jax

import policy_gradients as pg
from policy_gradients.training.rollout import Carry, init_carry, rollout, rollout_metrics
from policy_gradients.types import Metrics


def main(total_steps: int = 100_000) -> Metrics:
    """Trains PPO on CartPole; the metrics of the last update."""
    config = pg.PPOConfig(num_steps=32, num_minibatches=4, num_epochs=10, learning_rate=1e-3, gamma=0.98)
    env = pg.make("CartPole-v1", num_envs=8)
    spec = env.spec
    obs = jax.ShapeDtypeStruct(spec.obs_space.shape, spec.obs_space.dtype)
    agent = pg.actor_critic(obs, spec.action_space.shape, num_actions=2)
    algorithm = pg.ppo(agent, config, num_envs=spec.num_envs, total_steps=total_steps)

    @jax.jit
    def iteration(key: jax.Array, learner: pg.LearnerState, before: Carry) -> tuple[pg.LearnerState, Carry, Metrics]:
        act_key, learn_key = jax.random.split(key)
        after, trajectory = rollout(
            agent, env, config.normalization, config.num_steps, act_key, learner.params, learner.statistics, before
        )
        learner, metrics = algorithm.update(learn_key, learner, trajectory)
        return learner, after, {**metrics, **rollout_metrics(before.episodes, after.episodes, trajectory)}

    key = jax.random.key(0)
    learner_key, env_key = jax.random.split(key)
    learner, carry = algorithm.init(learner_key), init_carry(env, env_key)
    updates = total_steps // (config.num_steps * spec.num_envs)
    metrics: Metrics = {}
    for update in range(updates):
        learner, carry, metrics = iteration(jax.random.fold_in(key, update), learner, carry)
        if update % 50 == 0 or update == updates - 1:
            print(f"{int(learner.step):>7,} steps  return {metrics['rollout/ep_rew_mean']:.1f}")
    return metrics


if __name__ == "__main__":
    main()
