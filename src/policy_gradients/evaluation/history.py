"""The picture of a sweep: what each trial reached, and the best so far."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from policy_gradients.evaluation.plots import COLOURS, GREY, plain_axes, save_picture


def plot_history(trials: Sequence[tuple[int, float | None]], out: Path, title: str) -> None:
    """Draws the scores of trials in the order in which they began, and the best score so far as a line.

    Args:
        trials: Number and score of each; None for one without a score, which becomes a mark at the foot.
        out: The picture; its ending says the format (png, svg, pdf).
        title: Its title.

    Raises:
        UserError: The picture cannot be written.
    """
    scored = np.array([(number, score) for number, score in trials if score is not None], np.float64).reshape(-1, 2)
    without = [number for number, score in trials if score is None]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        best = np.maximum.accumulate(scored[:, 1])
        axes.step(scored[:, 0], best, where="post", color=COLOURS[0], linewidth=2.2, label="best so far")
        axes.plot(*scored.T, "o", color=COLOURS[1], markersize=4.5, label="a trial")
        if without:
            foot = axes.get_ylim()[0]
            axes.plot(without, [foot] * len(without), "|", color=GREY, markersize=9, label="ended early", clip_on=False)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.set_xlabel("trial", fontsize=9, color=GREY)
        axes.set_ylabel("return at the end, mean over seeds", fontsize=9, color=GREY)
        plain_axes(axes)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        save_picture(figure, out)
