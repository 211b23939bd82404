"""Which back end a run beside a simulator on the host computes on; the "GPU" of these tests is a second CPU device."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients import backend
from policy_gradients.cli.main import main
from policy_gradients.environments.registry import make
from policy_gradients.errors import UserError
from policy_gradients.networks.actor_critic import NetworkConfig
from policy_gradients.training import loop, placement, session
from policy_gradients.training.config import (
    CheckpointConfig,
    EnvironmentConfig,
    EvaluationConfig,
    Experiment,
    LoggingConfig,
    config_hash,
    default_experiment,
    load_experiment,
    save_experiment,
)
from policy_gradients.training.placement import part_of_update, seconds_of_update, settle_backend

pytestmark = pytest.mark.usefixtures("programs_compiled_once")

HOST = SimpleNamespace(on_host=True)
INSIDE = SimpleNamespace(on_host=False)


@pytest.fixture
def a_gpu(monkeypatch):
    """JAX that computes on a "GPU" unless it is told otherwise; its processor is the second device here."""
    found = jax.devices()
    gpu = SimpleNamespace(platform="gpu", device_kind="Testing GPU")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda platform=None: found[1:2] if platform == "cpu" else [gpu])
    return found[1]


def taking(cpu, gpu):
    """A measurement that finds these seconds, and notes where it was made."""

    def measure(*_):
        measure.on.append(backend.platform())
        return {"cpu": cpu, "gpu": gpu}[backend.platform()]

    measure.on = []
    return measure


def settle(experiment, spec, measure):
    return settle_backend(experiment, spec, None, measure)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("cpu", "gpu", "chosen", "other"), [(0.12, 0.31, "cpu", "gpu"), (3.0, 0.2, "gpu", "cpu")])
def test_beside_a_simulator_on_the_host_the_faster_back_end_is_chosen(a_gpu, cpu, gpu, chosen, other):
    measure = taking(cpu, gpu)
    got, line = settle(Experiment(), HOST, measure)
    assert got == chosen and sorted(measure.on) == ["cpu", "gpu"]
    assert line.startswith(f"Back end {chosen}: ") and f"(--backend {other} overrides)" in line
    assert f"{cpu:.2g} s on the processor" in line and f"{gpu:.2g} s on Testing GPU" in line


@pytest.mark.parametrize("asked", ["cpu", "gpu"])
def test_a_back_end_that_is_asked_for_is_taken_unmeasured(a_gpu, asked):
    measure = taking(1.0, 1.0)
    assert settle(Experiment(backend=asked), HOST, measure) == (asked, "") and not measure.on


def test_inside_the_program_there_is_nothing_to_choose(a_gpu):
    measure = taking(1.0, 2.0)
    assert settle(Experiment(), INSIDE, measure) == ("auto", "") and not measure.on


def test_without_an_accelerator_there_is_nothing_to_choose():
    measure = taking(1.0, 2.0)
    assert settle(Experiment(), HOST, measure) == ("auto", "") and not measure.on
    with backend.computing_on("auto"), backend.computing_on("cpu"):
        assert jax.config.jax_default_device is None, "nothing of JAX is touched"


def test_programs_and_arrays_are_the_back_ends_that_computes(a_gpu):
    assert backend.platform() == "gpu"
    with backend.computing_on("cpu"):
        assert backend.platform() == "cpu" and backend.devices() == [a_gpu]
        program = jax.jit(lambda x: x + 1).lower(np.float32(1)).compile()
        assert jnp.zeros(3).devices() == {a_gpu}
    assert program(np.float32(2)).devices() == {a_gpu}
    assert backend.platform() == "gpu"


def test_a_gpu_that_is_not_there_is_refused_in_a_sentence(capsys, tmp_path):
    with (
        pytest.raises(UserError, match=r"gpu was asked for, but JAX sees only cpu devices"),
        backend.computing_on("gpu"),
    ):
        pass
    folder = tmp_path / "run"
    assert main(["train", "ppo", "--env", "CartPole-v1", "--backend", "gpu", "--run-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "--backend auto" in error and error.count("\n") == 1
    assert not folder.exists()


def small(**changes):
    ppo = default_experiment("ppo").hyperparameters
    base = Experiment(
        env=EnvironmentConfig("InvertedPendulum-v4", num_envs=2),
        hyperparameters=replace(ppo, num_steps=8, num_minibatches=2, num_epochs=1),
        network=NetworkConfig(hidden=(4,)),
        evaluation=EvaluationConfig(num_evaluations=0),
        checkpoint=CheckpointConfig(num_checkpoints=1),
        logging=LoggingConfig(progress="lines"),
        total_steps=32,
        video=False,
    )
    return replace(base, **changes)


def test_a_run_computes_on_what_was_chosen_and_keeps_it(a_gpu, monkeypatch, tmp_path, capsys):
    measure, seen = taking(1.0, 2.0), []
    monkeypatch.setattr(placement, "seconds_of_update", measure)
    save = session.save_state
    monkeypatch.setattr(session, "save_state", lambda *args, **kw: (seen.append(args[3]), save(*args, **kw)))
    monkeypatch.setattr(session, "make_pictures", lambda *_, **__: None)
    loop.train(small(), tmp_path / "run")
    assert capsys.readouterr().out.count("Back end cpu: ") == 1
    assert load_experiment(tmp_path / "run" / "config.yaml").backend == "cpu"
    loop.resume(tmp_path / "run", total_steps=32)
    assert sorted(measure.on) == ["cpu", "gpu"], "a resumed run does not measure again"
    assert len(seen) == 2
    assert {device for state in seen for leaf in jax.tree.leaves(state) for device in leaf.devices()} == {a_gpu}


def test_a_run_resumes_on_another_back_end_when_asked(monkeypatch, tmp_path):
    file, ran = tmp_path / "config.yaml", []
    save_experiment(small(backend="cpu"), file)
    monkeypatch.setattr(loop, "_run", lambda experiment, *_: ran.append(experiment.backend))
    with pytest.raises(UserError, match="JAX sees only cpu devices"):
        loop.resume(tmp_path, backend="gpu")
    assert load_experiment(file).backend == "cpu", "a refusal changes nothing"
    loop.resume(tmp_path)
    loop.resume(tmp_path, backend="auto")
    assert ran == ["cpu", "auto"]


def test_what_computes_is_no_part_of_the_setting():
    assert config_hash(Experiment(backend="cpu")) == config_hash(Experiment())


@pytest.mark.parametrize(
    ("num_envs", "steps", "minibatches"),
    [(8, 256, 32), (64, 128, 4), (64, 5, 16), (16, 2048, 1), (3, 7, 21), (1, 2, 2)],
)
def test_a_part_of_an_update_has_minibatches_as_large_as_the_whole(num_envs, steps, minibatches):
    ppo = replace(default_experiment("ppo").hyperparameters, num_steps=steps, num_minibatches=minibatches)
    part, times = part_of_update(Experiment(hyperparameters=ppo), num_envs)
    config = part.hyperparameters
    assert config.num_steps * times == steps and config.num_epochs == ppo.num_epochs
    assert config.num_steps * num_envs % config.num_minibatches == 0
    assert num_envs * config.num_steps / config.num_minibatches == pytest.approx(
        num_envs * steps / minibatches, rel=0.4
    )


def test_algorithms_without_minibatches_are_timed_whole():
    part, times = part_of_update(default_experiment("a2c"), 16)
    assert times == 1 and part == default_experiment("a2c")


def test_an_update_is_timed_without_its_simulator(monkeypatch):
    monkeypatch.setattr(placement, "SECONDS", 0.0)
    env = make("InvertedPendulum-v4", 2)
    env.close()
    assert 0 < seconds_of_update(small(), env.spec, None) < 60
