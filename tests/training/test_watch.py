"""What a run says of its engine, and when it stops because of it."""

from types import SimpleNamespace

import pytest

from policy_gradients.environments.base import EnvironmentFailure
from policy_gradients.training import watch as watching
from policy_gradients.training.config import EnvironmentConfig, Experiment
from policy_gradients.training.watch import EngineWatch, settle_engine

SPEC = SimpleNamespace(id="Humanoid-v4", engine="warp")


def test_what_goes_wrong_is_said_once():
    said = []
    watch = EngineWatch(SPEC, said.append)  # pyright: ignore[reportArgumentType]
    watch({"env/overflows": 0.0}, 1000)
    for count in (3.0, 4.0):
        watch({"env/overflows": count}, 1000)
    assert len(said) == 1 and "3 of 1,000 steps found no room" in said[0]


@pytest.mark.parametrize("name", ["env/overflows", "env/unstable_worlds"])
def test_what_goes_wrong_often_stops_the_run(name):
    watch = EngineWatch(SPEC, print)  # pyright: ignore[reportArgumentType]
    watch({name: 10.0}, 1000)
    with pytest.raises(EnvironmentFailure, match=r"Humanoid-v4: 11 of 1,000"):
        watch({name: 11.0}, 1000)


@pytest.mark.parametrize(("engine", "named"), [("warp", True), ("brax", False)])
def test_another_engine_is_named_only_where_there_is_one(engine, named):
    watch = EngineWatch(SimpleNamespace(id="ant", engine=engine), print)  # pyright: ignore[reportArgumentType]
    with pytest.raises(EnvironmentFailure) as failure:
        watch({"env/unstable_worlds": 11.0}, 1000)
    assert ("--engine batch" in str(failure.value)) == named


def test_a_run_keeps_the_engine_that_its_machine_chose():
    experiment, line = settle_engine(Experiment(env=EnvironmentConfig("HalfCheetah-v4")))
    assert experiment.env.engine == "batch" and line.startswith("Engine batch: MuJoCo's C engine on the processor")


@pytest.mark.parametrize(("options", "place"), [({}, "the GPU"), ({"device": "cpu"}, "the processor")])
def test_the_device_that_was_asked_for_is_named(options, place, monkeypatch):
    monkeypatch.setattr(watching, "settle", lambda *args: ("warp", "as asked for"))
    line = settle_engine(Experiment(env=EnvironmentConfig("Hopper-v4", engine="warp", num_envs=16, kwargs=options)))[1]
    assert line == f"Engine warp: MuJoCo Warp on {place}, 16 worlds (as asked for)."


def test_nothing_is_said_of_engines_where_there_is_one_only():
    asked = Experiment(env=EnvironmentConfig("CartPole-v1"))
    assert settle_engine(asked) == (asked, "")
