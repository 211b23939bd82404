"""Which engine an id gets, and what `make` puts around it."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments import envpool, registry
from policy_gradients.environments.catalogue import describe, environment_info, environments
from policy_gradients.environments.registry import make, resolve
from policy_gradients.errors import UserError

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
scripted = importlib.import_module("scripted_environments")


@pytest.fixture(autouse=True)
def no_envpool(monkeypatch):
    """As on a machine without EnvPool, also where a test before has listed its ids."""
    monkeypatch.setattr(envpool, "installed", lambda: False)
    envpool.envpool_ids.cache_clear()


@pytest.fixture
def fake_envpool(monkeypatch):
    """As on a machine with an EnvPool that knows two ids."""
    monkeypatch.setattr(envpool, "installed", lambda: True)
    monkeypatch.setattr(envpool, "envpool_ids", lambda: frozenset({"BipedalWalker-v3", "HalfCheetah-v4"}))


@pytest.mark.parametrize(
    ("id", "engine", "name"),
    [
        ("CartPole-v1", "jax", "CartPole-v1"),
        ("ProbeConstantReward-v0", "jax", "ProbeConstantReward-v0"),
        ("Humanoid-v4", "mujoco", "Humanoid-v4"),
        ("BipedalWalker-v3", "gymnasium", "BipedalWalker-v3"),
        ("gymnasium:CartPole-v1", "gymnasium", "CartPole-v1"),
        ("jax:CartPole-v1", "jax", "CartPole-v1"),
        ("my_package:MyEnv-v0", "gymnasium", "my_package:MyEnv-v0"),
        ("gymnasium:my_package:MyEnv-v0", "gymnasium", "my_package:MyEnv-v0"),
        (scripted.make_scripted, "gymnasium", scripted.make_scripted),
    ],
)
def test_an_id_chooses_its_engine_and_a_prefix_forces_it(id, engine, name):
    assert resolve(id) == (engine, name)


def test_envpool_comes_before_gymnasium_and_after_our_own(fake_envpool):
    assert resolve("BipedalWalker-v3") == ("envpool", "BipedalWalker-v3")
    assert resolve("HalfCheetah-v4") == ("mujoco", "HalfCheetah-v4")
    assert resolve("envpool:HalfCheetah-v4") == ("envpool", "HalfCheetah-v4")
    assert resolve("Taxi-v4") == ("gymnasium", "Taxi-v4")


def test_an_envpool_that_cannot_be_imported_is_as_good_as_none(monkeypatch):
    def broken():
        raise UserError("no libEGL")

    monkeypatch.setattr(envpool, "installed", lambda: True)
    monkeypatch.setattr(envpool, "envpool_ids", broken)
    assert resolve("BipedalWalker-v3")[0] == "gymnasium"
    with pytest.raises(UserError, match="libEGL"):
        resolve("envpool:BipedalWalker-v3")


def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(envpool, "installed", lambda: False)
    with pytest.raises(UserError, match=r'pip install "policy-gradients\[envpool\]"'):
        resolve("envpool:Pong-v5")


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("HalfCheeta-v4", r"Unknown environment 'HalfCheeta-v4'.*Did you mean 'HalfCheetah-v4'\?"),
        ("BipedalWalker-v9", r"Did you mean 'BipedalWalker-v3'\?"),
        ("mujoco:CartPole-v1", r"Engine 'mujoco' knows no environment 'CartPole-v1'"),
        ("jax:CartPole-v9", r"Engine 'jax' knows no environment 'CartPole-v9'. Did you mean 'CartPole-v\d'\?"),
    ],
)
def test_an_unknown_id_is_refused_with_a_near_one(id, said):
    with pytest.raises(UserError, match=said):
        resolve(id)


def test_importing_the_registry_imports_no_simulator():
    code = (
        "import sys; from policy_gradients.environments import registry, envpool, gymnasium, wrappers;"
        "assert not {'gymnasium', 'mujoco', 'envpool'} & set(sys.modules)"
    )
    source = str(Path(registry.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("id", [":", ":Hopper-v4", "my_package:"])
def test_an_id_with_nothing_before_or_after_its_colon_is_refused(id):
    with pytest.raises(UserError, match=f"^Unknown environment '{id}': expected .* module:Id-v0"):
        make(id)


@pytest.mark.parametrize(("id", "came"), [(scripted.Scripted(), "a Scripted"), (None, "None")], ids=["env", "None"])
def test_what_is_neither_an_id_nor_a_callable_is_refused(id, came):
    with pytest.raises(UserError, match=rf"^make expects an id or a callable .*, got {came}; .*class"):
        make(id)


def test_whole_numbers_of_numpy_are_whole_numbers():
    env = make("CartPole-v1", np.int64(2), frame_stack=np.int32(2))
    assert type(env.spec.num_envs) is int and env.spec.num_envs == 2 and env.spec.frames == 2


@pytest.mark.parametrize("frame_stack", [0, 1.5, True, None])
def test_frames_are_counted_in_whole_numbers(frame_stack):
    with pytest.raises(UserError, match=f"^frame_stack must be an integer of 1 or more, not {frame_stack}"):
        make("CartPole-v1", frame_stack=frame_stack)


@pytest.mark.parametrize("bad", [(1,), "high", (1, "x"), (1, 2, 3)])
def test_what_is_no_interval_of_rewards_is_refused(bad):
    with pytest.raises(
        UserError, match=rf"^reward_clip must be a number or an interval \(low, high\), not {re.escape(repr(bad))}"
    ):
        make("CartPole-v1", reward_clip=bad)


def test_an_interval_of_rewards_may_be_a_list():
    env = make("CartPole-v1", reward_clip=[-0.5, 0.5])
    state, _ = env.reset(jax.random.key(0))
    assert env.step(state, jnp.zeros(1, jnp.int32))[1].reward == 0.5


@pytest.mark.parametrize("num_envs", [0, -1, 2.0, True, "8"])
def test_num_envs_must_be_a_positive_integer(num_envs):
    with pytest.raises(UserError, match="num_envs must be an integer of 1 or more"):
        make("CartPole-v1", num_envs)


def test_make_puts_the_wrappers_around_the_engine():
    options = {"max_episode_steps": 7, "obs_clip": 1.5, "reward_clip": 0.25, "num_workers": 0}
    env = make(scripted.Echo, 2, action_map="tanh", frame_stack=3, **options)
    assert env.spec.num_envs == 2 and env.spec.max_episode_steps == 7
    assert env.spec.action_map == "tanh" and env.spec.control_bounds.high.tolist() == [2.0, 2.0]
    state, _ = env.reset(jax.random.key(0))
    _, step = env.step(state, jnp.array([[9.0, 0.5], [-9.0, 0.0]]))
    half = 2 * np.tanh(0.5)
    np.testing.assert_allclose(step.obs, [[0, 0, 0, 0, 1.5, half], [0, 0, 0, 0, -1.5, 0]], rtol=1e-6)
    assert step.reward.tolist() == [0.25, 0.25]
    env.close()


def test_rewards_can_be_clipped_to_an_interval_and_are_not_in_evaluation():
    raw, clipped, scored = (
        make("gymnasium:scripted_environments:Scripted-v0", num_workers=0, **options)
        for options in ({}, {"reward_clip": (-1.0, 5.0)}, {"reward_clip": 5.0, "evaluation": True})
    )
    rewards = []
    for env in (raw, clipped, scored):
        state, _ = env.reset(jax.random.key(0))
        rewards.append(float(env.step(state, jnp.zeros(1, jnp.int32))[1].reward[0]))
        env.close()
    assert rewards == [11, 5, 11]


@pytest.mark.parametrize("id", ["Pendulum-v1", "HalfCheetah-v4"])
def test_our_own_tasks_can_be_staggered_but_not_in_an_evaluation(id):
    for evaluation in (False, True):
        env = make(id, 2, num_threads=1, stagger=True, evaluation=evaluation)
        assert env.spec.staggered is not evaluation
        env.close()


def test_what_cannot_be_staggered_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="stagger is for MuJoCo tasks and environments in JAX, but gymnasium steps"):
        make("gymnasium:CartPole-v1", 2, stagger=True)


def test_a_callable_is_made_by_gymnasium_with_its_options():
    env = make(scripted.make_scripted, 1, num_workers=0, reset_raises_in_episode=5)
    assert env.spec.engine == "gymnasium" and env.spec.id == "make_scripted"
    env.close()


def test_threads_become_worker_processes_for_gymnasium(monkeypatch):
    seen = {}
    monkeypatch.setattr("policy_gradients.environments.gymnasium.make_gymnasium", lambda *a, **k: seen.update(k))
    registry.construct("gymnasium", "X-v0", 4, 3, None, {})
    assert seen["num_workers"] == 3
    registry.construct("gymnasium", "X-v0", 4, 0, None, {})
    assert seen["num_workers"] is None


def test_an_environment_is_closed_where_a_wrapper_refuses(monkeypatch):
    closed = []
    env = make("CartPole-v1")._replace(close=lambda: closed.append(True))
    monkeypatch.setattr(registry, "construct", lambda *args: env)
    with pytest.raises(UserError, match="obs_clip"):
        make("CartPole-v1", obs_clip=-1.0)
    assert closed == [True]


def test_the_list_tells_the_spaces_of_our_own_tasks(fake_envpool):
    listed = {info.id: info for info in environments("cheetah-V4")}
    assert listed["HalfCheetah-v4"] == ("HalfCheetah-v4", "mujoco", "Box(17)", "Box(6) in [-1, 1]", 1000)
    assert environments("cartpole-v1")[0] == ("CartPole-v1", "jax", "Box(4)", "Discrete(2)", 500)
    assert environments("BipedalWalker-v3") == [("BipedalWalker-v3", "envpool", "", "", None)]
    assert environments("Taxi-v4") == [("Taxi-v4", "gymnasium", "", "", 200)]
    assert environments("no such thing") == []


def test_describe_starts_the_simulator_to_find_out():
    spec = describe("gymnasium:scripted_environments:Scripted-v0", num_workers=0)
    assert environment_info(spec) == ("scripted_environments:Scripted-v0", "gymnasium", "Box(3)", "Discrete(12)", 4)


def test_atari_options_follow_the_arguments_of_make(monkeypatch):
    known = {"stack_num": 4, "reward_clip": False, "episodic_life": False}
    monkeypatch.setattr(envpool, "task_options", lambda id: known)
    options = registry._atari_options
    assert options("Pong-v5", 1, None, False, {}) == ({}, 1)
    assert options("Pong-v5", 2, None, False, {}) == ({"stack_num": 2}, 1)
    assert options("Pong-v5", 1, 5.0, False, {}) == ({"reward_clip": False}, 1)
    assert options("Pong-v5", 1, None, True, {}) == ({"reward_clip": False, "episodic_life": False}, 1)
    known.clear()
    assert options("LunarLander-v3", 2, 5.0, True, {"x": 1}) == ({"x": 1}, 2)
