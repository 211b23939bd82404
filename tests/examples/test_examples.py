"""Every example runs, with few steps; and the metrics of their runs are those that docs/metrics.md explains."""

import json
import math
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest

from policy_gradients.training.config import CONFIGS, parse_experiment
from policy_gradients.training.rollout import init_carry
from policy_gradients.training.setup import build, make_environment

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def promotion_as_in_a_script():
    """Examples are a user's code, under JAX's own rules; optax's Adam needs them too."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def gymnasium_run(tmp_path_factory):
    """The run of the example with a Gymnasium environment, which needs its module on the path as a script has it."""
    run = tmp_path_factory.mktemp("examples") / "gymnasium"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        score = example("custom_gymnasium")(total_steps=2048, run_dir=str(run))
    assert 0 < score < 100
    return run


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_has_fewer_than_sixty_lines(path):
    assert len(path.read_text().splitlines()) < 60


def test_a_gymnasium_environment_of_your_own_trains(gymnasium_run):
    assert rows(gymnasium_run)[-1]["time/total_timesteps"] == 2048


def test_a_jax_environment_of_your_own_trains(tmp_path):
    assert 0 < example("custom_jax")(total_steps=2048, run_dir=str(tmp_path / "run")) < 100


def test_a_network_of_your_own_trains(tmp_path):
    assert -2000 < example("custom_network")(total_steps=4096, run_dir=str(tmp_path / "run")) < 0


def test_the_parts_make_a_loop_of_your_own():
    metrics = example("own_loop")(total_steps=512)
    assert metrics["train/ratio_max_deviation_start"] < 1e-5


def test_a_deployed_policy_acts_without_jax(gymnasium_run):
    script = subprocess.run(
        [sys.executable, str(EXAMPLES / "deploy_numpy.py"), str(gymnasium_run)],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={"PYTHONPATH": f"{EXAMPLES}:{ROOT / 'src'}"},
    )  # fmt: skip
    returns, jax = script.stdout.splitlines()
    assert len(returns.split()) == 1 + 5
    assert all(math.isfinite(float(number)) for number in returns.split()[1:])
    assert jax == "JAX in this process: False"


def test_the_documented_metrics_are_those_of_a_run(gymnasium_run):
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"`((?:rollout|train|normalizer|eval|time)/\w+)`", page))
    of_a_run = set().union(*rows(gymnasium_run))
    assert of_a_run <= documented
    assert documented == of_a_run | set().union(*map(metrics_of, CONFIGS))


def metrics_of(algorithm):
    """What an iteration tells, with discrete and with continuous actions; nothing is compiled."""
    names = set()
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        experiment = parse_experiment({"algorithm": algorithm, "env": {"id": env_id}})
        env = make_environment(experiment, 8)
        parts = build(experiment, env)
        learner = jax.eval_shape(parts.algorithm.init, jax.random.key(0))
        carry = jax.eval_shape(partial(init_carry, env), jax.random.key(0))
        names |= set(jax.eval_shape(parts.iteration, jax.random.key(0), learner, carry)[2])
    return names
