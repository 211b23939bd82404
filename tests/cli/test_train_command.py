"""`policy-gradients train` and `resume`: from arguments to an experiment."""

import math
from pathlib import Path

import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.cli.flags import flag_name, flag_table
from policy_gradients.training import loop
from policy_gradients.training.config import Experiment
from policy_gradients.training.preset import find_preset
from policy_gradients.training.schema import leaves
from policy_gradients.training.session import Run

PLAIN = ("--env", "HalfCheetah-v4", "--preset", "none")


@pytest.fixture
def train(monkeypatch, run):
    """`train("ppo", …)` is the experiment that would be run."""
    asked = []

    def remember(experiment, run_dir=None):
        asked.append((experiment, run_dir))
        return Run(Path("runs/made"), {"status": "finished"})

    monkeypatch.setattr(loop, "train", remember)

    def command(*arguments: str) -> Experiment:
        code, _, err = run("train", *arguments)
        assert code == 0, err
        command.run_dir = asked[-1][1]
        return asked[-1][0]

    return command


@pytest.fixture
def refused(run):
    """`refused("ppo", …)` is the complaint."""

    def command(*arguments: str) -> str:
        code, _, err = run("train", *arguments)
        assert code == 2
        return err.removeprefix("policy-gradients: ").rstrip("\n")

    return command


def test_nothing_but_an_environment_gives_its_preset(train):
    experiment = train("ppo", "--env", "HalfCheetah-v4")
    preset = find_preset("ppo", "HalfCheetah-v4")
    assert experiment.env.num_envs == preset.settings["env"]["num_envs"]
    assert experiment.network.log_std_init == preset.settings["network"]["log_std_init"]


def test_without_a_preset_everything_is_at_its_default(train):
    assert train("ppo", *PLAIN) == Experiment()


def test_flags_reach_the_settings_they_name(train):
    experiment = train(
        "ppo", *PLAIN, "--learning-rate", "1e-3", "--clip-eps", "0.1", "--num-envs", "64", "--total-steps", "2e6",
        "--network.hidden", "256", "256", "--normalization.value", "--no-normalization.reward", "--seed=3",
        "--evaluation.episodes", "5", "--value-clip-eps", "0.2", "--lr-schedule", "constant", "--no-video",
        "--network.log-std-range", "-4", "1", "--logging.progress", "none",
    )  # fmt: skip
    assert experiment.hyperparameters.learning_rate == 1e-3 and experiment.hyperparameters.clip_eps == 0.1
    assert experiment.env.num_envs == 64 and experiment.total_steps == 2_000_000 and experiment.seed == 3
    assert experiment.network.hidden == (256, 256) and experiment.network.log_std_range == (-4.0, 1.0)
    normalization = experiment.hyperparameters.normalization
    assert normalization.value is True and normalization.reward is False
    assert experiment.evaluation.episodes == 5 and experiment.video is False
    assert experiment.hyperparameters.value_clip_eps == 0.2 and experiment.logging.progress == "none"


@pytest.mark.parametrize(
    "flag", ["--learning-rate", "--learning_rate", "--hyperparameters.learning-rate", "--hyperparameters.learning_rate"]
)
def test_hyphens_underscores_and_full_paths_are_the_same_flag(train, flag):
    assert train("ppo", *PLAIN, flag, "0.5").hyperparameters.learning_rate == 0.5


def test_the_environment_may_be_named_by_its_full_path(train):
    assert train("ppo", "--env.id", "CartPole-v1").env.id == "CartPole-v1"


def test_none_and_empty_lists_and_commas_can_be_said(train):
    experiment = train("ppo", *PLAIN, "--target-kl", "none", "--network.value-hidden", "none", "--network.hidden=")
    assert experiment.hyperparameters.target_kl is None
    assert experiment.network.value_hidden is None and experiment.network.hidden == ()
    assert train("ppo", *PLAIN, "--network.hidden", "32,16").network.hidden == (32, 16)


@pytest.mark.parametrize(
    ("given", "value"), [("--video", True), ("--video=false", False), ("--no-video", False), ("--no-video=no", True)]
)
def test_switches_are_turned_on_and_off(train, given, value):
    assert train("ppo", *PLAIN, given).video is value


def test_options_of_the_task_itself_have_the_type_that_they_look_like(train):
    experiment = train(
        "ppo", *PLAIN, "--env.kwargs.noise", "1e-2", "--kwargs.flag", "true", "--kwargs.n=3", "--kwargs.xml", "a.xml"
    )  # fmt: skip
    assert experiment.env.kwargs == {"noise": 0.01, "flag": True, "n": 3, "xml": "a.xml"}


@pytest.mark.parametrize("text", ["2024-13-45", "9" * 5000])
def test_an_option_of_the_task_that_yaml_stumbles_over_is_text(train, text):
    assert train("ppo", *PLAIN, "--env.kwargs.day", text).env.kwargs == {"day": text}


def test_precedence_is_defaults_preset_file_flags(train, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("env: {id: CartPole-v1}\nhyperparameters: {gamma: 0.7, gae_lambda: 0.6}\n")
    config = train("ppo", "--config", str(file), "--gamma", "0.5").hyperparameters
    assert (config.gamma, config.gae_lambda) == (0.5, 0.6)
    assert config.num_epochs == find_preset("ppo", "CartPole-v1").settings["hyperparameters"]["num_epochs"]
    assert config.adam_eps == PPOConfig().adam_eps


def test_the_algorithm_may_stand_in_the_file(train, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("algorithm: ppo\nseed: 7\n")
    assert train("--config", str(file)).seed == 7


def test_the_preset_is_told_in_one_line(run, train):
    code, out, _ = run("train", "ppo", "--env", "HalfCheetah-v4")
    assert code == 0
    assert out.splitlines()[0].startswith("Preset HalfCheetah: ") and "--preset none" in out.splitlines()[0]


def test_the_run_folder_is_passed_on(train, tmp_path):
    train("ppo", *PLAIN, "--run-dir", str(tmp_path / "new"))
    assert train.run_dir == tmp_path / "new"
    train("ppo", *PLAIN)
    assert train.run_dir is None


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("interrupted", 130), ("terminated", 143)])
def test_the_exit_code_says_how_a_run_ended_and_the_last_lines_how_well(monkeypatch, run, status, code):
    result = {"status": status, "eval/mean_reward": 5012.34, "eval/std_reward": 43.21, "time/total_timesteps": 1e6}
    monkeypatch.setattr(loop, "train", lambda *_: Run(Path("runs/made"), result))
    ended, out, _ = run("train", "ppo", *PLAIN)
    assert ended == code
    assert out == "Deterministic return 5,012.3 ± 43.2 after 1,000,000 steps.\nRun folder: runs/made\n"


def test_a_return_that_no_episode_gave_is_told_as_unknown(monkeypatch, run):
    result = {"status": "finished", "eval/mean_reward": math.nan, "time/total_timesteps": 64}
    monkeypatch.setattr(loop, "train", lambda *_: Run(Path("runs/made"), result))
    _, out, _ = run("train", "ppo", *PLAIN)
    assert out.splitlines()[0].startswith("Deterministic return unknown") and "--max-episode-steps" in out


def test_a_run_whose_terminal_was_closed_ends_like_one_in_a_shell_that_sighup_ended(monkeypatch, run):
    monkeypatch.setattr(loop, "train", lambda *_: Run(Path("runs/made"), {"status": "disconnected"}))
    assert run("train", "ppo", *PLAIN)[0] == 129


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("pppo",),
            "no algorithm 'pppo'; expected one of reinforce, a2c, trpo, ppo, vmpo. Did you",
        ),
        (("ppo", "--learnig_rate", "1"), "there is no flag --learnig_rate. Did you mean '--learning-rate'?"),
        (("ppo", "--no-vidio"), "there is no flag --no-vidio."),
        (("ppo", "stray"), "expected a flag (--name value), got 'stray'."),
        (("ppo", "--gamma"), "--gamma: expected one value, got none."),
        (("ppo", "--gamma", "0.9", "0.8"), "--gamma: expected one value, got 0.9 0.8."),
        (
            ("ppo", "--network.hidden", "--gamma", "0.9"),
            "--network.hidden: expected values, got none (an empty list is",
        ),
        (("ppo", "--gamma", "high"), "hyperparameters.gamma: expected a number, got 'high'."),
        (("ppo", "--video", "maybe"), "--video: expected true or false, got 'maybe'."),
        (("ppo", "--preset", "Humanoit"), "--preset: ppo has no preset 'Humanoit'; expected none or one of"),
        (("ppo", "--config", "nowhere.yaml"), "Cannot read nowhere.yaml: No such file or directory."),
        (("ppo", *PLAIN, "--num-minibatches", "33"), "the nearest that do: 32 and 64."),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(refused, arguments, said):
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("seed: one", (), "{file}: seed: expected a whole number, got 'one'."),
        ("seed: one\ngama: 1", ("--gamma", "0.9"), "{file}: 2 settings are wrong:"),
        ("seed: 1", ("--gamma", "high"), "hyperparameters.gamma: expected a number, got 'high'."),
        ("env: {num_envs: 4}", ("--num-minibatches", "33", "--preset", "none"), "hyperparameters.num_minibatches: "),
        ("seed: one", ("--seed", "1", "--gamma", "0.9", "--run-dir"), "--run-dir: expected one value"),
        ("env:", (), "{file}: env: expected settings by name, got nothing;"),
        ("", ("--env", "CartPole-v1"), "{file}: expected settings by name"),
        ("env: {kwargs: {day: 2024-13-45}}", (), "{file} is not valid YAML: month must be in 1..12."),
    ],
)
def test_a_file_is_named_where_it_is_wrong_and_not_where_flags_are(refused, tmp_path, text, flags, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert refused("ppo", "--config", str(file), *flags).startswith(said.format(file=file))


def test_a_flag_may_correct_a_file(train, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: one")
    assert train("ppo", "--config", str(file), "--seed", "1").seed == 1


def test_all_unknown_flags_are_told_at_once(refused):
    assert refused("ppo", "--gama", "1", "--clip-epz", "2").count("there is no flag") == 2


def test_every_setting_has_exactly_one_flag():
    fields = [field for field in leaves(Experiment()) if field.path != ("algorithm",)]
    names = [flag_name(field.path) for field in fields]
    assert len(set(names)) == len(names)
    assert {field.path for field in flag_table(Experiment()).values()} == {field.path for field in fields}


def test_the_help_explains_every_setting_with_the_value_it_has_on_that_task(run):
    code, out, _ = run("train", "ppo", "--env", "CartPole-v1", "--help")
    assert code == 0
    told = [leaf.path for leaf in leaves(Experiment()) if leaf.path not in (("algorithm",), ("env", "kwargs"))]
    assert all(f"  {flag_name(path)}\n" in out for path in told)
    assert "--kwargs" not in out and out.count("  --env.kwargs.NAME\n") == 1
    assert "settings of ppo on CartPole-v1" in out
    assert "γ, the discount. [0.98]" in out


def test_resume_passes_the_folder_and_the_new_length(monkeypatch, run):
    asked = []
    monkeypatch.setattr(loop, "resume", lambda *args, **kwargs: asked.append((args, kwargs)) or Run(Path("runs/x"), {}))
    assert run("resume", "runs/x", "--total-steps", "2e6")[0] == 0
    assert asked == [((Path("runs/x"),), {"total_steps": 2_000_000, "devices": None, "backend": None})]
