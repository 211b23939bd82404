"""Reading, checking and writing experiments."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import NormalizationConfig
from policy_gradients.networks import NetworkConfig
from policy_gradients.training.config import (
    CONFIGS,
    CheckpointConfig,
    EnvironmentConfig,
    EvaluationConfig,
    Experiment,
    LoggingConfig,
    config_hash,
    default_experiment,
    load_experiment,
    parse_experiment,
    save_experiment,
    to_mapping,
    validate,
)
from policy_gradients.training.rules import CONTRADICTIONS, RANGES, nearest_divisors
from policy_gradients.training.schema import field_docs, leaves


def hyper(**settings):
    return {"hyperparameters": settings}


def complaint(mapping) -> str:
    with pytest.raises(UserError) as error:
        parse_experiment(mapping)
    return str(error.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_default_experiment():
    assert parse_experiment({}) == Experiment()


def test_numbers_in_exponent_form_are_read_though_pyyaml_takes_them_for_text(tmp_path):
    text = "total_steps: 1e6\nhyperparameters: {learning_rate: 1e-3}\nenv: {kwargs: {reset_noise_scale: 1e-2}}"
    experiment = load_experiment(written(tmp_path, text))
    assert experiment.total_steps == 1_000_000 and type(experiment.total_steps) is int
    assert experiment.hyperparameters.learning_rate == 1e-3
    assert experiment.env.kwargs == {"reset_noise_scale": 0.01}


def test_lists_become_tuples_of_the_fields_own_type():
    network = parse_experiment({"network": {"hidden": [256, 128.0], "log_std_range": [-4, 1]}}).network
    assert network.hidden == (256, 128) and all(type(width) is int for width in network.hidden)
    assert network.log_std_range == (-4.0, 1.0)


def test_none_is_accepted_where_none_makes_sense_and_only_there():
    assert parse_experiment(hyper(value_clip_eps="none")).hyperparameters.value_clip_eps is None
    assert parse_experiment({"network": {"value_hidden": None}}).network.value_hidden is None
    assert "hyperparameters.gamma: expected a number, got None" in complaint(hyper(gamma=None))


def test_none_stays_a_word_where_it_is_one_of_the_choices():
    assert parse_experiment(hyper(advantages="none")).hyperparameters.advantages == "none"


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (hyper(gama=0.9), "hyperparameters.gama: there is no such setting. Did you mean 'gamma'?"),
        ({"learning_rate": 1e-3}, "there is no such setting. Did you mean 'hyperparameters.learning_rate'?"),
        ({"algorithm": "pppo"}, "no algorithm 'pppo'; expected one of reinforce, a2c, trpo, ppo, vmpo. Did you"),
        ({"algorithm": ["ppo"]}, "algorithm: there is no algorithm ['ppo']"),
        (hyper(num_epochs=2.5), "hyperparameters.num_epochs: expected a whole number, got 2.5."),
        (hyper(num_epochs=True), "hyperparameters.num_epochs: expected a whole number, got True."),
        (hyper(gamma="high"), "hyperparameters.gamma: expected a number, got 'high'."),
        (hyper(gamma=float("nan")), "hyperparameters.gamma: expected a number, got nan."),
        (hyper(recompute_advantages=1), "hyperparameters.recompute_advantages: expected true or false, got 1."),
        (hyper(normalization={"reward_clip": -1.0}), "normalization.reward_clip: expected a number above 0, got -1.0."),
        (hyper(lr_schedule="linaer"), "kl_adaptive, kl_update, got 'linaer'. Did you mean 'linear'?"),
        (hyper(normalization={"values": True}), "hyperparameters.normalization.values: there is no such setting."),
        (hyper(normalization=3), "hyperparameters.normalization: expected settings by name, got 3."),
        ({"network": {"hidden": 64}}, "network.hidden: expected a list of whole numbers, got 64."),
        ({"network": {"hidden": [64, "wide"]}}, "network.hidden[1]: expected a whole number, got 'wide'."),
        ({"network": {"log_std_range": [0]}}, "network.log_std_range: expected a list of 2 numbers, got [0]."),
        ({"env": {"kwargs": {"x": [1]}}}, "env.kwargs.x: expected true or false or a whole number or a number or text"),
        ({"env": {"kwargs": 3}}, "env.kwargs: expected settings by name, got 3."),
        ({"env": {"id": 3}}, "env.id: expected text, got 3."),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_path_and_what_was_expected(mapping, said):
    assert said in complaint(mapping)


def test_all_errors_are_reported_together():
    said = complaint({**hyper(gama=1, clip_eps="x", gamma=2), "seed": -1, "env": {"num_envs": 0}})
    for path in ("hyperparameters.gama", "hyperparameters.clip_eps", "hyperparameters.gamma", "seed", "env.num_envs"):
        assert f"\n  {path}: " in said
    assert said.startswith("5 settings are wrong:")


def test_a_setting_of_the_wrong_type_is_not_blamed_a_second_time_for_a_contradiction():
    assert complaint({**hyper(num_minibatches="x", num_steps=7)}).count("num_minibatches") == 1


def test_every_range_belongs_to_a_setting_there_is_and_its_default_obeys_it():
    experiments = [default_experiment(algorithm) for algorithm in CONFIGS]
    settings = {".".join(leaf.path) for experiment in experiments for leaf in leaves(experiment)}
    assert set(RANGES) <= settings
    assert {path for paths in CONTRADICTIONS for path in paths} <= settings
    for experiment in experiments:
        validate(experiment)


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        ("hyperparameters.gamma", 1.01), ("hyperparameters.gae_lambda", -0.1), ("hyperparameters.clip_eps", 0),
        ("hyperparameters.learning_rate", 0), ("hyperparameters.num_steps", 0), ("hyperparameters.num_minibatches", 0),
        ("hyperparameters.entropy_coef", -1e-9), ("hyperparameters.target_kl", 0), ("env.num_envs", 0),
        ("env.num_threads", -1), ("network.hidden", [64, 0]), ("evaluation.episodes", 0), ("total_steps", 0),
        ("checkpoint.keep_last", 0), ("seed", 2**32), ("hyperparameters.gamma_start", -0.1),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused(path, bad):
    section, _, name = path.rpartition(".")
    assert f"{path}: expected" in complaint({section: {name: bad}} if section else {name: bad})


@pytest.mark.parametrize("path", ["hyperparameters.gamma", "hyperparameters.gae_lambda"])
@pytest.mark.parametrize("good", [0, 1])
def test_discount_and_trace_may_be_zero_and_one(path, good):
    section, _, name = path.rpartition(".")
    parse_experiment({section: {name: good}})


def test_minibatches_that_do_not_divide_come_with_the_nearest_that_do():
    said = complaint({**hyper(num_steps=256, num_minibatches=33), "env": {"num_envs": 8}})
    assert said == (
        "hyperparameters.num_minibatches: 33 does not divide num_steps × num_envs = 256 × 8 = 2048; "
        "the nearest that do: 32 and 64."
    )


@pytest.mark.parametrize(("number", "near", "found"), [(12, 5, [4, 6]), (7, 3, [1, 7]), (12, 13, [12]), (1, 5, [1])])
def test_nearest_divisors_lie_on_both_sides_where_they_exist(number, near, found):
    assert nearest_divisors(number, near) == found


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (hyper(lr_schedule="kl_adaptive"), "lr_schedule: 'kl_adaptive' follows target_kl, which is none"),
        (hyper(gamma_start=0.999), "gamma_start: expected at most gamma, 0.99, to which it rises, got 0.999"),
        (hyper(normalization={"value": True}), "normalization.value: normalization.reward is on as well"),
        ({"total_steps": 2047}, "total_steps: 2047 is less than one update of num_steps × num_envs = 2048 steps"),
        ({"network": {"log_std_range": [1, -1]}}, "network.log_std_range: expected [low, high], got [1.0, -1.0]."),
        ({"network": {"log_std_init": 3}}, "network.log_std_init: 3.0 lies outside log_std_range, [-5.0, 2.0]."),
        (
            {"network": {"distribution": "tanh_normal"}, "env": {"action_map": "clip"}},
            "env.action_map: 'clip' does not fit network.distribution 'tanh_normal'",
        ),
        (
            {"algorithm": "trpo", "network": {"shared_torso": True}},
            "network.shared_torso: TRPO fits its critic after the policy's step, and a shared torso would move",
        ),
        (
            {"algorithm": "reinforce", **hyper(normalization={"value": False})},
            "hyperparameters.baseline: 'mean' is the running mean of returns, which normalization.value keeps",
        ),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(mapping, said):
    assert said in complaint(mapping)


def test_one_update_is_enough():
    assert parse_experiment({"total_steps": 2048}).total_steps == 2048


def test_an_experiment_made_by_hand_is_checked_like_a_file():
    bad = Experiment(hyperparameters=PPOConfig(gamma=2.0), env=EnvironmentConfig(num_envs="many"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"(?s)hyperparameters\.gamma.*env\.num_envs|env\.num_envs.*hyperparameters"):
        validate(bad)


def test_hyperparameters_of_another_kind_are_refused():
    with pytest.raises(UserError, match="'ppo' expects PPOConfig, got NetworkConfig"):
        validate(Experiment(hyperparameters=NetworkConfig()))  # type: ignore[arg-type]


def unusual() -> Experiment:
    return Experiment(
        hyperparameters=PPOConfig(
            learning_rate=1e-5, target_kl=0.008, value_clip_eps=0.1, lr_schedule="kl_adaptive",
            normalization=NormalizationConfig(reward=False, reward_scale=0.1, value=True),
        ),
        env=EnvironmentConfig("my_package:Ünusual-v0", 4, kwargs={"a": 1, "b": True, "c": "1e-3x", "d": 1e-7}),
        network=NetworkConfig(hidden=(), value_hidden=(256, 256), activation="elu"),
        evaluation=EvaluationConfig(0, 1, 0),
        checkpoint=CheckpointConfig(1, 1, False),
        logging=LoggingConfig(tensorboard=True, progress="none"),
        total_steps=12_345_678, seed=2**32 - 1, video=False,
    )  # fmt: skip


def test_a_saved_experiment_loads_back_equal(tmp_path):
    save_experiment(unusual(), tmp_path / "config.yaml")
    assert load_experiment(tmp_path / "config.yaml") == unusual()


def test_a_mapping_parses_back_equal():
    assert parse_experiment(to_mapping(unusual())) == unusual()


def test_saving_where_nothing_can_be_written_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"Cannot write .*: No such file or directory"):
        save_experiment(Experiment(), tmp_path / "missing" / "config.yaml")


def test_a_full_disk_leaves_the_settings_that_were_there(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    save_experiment(unusual(), path)

    def half(self, text, **kwargs):
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(UserError, match="No space left on device"):
        full.setattr(type(path), "write_text", half)
        save_experiment(Experiment(), path)
    assert load_experiment(path) == unusual() and [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("total_steps: [1", "is not valid YAML"),
        ("seed: 1\nseed: 2", "'seed' is given twice"),
        ("env:\n  num_envs: 1\n  num_envs: 2", "'num_envs' is given twice"),
        ("- seed", "expected settings by name"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("seed: {{ SEED }}", "is not valid YAML: while constructing a mapping"),
        ("? [a, b]", "is not valid YAML: while constructing a mapping"),
        ("env: &env\n  kwargs: *env", "contains itself"),
        ("env: {kwargs: {day: 2024-13-45}}", "is not valid YAML: month must be in 1..12."),
        (f"seed: {'9' * 5000}", "is not valid YAML: Exceeds the limit (4300 digits)"),
        ("# seed: 1", "expected settings by name (like 'total_steps: 1e6'), got nothing."),
        ("env:\nseed: 1", "env: expected settings by name, got nothing; write some below it, or leave it out."),
        ("hyperparameters:", "hyperparameters: expected settings by name, got nothing;"),
        ("hyperparameters: {normalization: }", "hyperparameters.normalization: expected settings by name"),
        ("env: {kwargs: }", "env.kwargs: expected settings by name, got nothing;"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused_with_its_path(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        load_experiment(written(tmp_path, text))
    assert said in str(error.value) and "experiment.yaml" in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*nothing.yaml: No such file or directory"):
        load_experiment(tmp_path / "nothing.yaml")


def test_mappings_that_are_said_to_be_empty_are_the_default_experiment(tmp_path):
    assert load_experiment(written(tmp_path, "{}")) == load_experiment(written(tmp_path, "env: {}")) == Experiment()


def test_seeds_of_one_setting_share_its_hash_and_other_settings_do_not():
    plain = config_hash(Experiment())
    assert config_hash(Experiment(seed=3, video=False, logging=LoggingConfig(True))) == plain
    assert config_hash(Experiment(hyperparameters=PPOConfig(gamma=1.0))) != plain
    assert config_hash(replace(Experiment(), total_steps=2_000_000)) != plain


def test_the_hash_does_not_tell_1_from_1_point_0():
    whole = Experiment(hyperparameters=PPOConfig(gamma=1))
    assert config_hash(whole) == config_hash(Experiment(hyperparameters=PPOConfig(gamma=1.0)))


def test_every_setting_is_documented():
    assert [".".join(leaf.path) for leaf in leaves(Experiment()) if not leaf.doc] == []
    assert field_docs(Experiment)["seed"] == "Of everything drawn at random."
    assert field_docs(EnvironmentConfig)["id"].endswith("forces the engine.")
