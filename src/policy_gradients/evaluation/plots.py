"""Pictures of learning curves."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from policy_gradients.errors import UserError, suggest
from policy_gradients.evaluation.curves import Band, Curve, Group, RunLog, average, group_runs, read_run

_TRAINING, _DETERMINISTIC, _SAMPLED = "rollout/ep_rew_mean", "eval/mean_reward", "eval/stochastic_mean_reward"
_STEPS = "time/total_timesteps"
# Okabe and Ito's colours, told apart by colour-blind eyes too; black and yellow left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#666666"
_NAMES = {
    _TRAINING: "return of an episode",
    _DETERMINISTIC: "return of an episode, deterministic evaluation",
    _STEPS: "environment steps",
    "time/time_elapsed": "seconds",
    "time/iterations": "updates",
}


def plot_runs(run_dirs: Sequence[str | Path], out: str | Path, x: str = _STEPS, y: str | None = None) -> None:
    """Draws the learning curves of runs into a picture.

    One panel for each environment. A single run shows its training return, faint, and its evaluations. Runs that differ
    only in their seed become a mean and the bootstrap interval of the mean, with every seed faint behind it; other runs
    get a colour each.

    Args:
        run_dirs: Folders of runs, finished or not.
        out: The picture; its ending says the format (png, svg, pdf).
        x: Metric on the horizontal axis.
        y: Metric to show; None for the return: of deterministic evaluations where all runs have some, else in training.

    Raises:
        UserError: A folder is not a run's, no run has the metric, or the picture cannot be written.
    """
    runs = [read_run(folder) for folder in run_dirs]
    if not runs:
        raise UserError("There is no run to plot; give the folder of at least one.")
    _check_metrics(runs, x, y)
    panels = {run.env_id: [other for other in runs if other.env_id == run.env_id] for run in runs}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a style of the user's would not go with what is set below
        figure = _figure(panels, x, y)
        save_picture(figure, Path(out))


def _figure(panels: dict[str, list[RunLog]], x: str, y: str | None) -> Figure:
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1 + 7 * columns, 0.4 + 4.4 * rows), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)  # type: ignore[union-attr]
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    colours: dict[str, str] = {}  # of a group's name, the same in every panel
    for each, (env_id, runs) in zip(axes, panels.items(), strict=False):
        groups = group_runs(runs)
        shown = y or _common_return(runs, x)
        if y is None and len(runs) == 1:
            _draw_run(each, runs[0], x)
            shown = _TRAINING
        else:
            for group in groups:
                colours.setdefault(group.label, COLOURS[len(colours) % len(COLOURS)])
            _draw_groups(each, groups, colours, x, shown)
        _dress(each, env_id, runs, x, shown)
    if any(len(group.runs) > 1 for runs in panels.values() for group in group_runs(runs)):
        note = "Lines are means over seeds, bands 95 % bootstrap intervals of the mean; thin lines are single seeds."
        figure.supxlabel(note, fontsize=9, color=GREY)
    return figure


def _draw_run(axes: Axes, run: RunLog, x: str) -> None:
    """Training faint, deterministic evaluation strong, sampled evaluation dashed."""
    colour = COLOURS[0]
    ends = []
    for metric, name, style in (
        (_TRAINING, "training", {"color": colour, "alpha": 0.35, "linewidth": 1.2}),
        (_SAMPLED, "sampled\nevaluation", {"color": COLOURS[1], "linewidth": 1.2, "linestyle": (0, (4, 2))}),
        (_DETERMINISTIC, "deterministic\nevaluation", {"color": colour, "linewidth": 2.2}),
    ):
        curve = run.curve(x, metric)
        if curve.x.size:
            axes.plot(*curve, **style, **_dots(curve.x, 1 if metric == _TRAINING else 59))
            ends.append((curve.y[-1], name, style["color"], style.get("alpha", 1.0)))
    _label_ends(axes, ends)


def _draw_groups(axes: Axes, groups: Sequence[Group], colours: Mapping[str, str], x: str, y: str) -> None:
    ends = []
    for group in groups:
        colour = colours[group.label]
        curves = [curve for run in group.runs if (curve := run.curve(x, y)).x.size]
        if curves:
            band = _drawn_average(axes, curves, colour)
            ends.append((band.mean[-1], group.label, colour, 1.0))
    _label_ends(axes, ends if len(groups) > 1 else [])


def _drawn_average(axes: Axes, curves: Sequence[Curve], colour: str) -> Band:
    overlap = max(curve.x[0] for curve in curves) <= min(curve.x[-1] for curve in curves)
    band = average(curves if overlap else curves[:1])
    if len(curves) > 1:
        for curve in curves:
            axes.plot(*curve, color=colour, alpha=0.25, linewidth=0.8, **_dots(curve.x))
        edge = 4 if band.x.size == 1 else 0  # a band of one point has no area
        axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=edge)
    axes.plot(band.x, band.mean, color=colour, linewidth=2.2, **_dots(band.x))
    return band


def _dots(x: np.ndarray, most: int = 1) -> dict[str, Any]:
    """Dots at the points of a curve of at most so many: a line through one point would not be seen."""
    return {"marker": "o", "markersize": 3.5} if x.size <= most else {}


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str, float]]) -> None:
    """Names curves at their right ends, at least a line of text apart."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    order = sorted(ends)
    places = [(value - low) / (high - low) for value, *_ in order]
    gaps = [0.045 * (1 + text.count("\n")) + 0.01 for _, text, *_ in order]
    for _ in range(50):  # neighbours push each other apart until none overlap
        for i in range(1, len(places)):
            wanted = (gaps[i - 1] + gaps[i]) / 2
            push = max(0.0, wanted - (places[i] - places[i - 1])) / 2
            places[i - 1], places[i] = places[i - 1] - push, places[i] + push
    for (_, text, colour, alpha), place in zip(order, places, strict=True):
        strong = min(1.0, alpha + 0.4)
        axes.text(1.01, place, text, transform=axes.transAxes, color=colour, alpha=strong, va="center", fontsize=9)


def _dress(axes: Axes, env_id: str, runs: Sequence[RunLog], x: str, y: str) -> None:
    """Title, axes and caption."""
    algorithms = dict.fromkeys(run.algorithm.upper() for run in runs)
    title = " · ".join([", ".join(algorithms), env_id, _seeds(runs)])
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    end = axes.dataLim.x1 if math.isfinite(axes.dataLim.x1) else 1.0
    axes.set_xlim(0, 1.01 * end)
    name = _NAMES.get(x, x)
    if x == _STEPS:
        unit, word = (1e6, "millions") if end >= 1e6 else (1e3, "thousands")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / unit:g}")
        name = f"{name} ({word})"
    axes.set_xlabel(f"{name}\n{_caption(runs)}", fontsize=9, linespacing=1.8, color=GREY)
    axes.set_ylabel(_NAMES.get(y, y), fontsize=9, color=GREY)
    plain_axes(axes)


def plain_axes(axes: Axes) -> None:
    """A faint grid, no frame but the foot, and numbers with their thousands apart."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}" if abs(value) < 1e6 else f"{value:.3g}")
    axes.tick_params(labelsize=9, colors=GREY, length=0)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#BBBBBB")


def _caption(runs: Sequence[RunLog]) -> str:
    """How long it took, how fast it ran, and where a single run ended."""
    parts = []
    steps, elapsed = ([run.last(name) for run in runs] for name in (_STEPS, "time/time_elapsed"))
    if np.isfinite(steps).any() and np.isfinite(elapsed).any():
        each = " each" if len(runs) > 1 else ""
        parts.append(f"{np.nanmax(steps):,.0f} steps in {_clock(float(np.nanmedian(elapsed)))}{each}")
    fps = [run.last("time/fps") for run in runs]
    if np.isfinite(fps).any():
        parts.append(f"{np.nanmedian(fps):,.0f} steps/s")
    score = runs[0].last(_DETERMINISTIC)
    if len(runs) == 1 and math.isfinite(score):
        parts.append(f"last evaluation {score:,.1f} ± {runs[0].last('eval/std_reward'):,.1f}")
    return " · ".join(parts)


def _seeds(runs: Sequence[RunLog]) -> str:
    """ "seed 3", "seeds 0–4" or "seeds 1, 5, 7"."""
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    if len(seeds) < 2:
        return f"seed {seeds[0]}" if seeds else "seed unknown"
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]}–{seeds[-1]}"
    return "seeds " + ", ".join(map(str, seeds)) if len(seeds) <= 6 else f"{len(seeds)} seeds"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d} h" if hours else f"{minutes}:{seconds:02d} min"


def _common_return(runs: Sequence[RunLog], x: str) -> str:
    return _DETERMINISTIC if all(run.curve(x, _DETERMINISTIC).x.size for run in runs) else _TRAINING


def _check_metrics(runs: Sequence[RunLog], x: str, y: str | None) -> None:
    known = {name for run in runs for row in run.rows for name in row}
    for name in filter(None, (x, y)):
        if name not in known:
            raise UserError(f"No run has logged {name!r}.{suggest(name, known)}")
    shown = (y,) if y else (_TRAINING, _DETERMINISTIC, _SAMPLED)
    for run in runs:
        if not any(run.curve(x, name).x.size for name in shown):
            raise UserError(f"{run.path} has no {' or '.join(shown)} to plot yet; let it run until an episode ends.")


def save_picture(figure: Figure, out: Path) -> None:
    """The picture at `out`, whole or not at all."""
    picture: Any = io.BytesIO()
    partial = out.with_name(f".{out.name}.partial")
    try:
        figure.savefig(picture, format=out.suffix.lstrip(".") or "png")
        partial.write_bytes(picture.getvalue())
        partial.replace(out)
    except ValueError:
        raise UserError(f"{out}: pictures can be .png, .svg or .pdf, not {out.suffix!r}.") from None
    except OSError as error:
        raise UserError(f"{out}: the picture cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
