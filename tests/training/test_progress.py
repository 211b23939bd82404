"""What a person sees of a run."""

import io
import math
import sys

import pytest

from policy_gradients.training import progress as shown
from policy_gradients.training.config import Experiment, LoggingConfig
from policy_gradients.training.progress import (
    BarProgress,
    LineProgress,
    SilentProgress,
    format_seconds,
    make_progress,
    short_count,
)


class Clock:
    """Time that stands still unless told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def bar(clock, total_steps=1000, width=160):
    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    return BarProgress(total_steps, console, clock), screen


METRICS = {"time/fps": 2000.0, "rollout/ep_rew_mean": 1312.46}


def test_a_line_says_steps_speed_times_return_and_evaluation(clock):
    lines = []
    progress = LineProgress(1_000_000, lines.append, clock)
    clock.now += 8
    progress.update(250_000, {**METRICS, "eval/mean_reward": 1420.1})
    assert lines == ["250k/1M steps · 2k steps/s · 0:08, 6:15 left · return 1,312.5 · eval 1,420.1"]


def test_a_return_that_nobody_knows_yet_is_not_shown(clock):
    lines = []
    LineProgress(1000, lines.append, clock).update(1, {"rollout/ep_rew_mean": math.nan})
    assert lines == ["1/1k steps · 0:00"]


def test_the_latest_evaluation_stays_in_sight_between_evaluations(clock):
    lines = []
    progress = LineProgress(1000, lines.append, clock)
    progress.update(1, {"eval/mean_reward": 7.0})
    clock.now += 100
    progress.update(500, {})
    assert lines[-1].endswith("eval 7.0")


def test_lines_are_neither_closer_than_five_seconds_nor_than_a_share_of_the_run(clock):
    lines = []
    progress = LineProgress(100_000, lines.append, clock)
    progress.update(1, {})
    clock.now += 4.9
    progress.update(50_000, {})
    assert len(lines) == 1
    clock.now += 0.1
    progress.update(50_001, {})
    assert len(lines) == 2
    clock.now += 100
    progress.update(50_002, {})
    assert len(lines) == 2


def test_the_last_step_always_has_its_line(clock):
    lines = []
    progress = LineProgress(1000, lines.append, clock)
    progress.update(999, {})
    progress.update(1000, {})
    assert [line.partition(" ")[0] for line in lines] == ["999/1k", "1k/1k"]


def test_messages_appear_at_once_as_lines(clock):
    lines = []
    LineProgress(1000, lines.append, clock).message("Film: run/video.mp4")
    assert lines == ["Film: run/video.mp4"]


def test_the_bar_is_redrawn_at_most_ten_times_a_second(clock):
    progress, screen = bar(clock)
    progress.update(1, METRICS)
    drawn = len(screen.getvalue())
    for step in range(2, 50):
        progress.update(step, METRICS)
    assert len(screen.getvalue()) == drawn
    clock.now += 0.1
    progress.update(50, METRICS)
    assert len(screen.getvalue()) > drawn
    progress.close()


def test_the_bar_shows_the_standing_and_ends_on_the_last_one(clock):
    progress, screen = bar(clock)
    progress.update(1, METRICS)
    progress.update(2, {**METRICS, "eval/mean_reward": 3.0})
    progress.close()
    assert "1/1k steps · 2k steps/s" in screen.getvalue()
    assert "2/1k steps" in screen.getvalue() and "eval 3.0" in screen.getvalue()


def test_a_terminal_of_80_columns_shows_the_whole_text(clock):
    progress, screen = bar(clock, total_steps=1_000_000, width=80)
    clock.now += 3599
    progress.update(123_456, {**METRICS, "time/fps": 15_321.0, "eval/mean_reward": 1420.1})
    progress.close()
    assert "123k/1M steps · 15.3k steps/s · 59:59, 0:57 left · return 1,312.5 · eval 1,420.1" in screen.getvalue()


def test_messages_scroll_above_the_bar_with_brackets_left_alone(clock):
    progress, screen = bar(clock)
    progress.message("pip install 'x[video]'")
    progress.close()
    assert "pip install 'x[video]'" in screen.getvalue()


def test_a_step_beyond_the_total_does_not_break_the_bar(clock):
    progress, screen = bar(clock, total_steps=100)
    progress.update(128, METRICS)
    progress.close()
    assert "128/100 steps" in screen.getvalue()


class Gone(io.StringIO):
    """A terminal, or a log, that nobody reads any more; or one whose disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_a_run_goes_on_when_nobody_can_be_told(clock, error):
    """Else the Ctrl-C that ends `tee` in `train | tee log` would cost all since the last checkpoint."""
    from rich.console import Console

    gone = Gone(error)
    console = Console(file=gone, force_terminal=True, color_system=None)
    for progress in (LineProgress(1000, gone.write, clock), BarProgress(1000, console, clock)):
        progress.update(1, METRICS)
        progress.message("Film: run/video.mp4")
        clock.now += 100
        progress.update(1000, METRICS)
        progress.close()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (512, "512"), (999, "999"), (999.6, "1k"), (12_288, "12.3k"), (999_999, "1M"), (2.5e9, "2.5G")],
)
def test_counts_have_three_digits_and_a_unit(number, text):
    assert short_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (8.4, "0:08"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_seconds_read_like_a_clock(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("kind", "terminal", "made"),
    [
        ("auto", True, BarProgress),
        ("auto", False, LineProgress),
        ("bar", False, BarProgress),
        ("lines", True, LineProgress),
        ("none", True, SilentProgress),
    ],
)
def test_a_bar_is_for_terminals_unless_something_else_is_asked_for(tmp_path, monkeypatch, kind, terminal, made):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.delenv("TERM", raising=False)
    progress = make_progress(Experiment(logging=LoggingConfig(progress=kind)), tmp_path)
    progress.close()
    assert type(progress) is made


def test_a_terminal_that_cannot_redraw_gets_lines(tmp_path, monkeypatch):
    """rich would show its bar at the end of the run and nothing before."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_progress(Experiment(), tmp_path)) is LineProgress


def test_silent_progress_says_nothing(capsys):
    progress = shown.SilentProgress()
    progress.update(1, METRICS)
    progress.message("hello")
    progress.close()
    assert capsys.readouterr() == ("", "")
