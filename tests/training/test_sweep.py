"""Sweeps: what is tried, what is kept, and how one goes on after a kill. Trials are made up, so they take no time."""

import fcntl
import math

import jax
import numpy as np
import pytest

from policy_gradients.errors import UserError
from policy_gradients.training import sweep as module
from policy_gradients.training.config import load_experiment, parse_experiment
from policy_gradients.training.population import moments
from policy_gradients.training.space import read_space
from policy_gradients.training.study import STARTUP_TRIALS
from policy_gradients.training.sweep import TUNING_SEEDS, Sweep, create_sweep, load_sweep, run_sweep

EXPERIMENT = parse_experiment(
    {"env": {"id": "CartPole-v1"}, "total_steps": 20 * 2048, "evaluation": {"num_evaluations": 8}}
)
SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
RATE = ("hyperparameters", "learning_rate")


class Killed(BaseException):
    """The process dies here."""


@pytest.fixture
def trained(monkeypatch):
    """Every member that was trained; `trained.score(member, moment)` says what it returns."""

    class Trained(list):
        score = staticmethod(lambda member, moment: -abs(math.log(member.numbers["learning_rate"] / 1e-3)))

    log = Trained()

    def fake(experiment, members, stopped):
        log.extend(members)
        for moment in range(len(moments(experiment))):
            yield np.array([log.score(member, moment) for member in members], np.float64)

    monkeypatch.setattr(module, "train_members", fake)
    return log


def made(folder, **settings) -> Sweep:
    space = read_space(settings.pop("space", SPACE), EXPERIMENT, "space")
    sweep = Sweep(EXPERIMENT, space, **{"trials": 6, "seeds": 2, "parallel": 1, **settings})
    create_sweep(sweep, folder)
    return sweep


def test_the_best_settings_are_written_as_yaml_that_train_takes(trained, tmp_path):
    status, outcomes = run_sweep(made(tmp_path / "s", trials=12), tmp_path / "s")
    best = max(outcomes, key=lambda outcome: -math.inf if outcome.score is None else outcome.score)
    assert status == "finished" and len(outcomes) == 12
    assert load_experiment(tmp_path / "s" / "best.yaml").hyperparameters.learning_rate == best.settings[RATE]
    assert best.score is not None and best.score > outcomes[0].score


def test_the_best_settings_are_written_also_where_a_kill_came_before_that(trained, tmp_path):
    sweep = made(tmp_path / "s")
    run_sweep(sweep, tmp_path / "s")
    best = tmp_path / "s" / "best.yaml"
    before = best.read_bytes()
    best.unlink()
    run_sweep(sweep, tmp_path / "s")  # which has no trial left
    assert best.read_bytes() == before


def test_a_sweep_without_compiling_is_refused(trained, tmp_path):
    with jax.disable_jit(), pytest.raises(UserError, match="jax_disable_jit is on"):
        run_sweep(made(tmp_path / "s"), tmp_path / "s")


def test_the_first_trial_has_the_settings_that_the_sweep_starts_from(trained, tmp_path):
    _, outcomes = run_sweep(made(tmp_path / "s", trials=1), tmp_path / "s")
    assert outcomes[0].settings == {RATE: EXPERIMENT.hyperparameters.learning_rate}


def test_only_tuning_seeds_are_used_and_as_many_as_asked_for(trained, tmp_path):
    run_sweep(made(tmp_path / "s", trials=2, seeds=3), tmp_path / "s")
    assert {member.seed for member in trained} == set(TUNING_SEEDS[:3]) == {1000, 1001, 1002}


def test_trials_that_differ_in_numbers_only_share_a_program(trained, tmp_path, monkeypatch):
    sizes, fake = [], module.train_members
    monkeypatch.setattr(
        module, "train_members", lambda e, members, **kw: sizes.append(len(members)) or fake(e, members, **kw)
    )
    run_sweep(made(tmp_path / "numbers", trials=6, parallel=4), tmp_path / "numbers")
    assert sizes == [8, 4]
    sizes.clear()
    space = {**SPACE, "num_epochs": [1, 2]}
    run_sweep(made(tmp_path / "shapes", trials=3, parallel=4, space=space), tmp_path / "shapes")
    assert sizes == [2, 2, 2]


def test_a_killed_trial_is_repeated_with_its_settings_and_the_others_are_not(trained, tmp_path):
    sweep = made(tmp_path / "s")
    good = trained.score

    def kill_in_the_third(member, moment):
        if len(trained) == 6 and moment == 3:
            raise Killed
        return good(member, moment)

    trained.score = kill_in_the_third
    with pytest.raises(Killed):
        run_sweep(sweep, tmp_path / "s")
    cut = trained[-1].numbers
    trained.clear()
    trained.score = good
    _, outcomes = run_sweep(load_sweep(tmp_path / "s"), tmp_path / "s")
    assert trained[0].numbers == cut and len(trained) == 2 * 4
    assert [outcome.number for outcome in outcomes] == list(range(6))


def test_a_sweep_goes_on_after_a_line_that_was_cut_off(trained, tmp_path):
    run_sweep(made(tmp_path / "s", trials=2), tmp_path / "s")
    with (tmp_path / "s" / "journal.jsonl").open("a") as journal:
        journal.write('{"op_code": 4, "work')
    _, outcomes = run_sweep(made(tmp_path / "s", trials=4), tmp_path / "s")
    assert len(outcomes) == 4
    assert len(run_sweep(made(tmp_path / "s", trials=4), tmp_path / "s")[1]) == 4


def test_a_continued_sweep_draws_other_settings_than_before(trained, tmp_path):
    run_sweep(made(tmp_path / "s", trials=3), tmp_path / "s")
    _, outcomes = run_sweep(made(tmp_path / "s", trials=6), tmp_path / "s")
    assert len({outcome.settings[RATE] for outcome in outcomes}) == 6


def test_a_trial_below_the_median_is_stopped_early(trained, tmp_path):
    trained.score = lambda member, moment: 0.0 if len(trained) <= 2 * STARTUP_TRIALS else -1.0
    _, outcomes = run_sweep(made(tmp_path / "s", trials=STARTUP_TRIALS + 1), tmp_path / "s")
    assert [outcome.score for outcome in outcomes] == [0.0] * STARTUP_TRIALS + [None]
    assert outcomes[-1].note == "below the median"


def test_the_score_is_the_mean_over_seeds_of_the_last_returns(trained, tmp_path):
    trained.score = lambda member, moment: (100.0 if moment >= 6 else 0.0) + member.seed
    _, outcomes = run_sweep(made(tmp_path / "s", trials=1), tmp_path / "s")
    assert outcomes[0].score == 1100.5


def test_a_trial_that_diverges_or_never_ends_an_episode_has_no_score(trained, tmp_path):
    trained.score = lambda member, moment: -math.inf if len(trained) <= 2 else math.nan
    _, outcomes = run_sweep(made(tmp_path / "s", trials=2), tmp_path / "s")
    assert [outcome.note for outcome in outcomes] == ["diverged", "no episode finished"]
    assert not (tmp_path / "s" / "best.yaml").exists()


def test_one_seed_that_diverges_is_enough(trained, tmp_path):
    trained.score = lambda member, moment: math.nan if member.seed == 1000 else -math.inf
    _, outcomes = run_sweep(made(tmp_path / "s", trials=1), tmp_path / "s")
    assert outcomes[0].note == "diverged"


def test_settings_that_do_not_go_together_cost_one_trial_and_are_told(trained, tmp_path):
    space = {"num_steps": [3], "num_minibatches": [32], **SPACE}
    told = []
    run_sweep(made(tmp_path / "s", trials=2, space=space), tmp_path / "s", lambda outcome, best: told.append(outcome))
    assert len(told) == 2 and not trained
    assert "32 does not divide num_steps × num_envs" in told[0].note


def test_a_sweep_in_its_folder_is_read_back_equal(tmp_path):
    sweep = made(tmp_path / "s", space={**SPACE, "network.hidden": [[8], [8, 8]]})
    assert load_sweep(tmp_path / "s") == sweep


def test_another_sweep_in_the_folder_is_left_alone(tmp_path):
    made(tmp_path / "s")
    with pytest.raises(UserError, match="holds a sweep with other settings"):
        made(tmp_path / "s", seeds=3)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is no sweep"):
        made(tmp_path / "f")


def test_two_processes_cannot_work_on_one_sweep(trained, tmp_path):
    sweep = made(tmp_path / "s")
    with (tmp_path / "s" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process works on"):
            run_sweep(sweep, tmp_path / "s")


@pytest.mark.parametrize(
    "text", ["", "trials: 0\n", "trials: true\nseeds: 1\nparallel: 1\nspace: {}\nexperiment: {}\n"]
)
def test_a_damaged_sweep_is_refused(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        load_sweep(tmp_path)
