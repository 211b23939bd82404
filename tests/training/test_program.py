"""The compiled program of a run: several updates in a call are the same updates one by one."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients import compilation
from policy_gradients.algorithms import A2CConfig
from policy_gradients.environments.base import EnvironmentFailure
from policy_gradients.environments.registry import make
from policy_gradients.networks import NetworkConfig
from policy_gradients.training.config import EnvironmentConfig, Experiment
from policy_gradients.training.program import STEPS_PER_CALL, UPDATES_PER_CALL, Program, most_updates
from policy_gradients.training.setup import build, initial_state, make_environment

N, T = 4, 8
CARTPOLE = Experiment(
    algorithm="a2c",
    hyperparameters=A2CConfig(num_steps=T, learning_rate=3e-3),
    env=EnvironmentConfig(id="CartPole-v1", num_envs=N),
    network=NetworkConfig(hidden=(8,)),
    total_steps=1000,
)
KEY = jax.random.key(5)


def parts_of(experiment=CARTPOLE):
    return build(experiment, make_environment(experiment, experiment.env.num_envs))


@pytest.fixture(scope="module")
def parts():
    return parts_of()


@pytest.fixture(scope="module")
def program(parts):
    return Program(parts, N * T, KEY, initial_state(parts, KEY))


def assert_equal(a, b):
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key) else x  # noqa: E731
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(plain(x), plain(y)), a, b)


def test_several_updates_in_a_call_are_the_same_updates_one_by_one(parts, program):
    together, rows = program(initial_state(parts, KEY), 0, 5)
    alone, state = [], initial_state(parts, KEY)
    for update in range(5):
        state, (row,) = program(state, update, 1)
        alone.append(row)
    assert_equal(together, state)
    assert_equal(rows, alone)


def test_a_call_runs_the_iteration_with_the_key_of_each_update(parts, program):
    found, rows = program(initial_state(parts, KEY), 3, 2)
    learner, carry = initial_state(parts, KEY)
    for update in (3, 4):
        learner, carry, metrics = parts.iteration(jax.random.fold_in(KEY, update), learner, carry)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found.learner.params, learner.params)
    assert rows[-1]["train/value_loss"] == pytest.approx(float(metrics["train/value_loss"]), rel=1e-4)


def test_every_update_tells_its_steps(parts, program):
    _, rows = program(initial_state(parts, KEY), 0, 4)
    assert [row["time/total_timesteps"] for row in rows] == [N * T * (i + 1) for i in range(4)]


def test_on_a_gpu_updates_share_a_call_however_large_they_are(parts, monkeypatch):
    monkeypatch.setattr("policy_gradients.backend.platform", lambda: "gpu")
    spec = parts.env.spec
    assert most_updates(spec, 100 * STEPS_PER_CALL) == UPDATES_PER_CALL
    assert most_updates(replace(spec, on_host=True), STEPS_PER_CALL) == 1
    assert most_updates(replace(spec, engine="warp"), STEPS_PER_CALL) == 1


def test_a_large_update_has_a_call_of_its_own(parts):
    state = initial_state(parts, KEY)
    large = Program(parts, STEPS_PER_CALL, KEY, state)
    assert large.at_most == 1
    (learner, _), rows = large(state, 0, 1)
    assert len(rows) == 1 and int(learner.step) == N * T


def test_a_simulator_that_fails_in_a_call_leaves_the_state_before_it():
    env = make("gymnasium:CartPole-v1", 2)
    experiment = replace(CARTPOLE, env=EnvironmentConfig(id="gymnasium:CartPole-v1", num_envs=2))
    parts = build(experiment, env)
    state = initial_state(parts, KEY)
    program = Program(parts, 2 * T, KEY, state)
    before = jax.device_get(state.learner)
    env.close()
    with pytest.raises(EnvironmentFailure):
        program(state, 0, 3)
    assert_equal(jax.device_get(state.learner), before)


def test_options_of_the_compiler_change_speed_and_not_what_is_learnt(parts):
    state = initial_state(parts, KEY)
    options = compilation.for_training()
    programs = [parts.iteration.lower(KEY, *state).compile(compiler_options=given) for given in (None, options)]
    ours, theirs = (program(KEY, *initial_state(parts, KEY))[0].params for program in programs)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, theirs)


def test_calls_grow_while_they_are_short_and_shrink_beside_a_slow_simulator(parts, monkeypatch):
    program = Program(parts, N * T, KEY, initial_state(parts, KEY))
    now = iter([0.0, 0.01, 1.0, 1.02, 2.0, 6.0])  # one update in 10 ms, two in 20 ms, four in 4 s
    monkeypatch.setattr("policy_gradients.training.program.time.perf_counter", lambda: next(now))
    suggested, state = [program.suggested], initial_state(parts, KEY)
    for _ in range(3):
        state, _ = program(state, 0, program.suggested)
        suggested.append(program.suggested)
    assert suggested == [1, 2, 4, 1]
