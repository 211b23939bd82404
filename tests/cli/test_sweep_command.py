"""`policy-gradients sweep`: from arguments to a table, a picture and settings to train with."""

import builtins

import pytest

from policy_gradients.training import sweep as module
from policy_gradients.training.config import load_experiment
from policy_gradients.training.sweep import load_sweep

SMALL = (
    "--env", "CartPole-v1", "--preset", "none", "--num-envs", "4", "--num-steps", "16", "--num-epochs", "1",
    "--num-minibatches", "1", "--total-steps", "256", "--network.hidden", "4", "--evaluation.num-evaluations", "0",
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """The sweeps that would have been run."""
    sweeps = []
    monkeypatch.setattr(module, "run_sweep", lambda sweep, folder, *tell: sweeps.append(sweep) or ("finished", []))
    return sweeps


def test_a_sweep_ends_with_a_table_a_picture_and_settings_to_train_with(run, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: {low: 1e-4, high: 1e-2, log: true}\nentropy_coef: [0, 0.01]\n")
    folder = tmp_path / "s"
    code, out, err = run(
        "sweep", "ppo", *SMALL, "--space", str(space), "--trials", "3", "--seeds", "2", "--sweep-dir", str(folder)
    )  # fmt: skip
    assert code == 0, err
    assert "3 trials of ppo on CartPole-v1, 256 steps each with 2 of the seeds 1000–1004" in out
    assert "trial  return  learning_rate  entropy_coef\n" in out and out.count(" · best ") == 3
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    assert f"policy-gradients train --config {folder}/best.yaml" in out
    best = load_experiment(folder / "best.yaml")
    assert best.network.hidden == (4,) and best.env.id == "CartPole-v1"

    code, out, _ = run("sweep", "--sweep-dir", str(folder))
    assert code == 0 and "best" in out and out.count(" · best ") == 0  # nothing was left to do


def test_without_a_space_the_algorithms_own_is_searched_over_the_preset(run, asked, tmp_path):
    assert run("sweep", "ppo", "--env", "CartPole-v1", "--sweep-dir", str(tmp_path / "s"))[0] == 0
    assert ("hyperparameters", "clip_eps") in [dimension.path for dimension in asked[0].space]
    assert asked[0].experiment.hyperparameters.gamma == 0.98 and (asked[0].trials, asked[0].seeds) == (40, 3)


@pytest.mark.parametrize(("env", "tuned"), [("CartPole-v1", False), ("Pendulum-v1", True)])
def test_the_standard_deviation_is_tuned_only_where_the_policy_has_one(run, asked, tmp_path, env, tuned):
    code, out, _ = run("sweep", "ppo", "--env", env, "--sweep-dir", str(tmp_path / "s"))
    assert code == 0 and ("log_std_init" in out) == tuned
    assert (("network", "log_std_init") in [dimension.path for dimension in asked[0].space]) == tuned


def test_a_task_that_there_is_not_leaves_no_folder(run, asked, tmp_path):
    code, _, err = run("sweep", "ppo", "--env", "CartPole-v9", "--sweep-dir", str(tmp_path / "s"))
    assert code == 2 and "Unknown environment" in err and not (tmp_path / "s").exists()


def test_a_folder_alone_continues_its_sweep_and_may_be_given_more_trials(run, asked, tmp_path):
    folder = str(tmp_path / "s")
    run("sweep", "ppo", *SMALL, "--trials", "5", "--sweep-dir", folder)
    assert run("sweep", "--sweep-dir", folder, "--trials", "9")[0] == 0
    assert asked[1].trials == 9 and asked[1].experiment == asked[0].experiment
    assert load_sweep(tmp_path / "s").trials == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ppo", "--seed", "3"), "trials use the tuning seeds 1000–1004 only"),
        (("ppo", "--seeds", "6"), "--seeds: there are 5 tuning seeds, got 6."),
        (("ppo", "--trials", "0"), "--trials: expected a whole number from 1 on, got '0'."),
        (("ppo", "--space", "nowhere.yaml"), "Cannot read nowhere.yaml"),
        (("ppo", "--trails", "3"), "Did you mean '--trials'?"),
        (("qlearning",), "there is no algorithm 'qlearning'"),
        (("--sweep-dir", "nowhere"), "name an algorithm"),
        ((), "name an algorithm"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(run, asked, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("sweep", *arguments)
    assert code == 2 and said in err and err.count("\n") == 1 and not asked


def test_without_optuna_the_extra_is_named(run, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, err = run("sweep", "ppo", *SMALL, "--sweep-dir", str(tmp_path / "s"))
    assert code == 2 and "pip install 'policy-gradients[sweep]'" in err and not (tmp_path / "s").exists()


def test_the_help_names_the_options_and_shows_a_space(run):
    code, out, _ = run("sweep", "--help")
    assert code == 0 and "--sweep-dir" in out and "learning_rate: {low: 1e-4, high: 1e-3, log: true}" in out
