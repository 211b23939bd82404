"""Acting: T batched steps of policy and environment, as one scan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from policy_gradients.environments.base import Environment, EnvState
from policy_gradients.estimation.normalization import NormalizationConfig, Statistics, normalize_obs
from policy_gradients.types import ActorCritic, Array, Key, Metrics, Obs, Params, Transition

WINDOW = 100
"""Episodes behind `rollout/ep_rew_mean` (Stable-Baselines3's window)."""


class EpisodeWindow(NamedTuple):
    """Raw return and length of each environment's running episode, and of the last 100 that finished."""

    running_return: Array  # [N]
    running_length: Array  # int32 [N]
    returns: Array  # [100], a ring
    lengths: Array  # [100]
    finished: Array  # int32: episodes finished so far


class Carry(NamedTuple):
    """What one iteration leaves to the next, beside the learner: the environments and where they stand."""

    env_state: EnvState
    obs: Obs
    episodes: EpisodeWindow


def init_carry(env: Environment, key: Key) -> Carry:
    """The environments reset, and no episode finished.

    Where first episodes are cut short (`EnvironmentSpec.staggered`) their running return is NaN: they are not counted.
    """
    env_state, obs = env.reset(key)
    n = env.spec.num_envs
    window = EpisodeWindow(
        jnp.full(n, jnp.nan if env.spec.staggered else 0.0, jnp.float32), jnp.zeros(n, jnp.int32),
        jnp.zeros(WINDOW, jnp.float32), jnp.zeros(WINDOW, jnp.float32), jnp.zeros((), jnp.int32),
    )  # fmt: skip
    return Carry(env_state, obs, window)


def rollout(
    agent: ActorCritic,
    env: Environment,
    config: NormalizationConfig,
    num_steps: int,
    key: Key,
    params: Params,
    statistics: Statistics,
    carry: Carry,
) -> tuple[Carry, Transition]:
    """A trajectory [T, N] under the policy `params`, continuing from `carry`."""

    def step(at: tuple[EnvState, Obs], step_key: Key) -> tuple[tuple[EnvState, Obs], Transition]:
        env_state, obs = at
        distribution = agent.policy(params, normalize_obs(config, statistics, obs))
        action = distribution.sample(step_key)
        env_state, out = env.step(env_state, action)
        log_prob = distribution.log_prob(action)
        row = Transition(obs, action, log_prob, out.reward, out.final_obs, out.terminated, out.truncated, out.valid)
        return (env_state, out.obs), row

    keys = jax.random.split(key, num_steps)
    (env_state, obs), trajectory = jax.lax.scan(step, (carry.env_state, carry.obs), keys)
    return Carry(env_state, obs, _note_episodes(carry.episodes, trajectory)), trajectory


def _note_episodes(window: EpisodeWindow, trajectory: Transition) -> EpisodeWindow:
    """The window with a trajectory's episodes, from its valid rows' raw rewards; a return of NaN is left out."""
    done = (trajectory.terminated | trajectory.truncated) & trajectory.valid

    def step(running: tuple[Array, Array], row: tuple[Array, Array, Array]) -> tuple[tuple, tuple]:
        reward, end, valid = row
        total = running[0] + jnp.where(valid, reward, 0.0)
        length = running[1] + valid.astype(jnp.int32)
        return (jnp.where(end, 0.0, total), jnp.where(end, 0, length)), (total, length)

    running, (totals, lengths) = jax.lax.scan(
        step, (window.running_return, window.running_length), (trajectory.reward, done, trajectory.valid), unroll=8
    )
    ends = (done & ~jnp.isnan(totals)).reshape(-1)
    rank = jnp.cumsum(ends, dtype=jnp.int32) - 1  # 0, 1, … among this trajectory's episodes, oldest first
    count = rank[-1] + 1
    kept = ends & (rank >= count - WINDOW)  # of more than 100, the latest: no slot is written twice
    slot = jnp.where(kept, (window.finished + rank) % WINDOW, WINDOW)
    return EpisodeWindow(
        *running,
        window.returns.at[slot].set(totals.reshape(-1), mode="drop"),
        window.lengths.at[slot].set(lengths.reshape(-1).astype(jnp.float32), mode="drop"),
        window.finished + count,
    )


def rollout_metrics(before: EpisodeWindow, after: EpisodeWindow, trajectory: Transition) -> Metrics:
    """What the rollout tells of the policy: episodes in raw reward, and the share of rows that count.

    Means over episodes are NaN until one has finished.
    """
    full = jnp.arange(WINDOW) < after.finished
    n = jnp.sum(full, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(full, after.returns, 0.0)) / n
    done = (trajectory.terminated | trajectory.truncated) & trajectory.valid
    ends = jnp.sum(done, dtype=jnp.float32)
    cut = jnp.sum(done & ~trajectory.terminated, dtype=jnp.float32)
    return {
        "rollout/ep_rew_mean": mean,
        "rollout/ep_rew_std": jnp.sqrt(jnp.sum(jnp.where(full, (after.returns - mean) ** 2, 0.0)) / n),
        "rollout/ep_len_mean": jnp.sum(jnp.where(full, after.lengths, 0.0)) / n,
        "rollout/episodes": (after.finished - before.finished).astype(jnp.float32),
        "rollout/truncated_fraction": cut / ends,
        "rollout/valid_fraction": jnp.mean(trajectory.valid, dtype=jnp.float32),
    }
