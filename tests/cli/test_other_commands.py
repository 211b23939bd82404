"""`policy-gradients envs`, `plot` and `benchmark`."""

import sys
import types
from pathlib import Path

import pytest

from policy_gradients.cli.benchmark import Timing, report, throughput
from policy_gradients.cli.envs import table
from policy_gradients.environments import registry
from policy_gradients.training.config import Experiment, parse_experiment


@pytest.fixture(autouse=True)
def without_envpool(monkeypatch):
    monkeypatch.setattr(registry, "_has_envpool", lambda: False)  # its import alone takes seconds


def test_envs_lists_what_matches_with_engine_spaces_and_limit(run):
    code, out, _ = run("envs", "cartpole-v1")
    head, *rows = out.splitlines()
    assert code == 0 and head.split() == ["id", "engine", "observations", "actions", "limit"]
    assert ["CartPole-v1", "jax", "Box(4)", "Discrete(2)", "500"] in [row.split() for row in rows]


def test_envs_describes_one_environment(run):
    code, out, _ = run("envs", "Pendulum-v1", "--describe")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
    assert code == 0
    assert facts["engine"] == "jax" and facts["actions"] == "Box(1) in [-2, 2]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Nonesuch",), "no environment's id contains 'Nonesuch'"),
        (("--describe",), "--describe needs the id of an environment"),
        (("CartPole-v9", "--describe"), "Unknown environment 'CartPole-v9'"),
    ],
)
def test_envs_refuses_what_is_not_there(run, arguments, said):
    code, _, err = run("envs", *arguments)
    assert code == 2 and said in err


def test_a_table_aligns_its_columns():
    assert table([("a", "bb"), ("ccc", 1)]) == "a    bb\nccc  1"


@pytest.fixture
def drawn(monkeypatch):
    """Calls of plot_runs."""
    calls = []
    module = types.ModuleType("policy_gradients.evaluation.plots")
    module.plot_runs = lambda runs, out, **axes: calls.append((runs, out, axes))
    monkeypatch.setitem(sys.modules, "policy_gradients.evaluation.plots", module)
    return calls


RETURN = {"x": "time/total_timesteps", "y": None}


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("runs/a",), ([Path("runs/a")], Path("runs/a/curve.png"), RETURN)),
        (("runs/a", "runs/b"), ([Path("runs/a"), Path("runs/b")], Path("curves.png"), RETURN)),
        (("runs/a", "--out", "x.pdf"), ([Path("runs/a")], Path("x.pdf"), RETURN)),
        (
            ("runs/a", "--y", "train/kl", "--x", "time/iterations"),
            ([Path("runs/a")], Path("runs/a/curve.png"), {"x": "time/iterations", "y": "train/kl"}),
        ),
    ],
)
def test_plot_draws_the_runs_and_says_where(run, drawn, arguments, call):
    code, out, _ = run("plot", *arguments)
    assert code == 0 and drawn == [call] and out == f"Learning curve: {call[1]}\n"


def test_plot_leaves_out_runs_without_an_update(run, drawn, tmp_path):
    for name, rows in (("begun", "{}\n"), ("failed", None), ("starting", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        if rows is not None:
            (tmp_path / name / "metrics.jsonl").write_text(rows)
    code, out, _ = run("plot", *(str(tmp_path / name) for name in ("begun", "failed", "starting", "typo")))
    assert code == 0 and drawn[0][0] == [tmp_path / "begun", tmp_path / "typo"]
    assert out.count("has finished no update yet") == 2


def test_benchmark_tells_each_program_as_a_share_of_the_simulator():
    timings = [Timing("simulator", 1.0, 0.010, 1000, "cpu"), Timing("iteration", 2.0, 0.025, 1000, "cpu")]
    head, _, simulator, iteration = report(Experiment(), timings).splitlines()
    assert head.startswith("ppo on HalfCheetah-v4: 8 environments × 256 steps, 32 minibatches, 10 epochs")
    assert simulator.split() == ["simulator", "100,000", "100%", "10.0", "1.0"]
    assert iteration.split() == ["iteration", "40,000", "40%", "25.0", "2.0"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("througput",), "expected throughput or latency, got 'througput'. Did you mean 'throughput'?"),
        (("throughput", "--seconds", "0"), "--seconds: expected a number above 0, got '0'."),
        (("throughput", "--gama", "1"), "there is no flag --gama."),
    ],
)
def test_benchmark_refuses_bad_arguments(run, arguments, said):
    code, _, err = run("benchmark", *arguments)
    assert code == 2 and said in err


@pytest.mark.slow
def test_benchmark_times_simulator_rollout_and_iteration():
    experiment = parse_experiment(
        {
            "env": {"id": "CartPole-v1", "num_envs": 4},
            "hyperparameters": {"num_steps": 8, "num_minibatches": 1, "num_epochs": 1},
        }
    )
    timings = throughput(experiment, seconds=0.01)
    assert [timing.name for timing in timings] == ["simulator", "rollout", "iteration"]
    assert all(timing.rate > 0 and timing.steps == 32 for timing in timings)
