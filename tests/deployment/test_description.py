"""What `policy.json` may say, and the sentences with which anything else is refused."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from policy_gradients.deployment import read_bundle
from policy_gradients.deployment.description import parse_description
from policy_gradients.errors import UserError

Agent: TypeAlias = Any  # of conftest.py


@pytest.fixture(scope="module")
def document(toy: Agent, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return asdict(read_bundle(toy.write(tmp_path_factory.mktemp("toy") / "policy")).description)


def changed(document: dict[str, Any], **parts: dict[str, Any]) -> dict[str, Any]:
    return {**document, **{name: {**document[name], **part} for name, part in parts.items()}}


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_description(document)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence[-1] in ".?" and sentence.encode() and len(sentence) < 300
    return sentence


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"environment": {"dt": 0.0}}, "environment.dt cannot be 0.0"),
        ({"environment": {"dt": -0.05}}, "environment.dt cannot be -0.05"),
        ({"environment": {"dt": float("inf")}}, "environment.dt: expected float, not inf"),
        ({"environment": {"dt": float("nan")}}, "environment.dt: expected float, not nan"),
        ({"environment": {"max_episode_steps": 0}}, "environment.max_episode_steps cannot be 0"),
        ({"environment": {"max_episode_steps": -5}}, "environment.max_episode_steps cannot be -5"),
        ({"environment": {"id": ""}}, "environment.id cannot be a text of 0 characters"),
        ({"observation": {"low": (2.0,), "high": (1.0,)}}, "observation.low cannot be 2.0 where high is 1.0"),
        ({"action": {"low": (0.0,), "high": (1.0, 2.0, -0.5)}}, "action.low cannot be 0.0 where high is -0.5"),
        ({"observation": {"names": ("a",) * 7}}, "observation.names cannot be 7 names for 5 coordinates"),
        ({"action": {"names": ("a", "b")}}, "action.names cannot be 2 names for 3 coordinates"),
    ],
)
def test_what_makes_no_sense_is_refused(document: dict[str, Any], parts: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(changed(document, **parts))


def test_names_of_discrete_actions_are_counted(make_agent: Callable[..., Agent], tmp_path: Path) -> None:
    from policy_gradients.networks import NetworkConfig

    path = make_agent(NetworkConfig(hidden=()), discrete=True).write(tmp_path / "policy")
    document = asdict(read_bundle(path).description)
    assert parse_description(changed(document, action={"names": tuple("abcd")})).action.names == tuple("abcd")
    assert "3 names for 4 coordinates" in refusal(changed(document, action={"names": tuple("abc")}))


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ({"environment": {"id": "\ud800x"}}, "environment.id"),
        ({"environment": {"versions": {"\udfff": "1"}}}, "environment.versions"),
        ({"environment": {"\ud800": 1}}, "environment."),
        ({"observation": {"names": ("\ud800", "b", "c", "d", "e")}}, "observation.names[0]"),
        ({"provenance": {"mean_reward": "x\ud800"}}, "provenance."),
        ({"provenance": {"versions": {"a": [{"b\ud800": 1}]}}}, "provenance."),
    ],
)
def test_half_a_surrogate_pair_is_refused(document: dict[str, Any], parts: dict[str, Any], path: str) -> None:
    assert path in refusal(changed(document, **parts))


@pytest.mark.parametrize(
    "parts",
    [
        {"environment": {"id": "A" * 100_000}},
        {"environment": {"A" * 100_000: 1}},
        {"environment": {"a\nb": 1}},
        {"environment": {"versions": {"A" * 100_000: 1}}},
        {"network": {"hidden": [1] * 200_000}},
        {"network": {"hidden": "A" * 100_000}},
        {"observation": {"shape": [1] * 200_000}},
        {"action": {"shape": [1] * 200_000}},
        {"action": {"n": 10**4000, "kind": "discrete"}},
    ],
)
def test_sentences_are_cut(document: dict[str, Any], parts: dict[str, Any]) -> None:
    refusal(changed(document, **parts))
