"""What a sweep may change, as read from YAML."""

import pytest

from policy_gradients.errors import UserError
from policy_gradients.training.config import CONFIGS, Experiment, default_experiment
from policy_gradients.training.space import Choice, Interval, default_space, is_number, read_space, to_plain_space


def read(mapping):
    return read_space(mapping, Experiment(), "space.yaml")


def test_choices_and_intervals_are_read_with_the_types_of_their_settings():
    space = read({"learning_rate": {"low": "1e-4", "high": 1, "log": True}, "num_steps": {"low": 8, "high": 1e2}})
    assert space == (
        Interval(("hyperparameters", "learning_rate"), 1e-4, 1.0, log=True, whole=False),
        Interval(("hyperparameters", "num_steps"), 8, 100, log=False, whole=True),
    )
    (hidden,) = read({"network.hidden": [[64, 64], ["256"]]})
    assert hidden == Choice(("network", "hidden"), ((64, 64), (256,)))


def test_a_space_written_down_is_read_back_equal():
    space = read(
        {"gamma": [0.9, 1], "network.hidden": [[8], [8, 8]], "clip_eps": {"low": 0.1, "high": 0.3}, "num_envs": [1, 2]}
    )
    assert read(to_plain_space(space)) == space


def test_lists_are_stored_as_text_and_come_back_as_they_were():
    (hidden,) = read({"network.hidden": [[64, 64], [256]]})
    assert [hidden.value(label) for label in hidden.labels] == [(64, 64), (256,)]
    assert all(isinstance(label, str) for label in hidden.labels)
    assert hidden.label((256,)) == hidden.labels[1] and hidden.label((7,)) is None


def test_an_interval_has_no_label_for_what_lies_outside():
    (rate,) = read({"learning_rate": {"low": 1e-4, "high": 1e-3}})
    assert rate.label(3e-4) == 3e-4 and rate.label(1.0) is None


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({}, "nothing to tune"),
        ({"gama": [0.9]}, "ppo has no setting 'gama' that can be tuned. Did you mean 'gamma'?"),
        ({"seed": [1, 2]}, "no setting 'seed'"),
        ({"env.id": ["CartPole-v1"]}, "no setting 'env.id'"),
        ({"gamma": []}, "expected a list of choices"),
        ({"gamma": 0.9}, "expected a list of choices"),
        ({"gamma": {"low": 0.9}}, "expected a list of choices"),
        ({"gamma": {"low": 0.9, "high": 1, "step": 0.1}}, "expected a list of choices"),
        ({"gamma": {"low": 0.9, "high": 1, "log": "yes"}}, "expected a list of choices"),
        ({"gamma": {"low": 0.9, "high": 0.8}}, "expected low < high, got 0.9 and 0.8."),
        ({"entropy_coef": {"low": 0, "high": 1, "log": True}}, "expected low < high, both above 0 for log"),
        ({"gamma": [0.9, "high"]}, "space.yaml: gamma: expected a number, got 'high'."),
        ({"gamma": [0.9, 1.5]}, "space.yaml: gamma: expected a number from 0 to 1, got 1.5."),
        ({"advantages": {"low": "none", "high": "batch"}}, "expected a list of choices"),
        ({"gamma": [0.9], "hyperparameters.gamma": [0.8]}, "given twice"),
    ],
)
def test_what_is_wrong_with_a_space_is_said_in_a_sentence(mapping, said):
    with pytest.raises(UserError) as error:
        read(mapping)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_every_algorithm_has_a_space_of_its_own(algorithm):
    experiment = default_experiment(algorithm)
    for discrete in (False, True):
        space = read_space(default_space(algorithm, discrete=discrete), experiment, algorithm)
        assert len(space) >= 4 and any(path[-1] == "learning_rate" for path, *_ in space)


@pytest.mark.parametrize(("algorithm", "name"), [("ppo", "network.log_std_init"), ("vmpo", "eps_std")])
def test_what_shapes_a_gaussian_is_not_tuned_where_actions_are_choices(algorithm, name):
    everything, rest = (default_space(algorithm, discrete=discrete) for discrete in (False, True))
    assert set(everything) - set(rest) == {name}


def test_numbers_are_the_hyperparameters_that_shape_no_program():
    def number(*path):
        return is_number(Experiment(), path)

    assert number("hyperparameters", "gamma") and number("hyperparameters", "entropy_coef")
    assert not number("hyperparameters", "num_steps") and not number("hyperparameters", "advantages")
    assert not number("hyperparameters", "normalization", "obs_clip") and not number("network", "log_std_init")
