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

from policy_gradients.environments.mujoco.warp import make_warp

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
