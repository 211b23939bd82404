"""An environment of your own in JAX: a cart on a rail that has to stand at a random mark.

    python examples/custom_jax.py

Two pure functions over one copy; `autoreset` adds the batch, the time limit and the resets. Everything runs inside the
compiled program.
"""

import jax
import jax.numpy as jnp

import policy_gradients as pg
from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import box
from policy_gradients.environments.wrappers import rescale_actions


def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A cart at rest in the middle, and a mark. The state is (position, velocity, mark) and fully observed."""
    state = jnp.stack([0.0, 0.0, jax.random.uniform(key, minval=-1.0, maxval=1.0)])
    return state, state


def step(key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(state, obs, reward, terminated) after a force in [−2, 2]."""
    position, velocity, mark = state
    velocity = velocity + 0.1 * action[0]
    position = position + 0.1 * velocity
    state = jnp.stack([position, velocity, mark])
    return state, state, jnp.exp(-jnp.abs(position - mark)), jnp.abs(position) > 2.0


def make_parking(num_envs: int) -> pg.Environment:
    """`num_envs` copies; the policy draws from all of ℝ, and `rescale_actions` maps [−1, 1] to the bounds."""
    spec = pg.EnvironmentSpec(
        id="Parking-v0",
        engine="jax",
        num_envs=num_envs,
        obs_space=box(-jnp.inf, jnp.inf, (3,)),
        action_space=box(-2.0, 2.0, (1,)),
        obs_names=("position", "velocity", "mark"),
    )
    return rescale_actions(autoreset(spec, reset, step, max_episode_steps=100), "clip")


def main(total_steps: int = 200_000, run_dir: str | None = None) -> float:
    """Trains; the return of the final policy, at most 100."""
    steps = {"total_steps": total_steps, "evaluation": {"num_evaluations": 5}}
    run = pg.train("ppo", env="Parking-v0", make_env=make_parking, run_dir=run_dir, video=False, **steps)
    return run.result["eval/mean_reward"]


if __name__ == "__main__":
    print(f"return {main():.1f}")
