"""The picture of a sweep."""

import numpy as np
import pytest

from policy_gradients.errors import UserError
from policy_gradients.evaluation import history
from policy_gradients.evaluation.history import plot_history


def test_the_line_is_the_best_so_far_and_trials_without_a_score_stand_at_the_foot(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(history, "save_picture", lambda figure, out: figures.append(figure))
    plot_history([(0, 3.0), (1, 5.0), (2, None), (3, 4.0)], tmp_path / "x.png", "title")
    best, each, ended = figures[0].axes[0].lines
    np.testing.assert_array_equal(best.get_ydata(), [3, 5, 5])
    np.testing.assert_array_equal(each.get_xdata(), [0, 1, 3])
    assert list(ended.get_xdata()) == [2]


def test_the_picture_is_written_or_a_sentence_says_why_not(tmp_path):
    plot_history([(0, 3.0)], tmp_path / "x.png", "title")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="the picture cannot be written"):
        plot_history([(0, 3.0)], tmp_path / "nowhere" / "x.png", "title")
