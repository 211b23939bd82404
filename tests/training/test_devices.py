"""Several devices: the results of one, wherever the arrays lie."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from policy_gradients import compilation
from policy_gradients.algorithms import A2CConfig, PPOConfig, REINFORCEConfig, TRPOConfig, VMPOConfig
from policy_gradients.environments.base import Discrete, EnvironmentSpec, Step, box
from policy_gradients.environments.device import device_environment
from policy_gradients.environments.devices import over_devices
from policy_gradients.errors import UserError
from policy_gradients.estimation.batches import shuffle
from policy_gradients.networks import NetworkConfig
from policy_gradients.training import loop, session
from policy_gradients.training.config import (
    EnvironmentConfig,
    EvaluationConfig,
    Experiment,
    LoggingConfig,
    parse_experiment,
)
from policy_gradients.training.devices import make_mesh
from policy_gradients.training.program import Program
from policy_gradients.training.setup import build, initial_state

N, T = 8, 8
QUICK = {"num_steps": T, "lr_schedule": "constant", "learning_rate": 1e-3}
CONFIGS = {
    "reinforce": REINFORCEConfig(**QUICK, baseline="value"),
    "a2c": A2CConfig(**QUICK),
    # Conjugate gradients amplify the rounding of sums in another order; not so where the matrix is near the identity.
    "trpo": TRPOConfig(**QUICK, value_epochs=2, num_minibatches=2, cg_damping=1.0),
    "ppo": PPOConfig(**QUICK, num_epochs=2, num_minibatches=2),
    "vmpo": VMPOConfig(**QUICK, num_epochs=2, num_minibatches=2),
}


def make_experiment(algorithm: str = "ppo", updates: int = 3) -> Experiment:
    return Experiment(
        algorithm=algorithm,
        hyperparameters=CONFIGS[algorithm],
        env=EnvironmentConfig(id="CartPole-v1", num_envs=N, max_episode_steps=6),
        network=NetworkConfig(hidden=(8,)),
        evaluation=EvaluationConfig(num_evaluations=0),
        logging=LoggingConfig(progress="none"),
        total_steps=updates * N * T,
        video=False,
    )


def pushed(discrete: bool):
    """Points that actions push; episodes end on the right."""
    space = Discrete(2) if discrete else box(-1, 1, (1,))
    spec = EnvironmentSpec("Pushed-v0", "jax", N, box(-np.inf, np.inf, (2,)), space)

    def reset(key):
        start = jax.random.uniform(key, (N, 2))
        return start, start

    def step(state, action):
        after = 0.9 * state + 0.2 * action.reshape(N, 1).astype(jnp.float32)
        done = after[:, 0] > 0.7
        obs = jnp.where(done[:, None], 0.0, after)
        return obs, Step(obs, after, after[:, 0] - 2 * after[:, 1], done, jnp.zeros_like(done), jnp.ones_like(done))

    return device_environment(spec, reset, step)


@cache
def learnt(algorithm: str, kind: str, devices: int):
    """The learner, the carry and the metrics after three updates."""
    mesh = make_mesh(devices, N)
    parts = build(make_experiment(algorithm), pushed(kind == "discrete"), mesh=mesh)
    state = initial_state(parts, jax.random.key(0))
    program = parts.iteration.lower(jax.random.key(1), *state).compile(compiler_options=compilation.for_few_runs())
    for update in range(3):
        learner, carry, metrics = program(jax.random.key(update), *state)
        state = learner, carry
    return learner, carry, metrics


FAST = {("reinforce", "discrete"), *((algorithm, "continuous") for algorithm in ("a2c", "trpo", "ppo", "vmpo"))}
CASES = [
    pytest.param(algorithm, kind, marks=() if (algorithm, kind) in FAST else pytest.mark.slow)
    for algorithm in CONFIGS
    for kind in ("discrete", "continuous")
]


@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_four_devices_learn_what_one_learns(algorithm, kind):
    one, four = (learnt(algorithm, kind, devices) for devices in (1, 4))
    assert len(four[1].obs.sharding.device_set) == 4 and not four[1].obs.is_fully_replicated
    for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(four[0].params), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * max(1.0, float(jnp.abs(a).max())))
    assert one[2]["rollout/episodes"] == four[2]["rollout/episodes"] > 0
    assert int(one[0].step) == int(four[0].step) == 3 * N * T


@pytest.mark.parametrize("devices", [1, 2])
def test_a_program_asks_for_the_compilers_options_by_whether_it_is_spread(devices, monkeypatch):
    asked = []
    monkeypatch.setattr(compilation, "for_training", lambda on_host, spread: asked.append((on_host, spread)))
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_, **__: None)
    parts = build(make_experiment("a2c"), pushed(False), mesh=make_mesh(devices, N))
    Program(parts, N * T, jax.random.key(0), initial_state(parts, jax.random.key(0)))
    assert asked == [(False, devices == 2)]


def test_each_device_holds_its_environments_and_the_whole_learner():
    learner, carry, metrics = learnt("ppo", "continuous", 4)
    spread = [carry.obs, carry.env_state, carry.episodes.running_return, learner.statistics.reward.running_return]
    assert all(x.addressable_shards[0].data.shape[0] == N // 4 for x in spread)
    whole = [*jax.tree.leaves((learner.params, learner.opt_state, metrics)), carry.episodes.returns]
    assert all(x.is_fully_replicated for x in whole)


def test_each_device_has_its_share_of_every_minibatch():
    rows = jnp.arange(32.0)
    mesh = make_mesh(4, 4)

    def shuffled(key, rows):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return shuffle(key, rows, 2)

    placed = jax.device_put(rows, jax.NamedSharding(mesh, PartitionSpec()))
    cut = jax.jit(shuffled)(jax.random.key(0), placed)
    assert cut.sharding.shard_shape(cut.shape) == (2, 4)
    np.testing.assert_array_equal(cut, shuffle(jax.random.key(0), rows, 2))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "make_pictures", lambda *args, **kwargs: None)
    experiment = make_experiment(updates=4)
    loop.train(experiment, tmp_path / "one")
    loop.train(replace(experiment, total_steps=2 * N * T, devices=4), tmp_path / "changed")
    loop.resume(tmp_path / "changed", total_steps=4 * N * T, devices=2)
    last = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "changed")]
    assert last[0]["time/total_timesteps"] == last[1]["time/total_timesteps"] == 4 * N * T
    for name in ("rollout/ep_rew_mean", "train/value_loss", "train/update_norm"):
        assert last[1][name] == pytest.approx(last[0][name], rel=1e-4), name


def counting(n: int):
    """Copies that add their action to a number that they drew at reset; the state has a scalar, too."""
    spec = EnvironmentSpec("Count-v0", "jax", n, box(-np.inf, np.inf, (1,)), Discrete(2))

    def reset(key):
        start = jax.random.uniform(key, (n, 1))
        return (start, jnp.int32(0)), start

    def step(state, action):
        number, clock = state
        number = number + action.reshape(-1, 1).astype(jnp.float32)
        no = jnp.zeros(n, jnp.bool_)
        return (number, clock + 1), Step(number, number, number[:, 0], no, no, ~no)

    return device_environment(spec, reset, step)


def test_a_simulator_on_each_device_steps_its_share_of_the_copies():
    env = over_devices(counting(2), make_mesh(4, 8))
    assert env.spec.num_envs == 8
    state, obs = jax.jit(env.reset)(jax.random.key(3))
    shares = [counting(2).reset(jax.random.fold_in(jax.random.key(3), i))[1] for i in range(4)]
    np.testing.assert_array_equal(obs, np.concatenate(shares))
    state, out = jax.jit(env.step)(state, jnp.arange(8) % 2)
    np.testing.assert_array_equal(out.obs, obs + (jnp.arange(8.0) % 2)[:, None])
    assert [x.shape for x in state] == [(4, 2, 1), (4,)] and (state[1] == 1).all()


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v4", "gymnasium:CartPole-v1"])
def test_a_simulator_on_the_host_refuses_several_devices(env_id, tmp_path):
    experiment = replace(make_experiment(), env=EnvironmentConfig(id=env_id, num_envs=N, num_threads=1), devices=4)
    with pytest.raises(UserError, match=r"stepped on the host .* give --devices 1, a process for each device, or"):
        loop.train(experiment, tmp_path / "run")


def test_environments_that_do_not_divide_evenly_are_refused():
    with pytest.raises(UserError, match=r"10 environments cannot be shared out evenly among 4 devices.* such as 8"):
        make_mesh(4, 10)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(UserError, match="5 were asked for, but JAX sees 4"):
        make_mesh(5, 10)


@pytest.mark.parametrize("devices", ["all", -1])
def test_all_devices_may_be_asked_for(devices):
    assert make_mesh(devices, 8).size == 4
    assert parse_experiment({"devices": devices}).devices == devices


def test_a_number_of_devices_may_be_text_and_nonsense_is_refused():
    assert parse_experiment({"devices": "2"}).devices == 2
    with pytest.raises(UserError, match=r"devices: expected a whole number or all, got 'al'. Did you mean 'all'"):
        parse_experiment({"devices": "al"})
    with pytest.raises(UserError, match="devices: expected 1 or more, or all, got 0"):
        parse_experiment({"devices": 0})


def test_one_device_needs_no_mesh():
    assert make_mesh(1, 3) is None
