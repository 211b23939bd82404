"""What a sweep keeps in Optuna: which settings were tried, what they returned on the way, and how each trial ended.

The study lives in a file of JSON lines (Optuna's journal storage, which executes nothing that it reads). A trial that a
kill cut off is still marked there as running, with its settings, and is repeated.
"""

import math
import os
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from policy_gradients.errors import UserError
from policy_gradients.training.space import Space

LAST_SHARE = 0.2
"""A run's score is the mean over this share of its returns, the last ones: steadier than the very last."""

STARTUP_TRIALS = 5
"""Trials that run to their end before there is a median to compare with (Optuna's default)."""


class Ended(Enum):
    """How a trial without a score ended."""

    STOPPED = "below the median"
    DIVERGED = "diverged"
    SILENT = "no episode finished"
    INVALID = "settings that do not go together"


class Outcome(NamedTuple):
    """A trial that has come to an end."""

    number: int
    settings: dict[tuple[str, ...], Any]
    score: float | None  # mean over seeds of the return at the end; None where the trial did not get there
    note: str  # why there is no score


Tell: TypeAlias = Callable[[Outcome, Outcome | None], None]


class RunningTrial:
    """A trial at work: where it reports, and what its seeds have returned so far.

    Args:
        trial: Optuna's.
        space: What it may change.
        ended: Called with the value or the state with which it ended.
    """

    def __init__(self, trial: Any, space: Space, ended: Callable[[float | None], None]) -> None:
        self.settings = {dimension.path: dimension.suggest(trial) for dimension in space}
        self.over = False
        self._trial, self._ended = trial, ended
        self._reported = set(trial.study.trials[trial.number].intermediate_values)  # if it is repeated
        self._stages: list[list[np.ndarray]] = []  # of each, by moment: one return for each seed
        self._step = 0

    def begin_stage(self) -> None:
        """Further seeds begin at the beginning."""
        self._stages.append([])

    def note(self, returns: np.ndarray) -> None:
        """Takes the returns of one moment, and ends the trial where they are below the median of others' there."""
        if self.over:
            return
        self._stages[-1].append(returns)
        step, self._step = self._step, self._step + 1
        value = float(np.mean(returns))
        if np.isneginf(returns).any():
            self.end(Ended.DIVERGED)
        if not math.isfinite(value):
            return
        if step not in self._reported:
            self._trial.report(value, step)
        if self._trial.should_prune():
            self.end(Ended.STOPPED)

    def finish(self) -> None:
        """All seeds are done: the score is the mean over them of what each returned at last."""
        if self.over:
            return
        scores = []
        for stage in self._stages:
            curve = np.stack(stage)
            tail = curve[-math.ceil(LAST_SHARE * len(curve)) :]
            scores += [seed[np.isfinite(seed)].mean() for seed in tail.T if np.isfinite(seed).any()]
        if scores:
            self.over = True
            self._ended(float(np.mean(scores)))
        else:
            self.end(Ended.SILENT)

    def end(self, how: Ended, note: str = "") -> None:
        """The trial ends without a score."""
        self.over = True
        self._trial.set_user_attr("note", note or how.value)
        self._ended(None)


class Study:
    """A sweep's Optuna study.

    Args:
        journal: Its file; made, or continued.
        space: What trials may change.
        tell: Called with each trial that has come to an end, and the best so far.
        warm_up: Reports of a trial before it can be stopped: early returns say little of late ones.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, journal: Path, space: Space, tell: Tell, warm_up: int) -> None:
        self._optuna = import_optuna()
        self._space, self._tell = space, tell
        _drop_cut_line(journal)
        storages = self._optuna.storages
        self._study = self._optuna.create_study(
            storage=storages.JournalStorage(storages.journal.JournalFileBackend(str(journal), lock_obj=_NoLock())),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
            pruner=self._optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=warm_up),
        )
        # Another seed than before a resume, or the same random settings would be drawn a second time.
        self._study.sampler = self._optuna.samplers.TPESampler(seed=len(self._study.trials), constant_liar=True)

    def begin_with(self, settings: Mapping[tuple[str, ...], Any]) -> None:
        """Makes these the first trial's settings, as far as they are in the space, where there is no trial yet."""
        if not self._study.trials:
            labels = {".".join(d.path): d.label(settings[d.path]) for d in self._space}
            self._study.enqueue_trial({name: label for name, label in labels.items() if label is not None})

    def next_trials(self, count: int) -> list[RunningTrial]:
        """Trials to train now: first those that a kill cut off, with the settings that they had."""
        state = self._optuna.trial.TrialState.RUNNING
        cut = [trial for trial in self._study.trials if trial.state == state][:count]
        trials = [self._optuna.trial.Trial(self._study, trial._trial_id) for trial in cut]
        return [self._running(trial) for trial in trials + [self._study.ask() for _ in range(count - len(cut))]]

    def outcomes(self) -> list[Outcome]:
        """The trials that have come to an end, in the order in which they began."""
        return [self._outcome(trial) for trial in self._study.trials if trial.state.is_finished()]

    def _running(self, trial: Any) -> RunningTrial:
        pruned = self._optuna.trial.TrialState.PRUNED

        def ended(score: float | None) -> None:
            self._study.tell(trial, score, state=pruned if score is None else None)
            self._tell(self._outcome(self._study.trials[trial.number]), best_of(self.outcomes()))

        return RunningTrial(trial, self._space, ended)

    def _outcome(self, trial: Any) -> Outcome:
        settings = {
            d.path: d.value(trial.params[name]) for d in self._space if (name := ".".join(d.path)) in trial.params
        }
        done = trial.state == self._optuna.trial.TrialState.COMPLETE
        return Outcome(trial.number, settings, trial.value if done else None, trial.user_attrs.get("note", ""))


def best_of(outcomes: list[Outcome]) -> Outcome | None:
    """The trial with the highest score; None where none has one."""
    return max((each for each in outcomes if each.score is not None), key=score_or_worst, default=None)


def score_or_worst(outcome: Outcome) -> float:
    """The score, or −∞."""
    return -math.inf if outcome.score is None else outcome.score


def import_optuna() -> Any:
    """Optuna, saying only what went wrong.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("sweep needs Optuna, which is not installed; pip install 'policy-gradients[sweep]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class _NoLock:
    """Optuna's own lock outlives a kill, for which the next process would wait; a sweep's folder has a better one."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _drop_cut_line(journal: Path) -> None:
    """Cuts off a last line that a kill left unfinished: Optuna would append to it, and then read neither."""
    if journal.is_file():
        text = journal.read_bytes()
        os.truncate(journal, text.rfind(b"\n") + 1)
