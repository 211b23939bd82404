"""Statistics of a few runs on a few tasks: interquartile mean, bootstrap intervals, performance profiles.

Scores are one sequence of runs per task (the tasks are the strata), already on a common scale where there are several.

References:
    Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (arXiv 2108.13264).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Scores: TypeAlias = Sequence[ArrayLike]  # [tasks][runs of that task]

_RESAMPLES_AT_ONCE = 1_000


class Interval(NamedTuple):
    """A statistic of the scores, and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return scores.mean(axis=-1)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the lowest and the highest quarter, each rounded down to whole scores.

    As robust as the median to outliers, and needs fewer runs for the same precision.
    """
    ordered = np.sort(scores, axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> np.ndarray:
    """Mean amount by which scores miss the target, over the last axis; what exceeds it counts for nothing."""
    return target - np.minimum(scores, target).mean(axis=-1)


def bootstrap(
    scores: Scores,
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 50_000,
    seed: int = 0,
) -> Interval:
    """A statistic over all scores, with its stratified percentile bootstrap interval.

    Every resample draws runs with replacement within each task, as many as the task has.

    Args:
        scores: Runs of each task.
        statistic: From scores [..., n] to [...]: `interquartile_mean`, `mean`, `optimality_gap`.
        confidence: Coverage, as a fraction.
        resamples: How many; 50,000 is the reference's number.
        seed: Of the draws.
    """
    tasks = [np.asarray(runs, np.float64) for runs in scores]
    rng = np.random.default_rng(seed)
    values = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        count = min(_RESAMPLES_AT_ONCE, resamples - start)
        drawn = [runs[rng.integers(0, runs.size, (count, runs.size))] for runs in tasks]
        values.append(statistic(np.concatenate(drawn, axis=-1)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return Interval(float(statistic(np.concatenate(tasks))), float(low), float(high))


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """P(X > Y) + ½ P(X = Y) for a run X of the first and a run Y of the other algorithm, mean over tasks."""
    chances = []
    for runs, rivals in zip(scores, others, strict=True):
        difference = np.subtract.outer(np.asarray(runs, np.float64), np.asarray(rivals, np.float64))
        chances.append(np.mean(difference > 0) + np.mean(difference == 0) / 2)
    return float(np.mean(chances))


def performance_profile(scores: Scores, thresholds: ArrayLike) -> np.ndarray:
    """Share of runs that score more than each threshold τ, mean over tasks  [τ]."""
    tau = np.asarray(thresholds, np.float64)
    return np.mean([np.mean(np.asarray(runs)[:, None] > tau, axis=0) for runs in scores], axis=0)
