"""The tasks on MuJoCo Warp beside the same tasks on MuJoCo's C engine; on Warp's CPU device, with a few worlds.

Slow: kernels are compiled once for each kind of model (minutes), and kept in Warp's cache (WARP_CACHE_PATH).
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("warp")
pytest.importorskip("mujoco_warp")

from policy_gradients.environments.base import first_elapsed
from policy_gradients.environments.mujoco.warp import make_warp
from policy_gradients.training.devices import make_mesh

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
N = 12


@pytest.fixture(scope="module")
def bench():
    """The benchmark that compares the engines on a GPU, as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "parity_gpu.py"
    spec = importlib.util.spec_from_file_location("parity_gpu", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity_gpu"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hopper():
    """An environment, its compiled reset and step."""
    env = make_warp("Hopper-v4", N, device="cpu")
    return env, jax.jit(env.reset), jax.jit(env.step)


TASKS = ["HalfCheetah-v4", "Hopper-v5", "Walker2d-v5", "Swimmer-v4", "Ant-v5", "Humanoid-v4"]
TASKS += ["InvertedDoublePendulum-v5"]


@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_the_c_engines_up_to_single_precision(bench, task):
    """Median and largest over states; the largest is for contacts, which amplify rounding."""
    found = bench.compare(task, 32, "cpu")
    assert found["one_step"]["termination_agreement"] == 1
    assert found["one_step"]["obs_median"] < 1e-4 and found["one_step"]["obs_max"] < 2e-2
    assert found["one_step"]["reward_median"] < 1e-5 and found["one_step"]["reward_max"] < 1e-3
    if found["ten_steps"]["worlds"]:  # some pendulums have fallen everywhere by then
        assert found["ten_steps"]["obs_median"] < 1e-3
    assert found["first_obs_distance"]["largest"] < found["first_obs_distance"]["allowed"]
    assert found["env/overflows"] == found["env/unstable_worlds"] == 0


def test_a_limit_cuts_all_worlds_and_the_next_episodes_begin_near_the_reference():
    env = make_warp("Hopper-v4", N, max_episode_steps=2, device="cpu")
    step, (state, first) = jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))
    for i in range(2):
        state, out = step(state, jnp.zeros((N, 3)))
        assert bool(out.truncated.all()) == (i == 1)
    assert np.abs(out.obs - first).max() < 0.011, "first states lie within 0.005 of the reference"
    assert np.abs(out.final_obs - out.obs).max() > 0.02, "the last observation is the old episode's"
    assert not np.array_equal(out.obs, first), "every episode draws anew"
    assert (np.asarray(state.elapsed) == 0).all()


def test_staggered_worlds_reach_the_limit_one_after_another(hopper):
    env = make_warp("Hopper-v4", N, max_episode_steps=N, stagger=True, device="cpu")
    step, (state, _) = jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))
    np.testing.assert_array_equal(state.elapsed, first_elapsed(N, N))
    state, out = step(state, jnp.zeros((N, 3)))
    np.testing.assert_array_equal(out.truncated, first_elapsed(N, N) == N - 1)
    np.testing.assert_array_equal(state.elapsed, (first_elapsed(N, N) + 1) % N)
    assert not hopper[0].spec.staggered


def test_a_world_that_becomes_unstable_is_reset_counted_and_not_learnt_from(hopper):
    env, reset, step = hopper
    state, _ = reset(jax.random.key(0))
    broken = state._replace(physics=state.physics.at[3, 7].set(jnp.nan))
    state, out = step(broken, jnp.zeros((N, 3)))
    assert not out.valid[3] and out.truncated[3] and bool(jnp.delete(out.valid, 3).all())
    for field in (out.obs, out.final_obs, out.reward, state.physics):
        assert np.isfinite(field).all()
    assert env.metrics(state)["env/unstable_worlds"] == 1
    state, out = step(state, jnp.zeros((N, 3)))
    assert bool(out.valid.all())


def test_a_snapshot_continues_the_same_trajectory(hopper):
    env, reset, step = hopper
    state, _ = reset(jax.random.key(1))
    state, _ = step(state, jnp.ones((N, 3)))
    blank, _ = reset(jax.random.key(2))
    again = env.restore(env.snapshot(state), blank)
    expected, got = step(state, jnp.ones((N, 3)))[1], step(again, jnp.ones((N, 3)))[1]
    np.testing.assert_array_equal(got.obs, expected.obs)


def test_first_states_with_derived_fields_come_from_the_ring_oldest_first():
    """Humanoid's first observation needs inertias and velocities of bodies, which the physics computes."""
    env = make_warp("Humanoid-v4", 4, max_episode_steps=1, device="cpu")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    queue = np.asarray(state.ready.obs)
    _, out = jax.jit(env.step)(state, jnp.zeros((4, 17)))
    np.testing.assert_array_equal(out.obs, queue)


def test_contacts_without_room_are_counted(monkeypatch):
    from policy_gradients.environments.mujoco import warp_physics

    monkeypatch.setitem(warp_physics.CAPACITIES, "Humanoid", warp_physics.Capacity(24, 4))
    env = make_warp("Humanoid-v4", 4, device="cpu")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for _ in range(25):  # it falls to the floor
        state, _ = step(state, jnp.zeros((4, 17)))
    assert env.metrics(state)["env/overflows"] > 0


def test_the_specification_is_the_c_engines_but_for_where_it_runs(hopper):
    from policy_gradients.environments.registry import make

    ours, theirs = hopper[0].spec, make("mujoco:Hopper-v4", N).spec
    assert ours.engine == "warp" and not ours.on_host and {"warp-lang", "mujoco-warp"} <= set(ours.versions)
    same = replace(ours, engine=theirs.engine, on_host=True, versions=theirs.versions)
    for name in ("id", "num_envs", "max_episode_steps", "dt", "obs_names", "action_names", "exact_resume"):
        assert getattr(same, name) == getattr(theirs, name), name


@pytest.mark.parametrize("task", ["Hopper-v4", "Humanoid-v4"])
def test_members_of_a_map_step_as_each_would_alone(task):
    """Humanoid prepares its first states by the physics, so both kinds of call are folded."""
    env = make_warp(task, 4, device="cpu")
    keys = jax.random.split(jax.random.key(0), 3)
    state, first = jax.jit(jax.vmap(env.reset))(keys)
    action = jax.random.uniform(jax.random.key(1), (3, 4, *env.spec.action_space.shape), minval=-1, maxval=1)
    _, together = jax.jit(jax.vmap(env.step))(state, action)
    for i in range(3):
        state, obs = jax.jit(env.reset)(keys[i])
        np.testing.assert_array_equal(obs, first[i])
        _, alone = jax.jit(env.step)(state, action[i])
        for mine, its in zip(alone, together, strict=True):
            np.testing.assert_array_equal(mine, its[i])


def test_worlds_on_several_devices_step_as_on_one_and_move_between_them():
    action = jax.random.uniform(jax.random.key(1), (8, 3), minval=-1, maxval=1)
    one, two = (make_warp("Hopper-v4", 8, device="cpu", mesh=make_mesh(devices, 8)) for devices in (1, 2))
    assert one.spec.num_envs == two.spec.num_envs == 8
    state, _ = jax.jit(two.reset)(jax.random.key(0))
    state, out = jax.jit(two.step)(state, action)
    assert len(state.physics.sharding.device_set) == 2 and len(np.unique(np.asarray(out.obs)[:, 0])) == 8
    moved = one.restore(two.snapshot(state), jax.jit(one.reset)(jax.random.key(5))[0])
    expected, got = jax.jit(two.step)(state, action)[1], jax.jit(one.step)(moved, action)[1]
    np.testing.assert_array_equal(got.final_obs, expected.final_obs)
    back = two.restore(one.snapshot(moved), state)
    np.testing.assert_array_equal(back.physics, state.physics)


def test_counts_are_kept_when_worlds_move_to_another_number_of_devices():
    one, two = (make_warp("Hopper-v4", 8, device="cpu", mesh=make_mesh(devices, 8)) for devices in (1, 2))
    state, _ = jax.jit(two.reset)(jax.random.key(0))
    state = state._replace(unstable=state.unstable + jnp.array([2, 3], jnp.int32))
    assert two.metrics(state)["env/unstable_worlds"] == 5
    moved = one.restore(two.snapshot(state), jax.jit(one.reset)(jax.random.key(1))[0])
    assert one.metrics(moved)["env/unstable_worlds"] == 5
    assert two.metrics(two.restore(one.snapshot(moved), state))["env/unstable_worlds"] == 5
