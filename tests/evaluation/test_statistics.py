"""Statistics against slow definitions."""

import itertools

import numpy as np
import pytest
from scipy import stats

from policy_gradients.evaluation.statistics import (
    bootstrap,
    interquartile_mean,
    mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 10, 31])
def test_the_interquartile_mean_is_the_trimmed_mean(n: int) -> None:
    scores = np.random.default_rng(n).standard_normal((3, n))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=-1))


def test_an_outlier_does_not_move_the_interquartile_mean() -> None:
    assert interquartile_mean(np.array([1.0, 2, 3, 1e9])) == 2.5


def test_the_interval_is_that_of_all_resamples() -> None:
    runs = [[1.0, 2.0, 4.0, 7.3], [10.0, 30.0, 17.1]]
    resamples = [
        np.mean([*first, *second])
        for first in itertools.product(runs[0], repeat=4)
        for second in itertools.product(runs[1], repeat=3)
    ]
    interval = bootstrap(runs, mean, confidence=0.8)
    expected = (71.4 / 7, np.quantile(resamples, 0.1), np.quantile(resamples, 0.9))
    np.testing.assert_allclose(interval, expected, atol=0.05)  # of a spread of 3: 50,000 draws


def test_the_bootstrap_keeps_tasks_apart() -> None:
    interval = bootstrap([[0.0] * 5, [100.0] * 5], mean, resamples=500)
    assert interval == (50, 50, 50)  # runs drawn across tasks would spread


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap([rng.standard_normal(40)], mean, confidence=0.9, resamples=400) for _ in range(400)]
    covered = np.mean([low <= 0 <= high for _, low, high in intervals])
    assert 0.85 < covered < 0.94  # a percentile interval of 40 runs covers a little less than 0.9


def test_the_bootstrap_repeats_itself_with_the_same_seed() -> None:
    scores = [np.random.default_rng(0).standard_normal(10)]
    assert bootstrap(scores, resamples=1500, seed=1) == bootstrap(scores, resamples=1500, seed=1)
    assert bootstrap(scores, resamples=1500, seed=1) != bootstrap(scores, resamples=1500, seed=2)


def test_probability_of_improvement_is_the_scaled_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 5, 7), rng.integers(1, 6, 4)) for _ in range(3)]  # integers: ties are many
    expected = np.mean([stats.mannwhitneyu(x, y).statistic / (x.size * y.size) for x, y in pairs])
    x, y = zip(*pairs, strict=True)
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)


def test_a_profile_is_the_share_of_runs_above_each_threshold() -> None:
    profile = performance_profile([[0.0, 1.0, 2.0, 3.0], [1.0, 5.0]], [-1.0, 0.0, 1.0, 4.0, 5.0])
    np.testing.assert_allclose(profile, [1, (3 / 4 + 1) / 2, (2 / 4 + 1 / 2) / 2, 1 / 4, 0])


def test_the_optimality_gap_ignores_what_exceeds_the_target() -> None:
    assert optimality_gap(np.array([0.5, 9.0])) == pytest.approx(0.25)
    assert optimality_gap(np.array([100.0, 300.0]), target=200) == pytest.approx(50)
