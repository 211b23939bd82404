"""A network of your own, here as an Equinox module (pip install equinox).

    python examples/custom_network.py

Any `init` and any functions of (params, obs) will do. Observations arrive normalised, with one or two batch axes.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import policy_gradients as pg


class Net(eqx.Module):
    """Policy and critic for one observation."""

    actor: eqx.nn.MLP
    critic: eqx.nn.MLP
    log_std: jax.Array

    def __init__(self, key: jax.Array) -> None:
        actor_key, critic_key = jax.random.split(key)
        self.actor = eqx.nn.MLP(3, 1, 64, 2, jnp.tanh, key=actor_key)
        self.critic = eqx.nn.MLP(3, "scalar", 128, 2, jnp.tanh, key=critic_key)
        self.log_std = jnp.zeros(1)


arrays, static = eqx.partition(eqx.filter_eval_shape(Net, jax.random.key(0)), eqx.is_inexact_array_like)


def init(key: jax.Array) -> Net:
    """The module's arrays: the parameters."""
    return eqx.filter(Net(key), eqx.is_array)


def policy(params: Net, obs: jax.Array) -> pg.Normal:
    """The distribution of the drawn action; [−1, 1] is the simulator's range."""
    net = eqx.combine(params, static)
    mean = jnp.vectorize(net.actor, signature="(i)->(o)")(obs)
    return pg.Normal(mean, jnp.zeros_like(mean) + net.log_std.reshape((1,) * (obs.ndim - 1) + (-1,)))


def value(params: Net, obs: jax.Array) -> jax.Array:
    """V of each observation."""
    return jnp.vectorize(eqx.combine(params, static).critic, signature="(i)->()")(obs)


def main(total_steps: int = 100_000, run_dir: str | None = None) -> float:
    """Trains with the preset of Pendulum-v1; the return of the final policy."""
    agent = pg.ActorCritic(jax.ShapeDtypeStruct((3,), jnp.float32), init, policy, value)
    run = pg.train("ppo", env="Pendulum-v1", agent=agent, total_steps=total_steps, run_dir=run_dir)
    return run.result["eval/mean_reward"]


if __name__ == "__main__":
    print(f"return {main():.1f}")
