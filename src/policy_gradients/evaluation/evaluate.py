"""Playing whole episodes with a fixed policy: one compiled program, for simulators inside and outside of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients import compilation
from policy_gradients.environments.base import Environment, EnvState
from policy_gradients.environments.host import with_cause
from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import NormalizationConfig, Statistics, normalize_obs
from policy_gradients.types import ActorCritic, Array, Key, Obs, Params

LONGEST_EPISODE = 27_000
"""Steps granted to an episode where the environment states no limit: 108,000 Atari frames, or half an hour of play."""


class Episodes(NamedTuple):
    """The first k episodes of each of N environments, in the order in which they ended; NumPy arrays.

    Attributes:
        returns: Undiscounted sum of raw rewards; NaN for an episode that was not finished  [N, k].
        lengths: Environment steps; 0 for an episode that was not finished                  [N, k].
        truncated: Cut by a limit of the environment rather than ended by itself            [N, k].
    """

    returns: Any
    lengths: Any
    truncated: Any


Evaluator: TypeAlias = Callable[[Key, Params, Statistics, Any], Episodes]


class _Progress(NamedTuple):
    """What the loop carries: where the environments stand, their running episodes, and the finished ones."""

    step: Array  # int32: batched steps taken
    env_state: EnvState
    obs: Obs
    running_return: Array  # [N]
    running_length: Array  # int32 [N]
    finished: Array  # int32 [N]: episodes that are in `episodes`
    episodes: Episodes


def make_evaluator(
    agent: ActorCritic,
    env: Environment,
    normalization: NormalizationConfig,
    episodes: int,
    max_steps: int | None = None,
) -> Evaluator:
    """A function that plays exactly `episodes` episodes in each environment, from a fresh reset.

    Every environment plays its own fixed number. Stopping after so many episodes in all would count the short ones
    first. Observations are normalised as in training, by statistics that stay as they are.

    Args:
        agent: The networks.
        env: Environments of the evaluation's own; N of them.
        normalization: How observations were normalised in training.
        episodes: k, episodes per environment.
        max_steps: Batched steps after which evaluation stops, finished or not; None for as many as the environment's
            limit, or else `LONGEST_EPISODE`, allows.

    Returns:
        `evaluate(key, params, statistics, deterministic) -> Episodes`. `deterministic` says which environments act by
        the distribution's mode rather than by a draw: one bool, or one for each [N]. It is compiled once, on the first
        call, and raises what a simulator raised, not XLA's report of it.

    Raises:
        UserError: `episodes` or `max_steps` is below 1.
    """
    for name, value in (("episodes", episodes), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise UserError(f"An evaluation's {name} must be 1 or more, not {value}.")
    limit = env.spec.max_episode_steps or LONGEST_EPISODE
    # One step more per episode: a simulator that resets on the next step spends a dummy row on it.
    most = episodes * (limit + 1) if max_steps is None else max_steps

    @partial(jax.jit, compiler_options=compilation.for_few_runs())
    def play(key: Key, params: Params, statistics: Statistics, deterministic: Array) -> Episodes:
        reset_key, action_key = jax.random.split(key)

        def unfinished(at: _Progress) -> Array:
            return (at.step < most) & jnp.any(at.finished < episodes)

        def step(at: _Progress) -> _Progress:
            distribution = agent.policy(params, normalize_obs(normalization, statistics, at.obs))
            drawn = distribution.sample(jax.random.fold_in(action_key, at.step))
            chosen = deterministic.reshape(-1, *(1,) * (drawn.ndim - 1))
            env_state, out = env.step(at.env_state, jnp.where(chosen, distribution.mode(), drawn))
            return _note(at._replace(env_state=env_state, obs=out.obs), out, episodes)

        start = _start(*env.reset(reset_key), env.spec.num_envs, episodes)
        return jax.lax.while_loop(unfinished, step, start).episodes

    def evaluate(key: Key, params: Params, statistics: Statistics, deterministic: Any) -> Episodes:
        mask = np.broadcast_to(np.asarray(deterministic, bool), env.spec.num_envs)
        return jax.device_get(with_cause(play, key, params, statistics, mask))

    return evaluate


def _start(env_state: EnvState, obs: Obs, n: int, k: int) -> _Progress:
    def zeros(dtype: Any, *shape: int) -> Array:
        return jnp.zeros(shape, dtype)

    none = Episodes(jnp.full((n, k), jnp.nan, jnp.float32), zeros(jnp.int32, n, k), zeros(jnp.bool_, n, k))
    return _Progress(
        zeros(jnp.int32), env_state, obs, zeros(jnp.float32, n), zeros(jnp.int32, n), zeros(jnp.int32, n), none
    )


def _note(at: _Progress, out: Any, k: int) -> _Progress:
    """The progress with one step more; rows that are not valid, and episodes beyond the k-th, leave no trace."""
    total = at.running_return + jnp.where(out.valid, out.reward, 0.0)
    length = at.running_length + out.valid.astype(jnp.int32)
    done = (out.terminated | out.truncated) & out.valid
    slot = jnp.where(done, at.finished, k)  # slots from k on do not exist: what is put there is dropped
    rows = jnp.arange(slot.shape[0])

    def put(kept: Array, new: Array) -> Array:
        return kept.at[rows, slot].set(new, mode="drop")

    returns, lengths, truncated = at.episodes
    return at._replace(
        step=at.step + 1,
        running_return=jnp.where(done, 0.0, total),
        running_length=jnp.where(done, 0, length),
        finished=at.finished + done.astype(jnp.int32),
        episodes=Episodes(put(returns, total), put(lengths, length), put(truncated, out.truncated & ~out.terminated)),
    )


def eval_metrics(episodes: Episodes, deterministic: Any) -> dict[str, float]:
    """What evaluation tells, by the names of docs/metrics.md.

    Means are over finished episodes and NaN where none was. The metrics of a kind of policy that no environment played
    are absent. `eval/episodes` counts the episodes behind `eval/mean_reward`, or behind the stochastic mean alone.

    Args:
        episodes: As an evaluator returned them.
        deterministic: The flags that it was given.
    """
    mask = np.broadcast_to(np.asarray(deterministic, bool), len(episodes.returns))
    metrics = {}
    if not mask.all():
        returns, _ = _finished(episodes, ~mask)
        metrics |= {"eval/stochastic_mean_reward": _mean(returns), "eval/episodes": float(returns.size)}
    if mask.any():
        returns, lengths = _finished(episodes, mask)
        metrics |= {
            "eval/mean_reward": _mean(returns),
            "eval/std_reward": float(returns.std()) if returns.size else np.nan,
            "eval/mean_ep_length": _mean(lengths),
            "eval/episodes": float(returns.size),
        }
    return metrics


def _finished(episodes: Episodes, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths, float64, of the finished episodes of some environments."""
    returns, lengths = (np.asarray(array, np.float64)[mask] for array in (episodes.returns, episodes.lengths))
    return returns[lengths > 0], lengths[lengths > 0]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan
