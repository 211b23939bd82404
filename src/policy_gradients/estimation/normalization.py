"""Running statistics, and the three normalisers made of them: observations, rewards, values.

Statistics are part of the learner's state and advance once per update, last: the policy that acted and the policy that
learns saw the same inputs, so before the first gradient step every probability ratio is 1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from policy_gradients.types import Transition

_WORD = 1 << 30  # one int32 word of a Count
_EPSILON = 1e-8  # added to every variance before its root


class Count(NamedTuple):
    """A whole number past 2³¹, exact in two int32 words (a float32 stops counting at 2²⁴): high · 2³⁰ + low."""

    high: Int[Array, ""]
    low: Int[Array, ""]

    @classmethod
    def zero(cls) -> "Count":
        return cls(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, n: Int[Array, ""]) -> "Count":
        """This count plus n, 0 ≤ n < 2³⁰."""
        low = self.low + n
        return Count(self.high + low // _WORD, low % _WORD)

    def as_float(self) -> Float[Array, ""]:
        """The count rounded to float32, for ratios and reports."""
        return self.high.astype(jnp.float32) * _WORD + self.low.astype(jnp.float32)

    def __int__(self) -> int:
        return int(self.high) * _WORD + int(self.low)


class Moments(NamedTuple):
    """Mean and (population) variance of all rows seen so far, per coordinate; 0 and 1 before the first."""

    count: Count  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: Float[Array, "*shape"]
    var: Float[Array, "*shape"]


def init_moments(shape: tuple[int, ...]) -> Moments:
    """The statistics of nothing: normalising with them is the identity."""
    return Moments(Count.zero(), jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))


def update_moments(moments: Moments, rows: Float[Array, "*rows_and_shape"], valid: Bool[Array, "*rows"]) -> Moments:
    """Statistics of the rows seen before together with these; rows that are not valid are not there, NaN or not.

    Merged in the ratio form of Chan et al. (1979), which keeps float32 accurate however long the run:
        m = m_a + Δ n_b/n,   v = v_a n_a/n + v_b n_b/n + Δ² n_a n_b/n²
    """
    axes = tuple(range(valid.ndim))
    weight = valid.reshape(*valid.shape, *(1,) * (rows.ndim - valid.ndim))
    added = jnp.sum(valid, dtype=jnp.int32)
    n = jnp.maximum(added, 1).astype(jnp.float32)
    mean = jnp.sum(jnp.where(weight, rows, 0.0), axis=axes) / n
    centred = jnp.where(weight, rows - mean.reshape((1,) * valid.ndim + mean.shape), 0.0)
    var = jnp.sum(centred * centred, axis=axes) / n
    count = moments.count.add(added)
    share = jnp.where(added > 0, n / jnp.maximum(count.as_float(), 1.0), 0.0)
    delta = mean - moments.mean
    return Moments(
        count,
        moments.mean + delta * share,
        moments.var * (1.0 - share) + var * share + delta * delta * share * (1.0 - share),
    )


def normalize(moments: Moments, rows: Float[Array, "*rows_and_shape"], clip: float) -> Float[Array, "*rows_and_shape"]:
    """(x − mean) / std, then clipped to [−clip, clip]."""
    lead = (1,) * (rows.ndim - moments.mean.ndim)
    mean, std = moments.mean, jnp.sqrt(moments.var + _EPSILON)
    scaled = (rows - mean.reshape(lead + mean.shape)) / std.reshape(lead + std.shape)
    return jnp.clip(scaled, -clip, clip)


class RewardScale(NamedTuple):
    """Running discounted return of each environment, and the statistics of its values."""

    running_return: Float[Array, " N"]
    moments: Moments

    @property
    def std(self) -> Float[Array, ""]:
        """What rewards are divided by; 1 until the first update. The mean is never subtracted: signs stay."""
        return jnp.sqrt(self.moments.var + _EPSILON)


def update_reward_scale(
    scale: RewardScale,
    reward: Float[Array, "T N"],
    done: Bool[Array, "T N"],
    valid: Bool[Array, "T N"],
    gamma: float | Float[Array, ""],
) -> RewardScale:
    """Carries R ← γ R + r through the trajectory, noting every R, then sets it to 0 where an episode ended."""

    def step(running: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        r, end, ok = row
        returns = jnp.where(ok, gamma * running + jnp.where(ok, r, 0.0), running)
        return jnp.where(end & ok, 0.0, returns), returns

    running, returns = jax.lax.scan(step, scale.running_return, (reward, done, valid), unroll=8)
    return RewardScale(running, update_moments(scale.moments, returns, valid))


@dataclass(frozen=True)
class NormalizationConfig:
    """What is normalised, for every algorithm.

    Attributes:
        obs: Observations by running mean and variance. Ignored for uint8, which networks divide by 255.
        obs_clip: Bound of a normalised coordinate, in standard deviations (10 is the field's usual value).
        reward: Divide rewards by the running standard deviation of the discounted return (arXiv 2005.12729, §3).
        reward_clip: Bound of a reward so divided (10 as in Stable-Baselines3): after a rollout without rewards the
            deviation is next to 0, and the first reward would be thousands.
        reward_scale: Constant factor on rewards before that (rl_games trains MuJoCo with 0.1 and `value`).
        value: Train the critic on targets normalised by their running mean and variance (arXiv 2006.05990, C66).
            Not together with `reward`. The critic's outputs rescale with the statistics of one update earlier.
    """

    obs: bool = True
    obs_clip: float = 10.0
    reward: bool = True
    reward_clip: float = 10.0
    reward_scale: float = 1.0
    value: bool = False


class Statistics(NamedTuple):
    """The statistics of a learner; None where a normaliser is off."""

    obs: Moments | None
    reward: RewardScale | None
    value: Moments | None


def init_statistics(config: NormalizationConfig, obs: jax.ShapeDtypeStruct, num_envs: int) -> Statistics:
    """The statistics of a learner that has seen nothing; `obs` is the shape and dtype of one observation."""
    floats = jnp.issubdtype(obs.dtype, jnp.floating)
    return Statistics(
        obs=init_moments(obs.shape) if config.obs and floats else None,
        reward=RewardScale(jnp.zeros(num_envs, jnp.float32), init_moments(())) if config.reward else None,
        value=init_moments(()) if config.value else None,
    )


def normalize_obs(
    config: NormalizationConfig, statistics: Statistics, obs: Shaped[Array, "*shape"]
) -> Shaped[Array, "*shape"]:
    """What networks see of an observation; the observation itself where observations are not normalised."""
    return obs if statistics.obs is None else normalize(statistics.obs, obs, config.obs_clip)


def scale_reward(
    config: NormalizationConfig, statistics: Statistics, reward: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """What the critic and the advantages see of a reward."""
    scaled = reward * config.reward_scale
    if statistics.reward is None:
        return scaled
    return jnp.clip(scaled / statistics.reward.std, -config.reward_clip, config.reward_clip)


def denormalize_value(statistics: Statistics, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A critic's output in units of the (scaled) return."""
    if statistics.value is None:
        return value
    return value * jnp.sqrt(statistics.value.var + _EPSILON) + statistics.value.mean


def normalize_value(statistics: Statistics, target: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A target, in units of the (scaled) return, in units of the critic's output."""
    if statistics.value is None:
        return target
    return (target - statistics.value.mean) / jnp.sqrt(statistics.value.var + _EPSILON)


def normalize_transition(config: NormalizationConfig, statistics: Statistics, trajectory: Transition) -> Transition:
    """The trajectory as networks and advantages see it: observations normalised, rewards scaled.

    Rows that are not valid become zeros: a NaN in one would survive a mask in the gradient, as 0 · NaN.
    """

    def clean(rows: Array) -> Array:
        weight = trajectory.valid.reshape(*trajectory.valid.shape, *(1,) * (rows.ndim - trajectory.valid.ndim))
        return jnp.where(weight, rows, jnp.zeros_like(rows))

    return trajectory._replace(
        obs=clean(normalize_obs(config, statistics, trajectory.obs)),
        action=clean(trajectory.action),
        log_prob=clean(trajectory.log_prob),
        reward=clean(scale_reward(config, statistics, trajectory.reward)),
        next_obs=clean(normalize_obs(config, statistics, trajectory.next_obs)),
    )


def advance(
    config: NormalizationConfig,
    statistics: Statistics,
    trajectory: Transition,
    target: Float[Array, "T N"],
    gamma: float | Float[Array, ""],
) -> Statistics:
    """The statistics with one trajectory more, to be called last in an update.

    Args:
        config: What is normalised.
        statistics: Those that the update used.
        trajectory: As collected, unscaled.
        target: The critic's targets R̂ in units of the (scaled) return.
        gamma: Discount of the running return that scales rewards.
    """
    valid, done = trajectory.valid, trajectory.terminated | trajectory.truncated
    obs, reward, value = statistics
    if obs is not None:
        obs = update_moments(obs, trajectory.obs, valid)
    if reward is not None:
        reward = update_reward_scale(reward, trajectory.reward * config.reward_scale, done, valid, gamma)
    if value is not None:
        value = update_moments(value, target, valid)
    return Statistics(obs, reward, value)
