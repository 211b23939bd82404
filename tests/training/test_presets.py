"""Presets: what they hold, when they apply and what overrides them."""

import pytest

from policy_gradients.errors import UserError
from policy_gradients.training.config import CONFIGS, Experiment, parse_experiment
from policy_gradients.training.preset import compose, find_preset, get_preset, merge, presets

ALL = [pytest.param(algorithm, preset, id=preset.name) for algorithm in CONFIGS for preset in presets(algorithm)]


@pytest.mark.parametrize(("algorithm", "preset"), ALL)
def test_every_preset_is_a_valid_experiment_and_says_where_it_comes_from(algorithm, preset):
    parse_experiment({"algorithm": algorithm, **preset.settings}, source=preset.name)
    assert preset.source and "\n" not in preset.source and preset.environments


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("HalfCheetah-v4", "HalfCheetah"),
        ("Hopper-v4", "Planar walkers"),
        ("mujoco:HalfCheetah-v5", "HalfCheetah"),
        ("Humanoid-v5", "Humanoid"),
        ("jax:CartPole-v1", "CartPole"),
        ("MountainCar-v0", "MountainCar"),
        ("MountainCarContinuous-v0", "MountainCarContinuous"),
        ("InvertedPendulum-v4", "Small MuJoCo tasks"),
        ("Pendulum-v1", "Pendulum"),
        ("envpool:Pong-v5", "Atari"),
    ],
)
def test_the_preset_follows_from_the_environment_without_its_engine(env_id, name):
    preset = find_preset("ppo", env_id)
    assert preset is not None and preset.name == name


@pytest.mark.parametrize("env_id", ["HumanoidStandup-v4", "my_package:HalfCheetah-v4", "Nonesuch-v0"])
def test_an_environment_that_nobody_tuned_has_no_preset(env_id):
    assert find_preset("ppo", env_id) is None


def test_an_entry_that_extends_another_lays_its_settings_over_the_others_beside_a_gpu_too():
    base, own = get_preset("ppo", "Planar walkers"), get_preset("ppo", "HalfCheetah")
    assert own.settings["network"]["log_std_init"] != base.settings["network"]["log_std_init"]
    assert own.settings == merge(base.settings, {"network": {"log_std_init": own.settings["network"]["log_std_init"]}})
    assert own.gpu and base.gpu
    alone = {"total_steps": 120_000_000, "env": {"stagger": True}, "hyperparameters": {"entropy_coef": 0.01}}
    assert own.gpu["settings"] == merge(base.gpu["settings"], alone)
    assert get_preset("trpo", "HalfCheetah").gpu is None


def test_later_layers_win_over_the_preset_and_the_preset_over_the_defaults():
    cartpole = {"env": {"id": "CartPole-v1"}}
    experiment, preset = compose(cartpole, {"hyperparameters": {"gamma": 0.5}})
    assert preset is not None and preset.name == "CartPole"
    assert experiment.hyperparameters.gamma == 0.5
    assert experiment.hyperparameters.gae_lambda == preset.settings["hyperparameters"]["gae_lambda"]
    assert experiment.hyperparameters.adam_eps == Experiment().hyperparameters.adam_eps


def test_no_preset_is_used_when_none_is_asked_for():
    experiment, preset = compose({"env": {"id": "HalfCheetah-v4"}}, preset="none")
    assert preset is None and experiment == Experiment()


def test_a_preset_can_be_forced_by_name_in_any_case():
    experiment, preset = compose({"env": {"id": "Nonesuch-v0"}}, preset="cartpole")
    assert preset is not None and preset.name == "CartPole"
    assert experiment.env.id == "Nonesuch-v0" and experiment.hyperparameters.gamma == 0.98


def test_an_unknown_preset_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match=r"no preset 'Humanoit'.*Did you mean 'Humanoid'"):
        get_preset("ppo", "Humanoit")


def test_a_malformed_environment_is_reported_not_raised_by_the_search_for_a_preset():
    with pytest.raises(UserError, match="env: expected settings by name, got 3"):
        compose({"env": 3})


def test_merging_goes_all_the_way_down_and_changes_no_layer():
    low, high = {"a": {"b": 1, "c": {"d": 2}}, "e": 5}, {"a": {"c": {"d": 3}}, "f": [6]}
    assert merge(low, high) == {"a": {"b": 1, "c": {"d": 3}}, "e": 5, "f": [6]}
    assert low == {"a": {"b": 1, "c": {"d": 2}}, "e": 5}


def test_an_explicit_none_changes_what_was_there():
    assert merge({"c": 2}, {"c": None}) == {"c": None}


def test_an_empty_section_is_told_and_not_lost_in_a_preset():
    """Or the default task would be trained where another was meant."""
    with pytest.raises(UserError, match="env: expected settings by name, got nothing"):
        compose({"env": None})
    assert compose({"env": None}, {"env": {"id": "CartPole-v1"}})[0].env.id == "CartPole-v1"  # a flag corrects it


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "Ant-v4", "Humanoid-v4"])
def test_a_gpu_gets_settings_of_its_own(env_id):
    on_gpu, preset = compose({"env": {"id": env_id, "engine": "warp"}})
    beside, _ = compose({"env": {"id": env_id, "engine": "batch"}})
    assert preset is not None and preset.name.endswith("on a GPU")
    assert on_gpu.env.num_envs >= 8192 > beside.env.num_envs


def test_a_run_on_the_processor_gets_no_settings_of_a_gpu():
    for backend in ("auto", "cpu"):
        _, preset = compose({"backend": backend, "env": {"id": "Hopper-v4", "engine": "warp"}})
        assert preset is not None and ("on a GPU" in preset.name) == (backend == "auto")


def test_settings_of_the_environment_that_are_wrong_choose_no_gpu():
    with pytest.raises(UserError, match=r"env\.num_envs: expected a whole number"):
        compose({"env": {"id": "HalfCheetah-v4", "num_envs": "many"}})


def test_more_worlds_than_any_number_choose_no_gpu():
    with pytest.raises(UserError, match="num_envs"):
        compose({"env": {"id": "HalfCheetah-v4", "num_envs": float("inf")}})
