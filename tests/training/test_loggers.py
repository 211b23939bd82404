"""Metrics on disk."""

import json
import math
import sys
import time
import types

import pytest

from policy_gradients.errors import UserError
from policy_gradients.training.config import Experiment, LoggingConfig
from policy_gradients.training.loggers import JsonlLogger, check_loggers, make_loggers, read_metrics


def metrics(update: int, **more: float) -> dict[str, float]:
    return {"time/iterations": update, "time/total_timesteps": update * 100, **more}


def logged(path, updates, start: int = 0) -> None:
    logger = JsonlLogger(path, start)
    for update in updates:
        logger.log(update, metrics(update))
    logger.close()


def updates_in(path) -> list[float]:
    return [row["time/iterations"] for row in read_metrics(path)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_every_update_is_one_json_object_on_one_line(path):
    logged(path, [1, 2])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [metrics(1), metrics(2)]


def test_a_line_is_on_disk_before_the_next_update_begins(path):
    logger = JsonlLogger(path)
    logger.log(1, metrics(1))
    assert updates_in(path) == [1]
    logger.close()


def test_floats_come_back_to_the_last_bit(path):
    value = math.pi * 1e-5
    logger = JsonlLogger(path)
    logger.log(1, metrics(1, x=value))
    logger.close()
    assert read_metrics(path)[0]["x"] == value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_left_out(path, bad):
    logger = JsonlLogger(path)
    logger.log(1, metrics(1, x=bad))
    logger.close()
    assert read_metrics(path) == [metrics(1)]


def test_resuming_drops_what_lies_beyond_the_resumed_update(path):
    logged(path, [1, 2, 3, 4])
    logged(path, [3], start=2)
    assert updates_in(path) == [1, 2, 3]


def test_a_line_cut_off_by_a_crash_is_no_row_and_is_overwritten_on_resume(path):
    logged(path, [1, 2])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"time/iterations": 3, "time/tot')
    assert updates_in(path) == [1, 2]
    logged(path, [3], start=3)
    assert updates_in(path) == [1, 2, 3]


def test_a_last_line_without_its_newline_counts_as_cut_off(path):
    logged(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-1])
    logged(path, [2], start=2)
    assert updates_in(path) == [1, 2]


def test_no_file_is_no_rows(path):
    assert read_metrics(path) == []


def test_a_folder_that_is_not_there_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"Cannot write .*metrics.jsonl: No such file"):
        JsonlLogger(tmp_path / "missing" / "metrics.jsonl")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_a_full_disk_is_a_user_error(path):
    path.symlink_to("/dev/full")
    logger = JsonlLogger(path)
    with pytest.raises(UserError, match=r"Cannot write .*No space left"):
        logger.log(1, metrics(1))
    logger.close()


def test_logging_thirty_metrics_costs_microseconds(path):
    row = metrics(1, **{f"train/metric_{i}": i / 7 for i in range(30)})
    logger = JsonlLogger(path)
    best = math.inf
    for _ in range(200):
        tick = time.perf_counter()
        logger.log(1, row)
        best = min(best, time.perf_counter() - tick)
    logger.close()
    assert best < 100e-6  # 30 µs here, a third of it the write


def test_tensorboard_without_tensorboardx_is_a_user_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"needs tensorboardX.*policy-gradients\[tensorboard\]"):
        check_loggers(Experiment(logging=LoggingConfig(tensorboard=True)))


class RecordingWriter:
    """Stands in for tensorboardX.SummaryWriter."""

    def __init__(self, logdir: str, purge_step: int | None = None) -> None:
        self.logdir, self.purge_step, self.points, self.closed = logdir, purge_step, [], False
        made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points.append((name, value, step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


made: list[RecordingWriter] = []


@pytest.fixture
def tensorboard(monkeypatch):
    made.clear()
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = RecordingWriter
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    return Experiment(logging=LoggingConfig(tensorboard=True))


def test_tensorboard_gets_finite_metrics_by_environment_steps_and_is_closed(tmp_path, tensorboard):
    with make_loggers(tensorboard, tmp_path) as loggers:
        loggers.log(1, metrics(1, x=0.5, y=math.nan))
    assert ("x", 0.5, 100) in made[0].points and made[0].closed
    assert not any(name == "y" for name, _, _ in made[0].points)
    assert read_metrics(tmp_path / "metrics.jsonl") == [metrics(1, x=0.5)]


def test_tensorboard_hides_what_lies_beyond_the_resumed_update(tmp_path, tensorboard):
    logged(tmp_path / "metrics.jsonl", [1, 2, 3])
    make_loggers(tensorboard, tmp_path, start=2).__exit__(None, None, None)
    make_loggers(tensorboard, tmp_path, start=0).__exit__(None, None, None)
    assert [each.purge_step for each in made] == [201, 1], "a run killed before its first checkpoint begins anew"


def test_a_run_does_not_go_on_behind_a_damaged_line(path):
    """The rows after it would be cut off, and nobody has them elsewhere."""
    logged(path, range(1, 6))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[3:]]))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics.jsonl, line 3: expected a row of metrics as JSON"):
        JsonlLogger(path, 5)
    assert path.read_bytes() == before
