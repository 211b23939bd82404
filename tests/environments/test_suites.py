"""Suites of others through our own autoreset, on stand-ins with their interfaces."""

import functools
import importlib.util
import sys

import fake_suites
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments import envpool
from policy_gradients.environments.base import Box, Discrete, EnvironmentFailure
from policy_gradients.environments.catalogue import describe, environments
from policy_gradients.environments.registry import make, resolve, settle
from policy_gradients.environments.suites import SUITES, installed
from policy_gradients.environments.suites.task import observation_vector
from policy_gradients.errors import UserError
from policy_gradients.evaluation.video import RenderingUnavailable, record_video
from policy_gradients.training.preset import find_preset

IDS = {
    "gymnax": "gymnax:Fake-v0",
    "gymnax before 1.0": "gymnax:Merging-v0",
    "brax": "brax:fake",
    "playground": "playground:FakeTask",
    "jumanji": "jumanji:Fake-v1",
}
KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def suites(monkeypatch):
    """As on a machine where all four are installed, and EnvPool is not."""
    monkeypatch.setattr(envpool, "installed", lambda: False)
    found = fake_suites.modules()
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


def actions(env, choices):
    """The actions [T, N, …] that mean these choices [T, N] of 0, 1, 2."""
    choices = np.array(choices, np.int32)
    if isinstance(env.spec.action_space, Discrete):
        return jnp.asarray(choices)
    return jnp.asarray(np.array([0.0, 1.0, -1.0], np.float32)[choices][..., None])


def play(env, choices):
    """First observations, and the steps that follow from the choices [T, N]."""

    @jax.jit
    def run(key, drawn):
        state, obs = env.reset(key)
        state, steps = jax.lax.scan(env.step, state, drawn)
        return obs, steps, env.metrics(state)

    return run(KEY, actions(env, choices))


@functools.cache
def two_copies(name):
    """Copy 0 ends the process in its second step; copy 1 never does."""
    limit = {"max_episode_steps": fake_suites.LIMIT} if name == "brax" else {}  # Brax's own is 1,000
    env = make(IDS[name], 2, action_map="none", **limit)
    return env, *play(env, [[0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize("name", IDS)
def test_an_end_of_the_process_is_told_from_a_limit(name):
    _, _, steps, _ = two_copies(name)
    assert np.argwhere(steps.terminated).tolist() == [[1, 0]]
    assert np.argwhere(steps.truncated).tolist() == [[2, 1], [4, 0], [5, 1]]
    assert steps.valid.all()


@pytest.mark.parametrize("name", IDS)
def test_the_last_observation_is_there_and_the_next_episode_begins_anew(name):
    env, first, steps, _ = two_copies(name)
    assert first.dtype == steps.obs.dtype == np.float32 and first.shape[1:] == env.spec.obs_space.shape
    np.testing.assert_array_equal(steps.final_obs[:, 1, 1], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(steps.obs[:, 1, 1], [1, 2, 0, 1, 2, 0])
    np.testing.assert_allclose(steps.final_obs[2, 1, 0], first[1, 0] + 3, rtol=1e-6)
    assert steps.obs[2, 1, 0] != first[1, 0], "a new draw, not the first state once more"
    np.testing.assert_array_equal(steps.reward, steps.final_obs[:, :, 0])


@pytest.mark.parametrize("name", ["gymnax before 1.0", "jumanji"])
def test_a_limit_of_the_users_own_comes_first(name):
    env = make(IDS[name], 1, max_episode_steps=2, action_map="none")
    _, steps, _ = play(env, [[0]] * 4)
    assert np.flatnonzero(steps.truncated).tolist() == [1, 3] and not steps.terminated.any()
    assert env.spec.max_episode_steps == 2


def test_a_gymnax_environment_observes_the_limit_in_force():
    _, steps, _ = play(make("gymnax:Fake-v0", 1, max_episode_steps=8), [[0]] * 2)
    assert steps.final_obs[:, 0, 2].tolist() == [1 / 8, 2 / 8]


def test_a_copy_that_met_nan_is_reset_counted_and_teaches_nothing():
    env = make("brax:fake", 2, action_map="none")
    _, steps, metrics = play(env, [[0, 0], [2, 0], [0, 0]])
    assert np.argwhere(~steps.valid).tolist() == [[1, 0]]
    assert all(np.isfinite(array).all() for array in steps)
    assert steps.obs[1, 0, 1] == 0 and steps.final_obs[2, 0, 1] == 1 and not steps.terminated.any()
    assert metrics == {"env/unstable_worlds": 1.0}


@pytest.mark.parametrize("name", ["gymnax", "brax", "jumanji"])
def test_a_restored_environment_goes_on_as_if_nothing_had_been(name):
    env = make(IDS[name], 2, action_map="none")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    drawn = actions(env, [[0, 1], [0, 0], [0, 0], [0, 0]])
    state, _ = step(reset(KEY)[0], drawn[0])
    restored = env.restore(env.snapshot(state), reset(jax.random.key(99))[0])
    for action in drawn[1:]:
        (state, ours), (restored, theirs) = step(state, action), step(restored, action)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", ["gymnax", "brax", "jumanji"])
def test_the_state_keeps_its_types_so_that_a_program_is_compiled_once(name):
    env = make(IDS[name], 2, action_map="none")
    first, _ = jax.eval_shape(env.reset, KEY)
    later, _ = jax.eval_shape(env.step, first, actions(env, [[0, 0]])[0])
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(later), strict=True):
        assert (before.shape, before.dtype, before.weak_type) == (after.shape, after.dtype, after.weak_type)


def playground_that_shows(monkeypatch, *parts):
    monkeypatch.setitem(sys.modules, "mujoco_playground", fake_suites.modules(parts)["mujoco_playground"])


def test_the_policy_sees_the_state_and_nothing_privileged(monkeypatch):
    playground_that_shows(monkeypatch, "privileged_state", "state")
    obs, _, _ = play(make("playground:FakeTask", 1, action_map="none"), [[0]])
    assert obs.shape == (1, 2) and 0 <= obs[0, 0] < 1


def test_an_observation_without_a_state_is_refused(monkeypatch):
    playground_that_shows(monkeypatch, "pixels/view_0")
    with pytest.raises(UserError, match="playground:FakeTask shows pixels/view_0 and no 'state'"):
        make("playground:FakeTask", 1)


def test_an_observation_in_parts_is_joined_in_one_known_order():
    parts = {"b": jnp.array([[1, 2], [3, 4]]), "a": jnp.bool_(True)}
    assert observation_vector(parts).tolist() == [1, 1, 2, 3, 4]
    assert observation_vector(fake_suites.Parts(jnp.int32(5), jnp.int32(6))).tolist() == [5, 6], "fields as declared"
    assert observation_vector(jnp.arange(6, dtype=jnp.uint8).reshape(2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert observation_vector(jnp.int32(7)).tolist() == [7]


def test_spaces_limits_and_versions_are_stated():
    cartpole, brax, puzzle = (describe(IDS[name]) for name in ("gymnax", "brax", "jumanji"))
    assert cartpole.action_space == Discrete(3) == puzzle.action_space
    assert isinstance(brax.action_space, Box) and brax.action_space.bounded and brax.dt == 0.05
    assert (cartpole.max_episode_steps, brax.max_episode_steps, puzzle.max_episode_steps) == (3, 1000, None)
    assert (brax.id, brax.engine) == ("fake", "brax") and brax.versions["jax"] == jax.__version__
    assert describe("jumanji:Fake-v1", action_spec="box").action_space.shape == (1,)
    assert describe("gymnax:Fake-v0", actions="box").control_bounds.high.tolist() == [2.0]


def test_options_are_the_suites_own(suites):
    assert describe("gymnax:Fake-v0", max_steps_in_episode=9).max_episode_steps == 9
    env = make("gymnax:Fake-v0", 1, slope=4.0)
    _, steps, _ = play(env, [[0]])
    np.testing.assert_allclose(steps.reward, 4 * steps.final_obs[:, :, 0])
    describe("playground:FakeTask", reward_config={"scales": {"energy": 2.0}})
    registry = suites["mujoco_playground"].registry
    assert registry.made["overrides"] == {"impl": "jax", "reward_config.scales.energy": 2.0}
    assert describe("playground:FakeTask", episode_length=50, impl="warp").max_episode_steps == 50
    assert registry.made["overrides"]["impl"] == "warp"


@pytest.mark.parametrize(
    ("id", "options", "said"),
    [
        ("gymnax:Fake-v0", {"slop": 1.0}, r"gymnax:Fake-v0 cannot be made with slop=1.0 \(.*unexpected keyword"),
        ("gymnax:Fake-v0", {"actions": "tuple"}, "takes actions from SimpleNamespace; only Discrete and Box"),
        ("brax:fake", {"backends": "mjx"}, r"brax:fake cannot be made with backends='mjx'"),
        (
            "playground:FakeTask",
            {"episode_lenght": 5},
            r"has no option 'episode_lenght'.*Did you mean 'episode_length'",
        ),
        ("playground:FakeRobot", {}, "needs robot models that Playground downloads"),
        ("jumanji:Fake-v1", {"action_spec": "several"}, "takes 2 discrete choices at once as an action"),
        ("jumanji:Fake-v1", {"action_spec": "integers"}, r"takes an array of shape \(2,\) as an action"),
        ("jumanji:Fake-v1", {"agents": 2}, "gives 2 rewards, one for each of several agents"),
        ("brax:fak", {}, r"Engine 'brax' knows no environment 'fak'. Did you mean 'fake'\?"),
        ("brax:fast", {}, "knows no environment 'fast'"),
    ],
)
def test_what_is_not_supported_is_refused_in_a_sentence(id, options, said):
    with pytest.raises(UserError, match=said):
        make(id, 1, **options)


def test_a_suite_that_cannot_make_or_run_its_environment_is_named(monkeypatch):
    with pytest.raises(EnvironmentFailure, match=r"brax:broken cannot be made: no such level$"):
        make("brax:broken", 1)
    monkeypatch.setattr(fake_suites.Brax, "step", lambda self, state, action: jnp.clip(action, a_minimum=0))
    with pytest.raises(EnvironmentFailure, match=rf"brax:fake cannot be run with JAX {jax.__version__}: TypeError"):
        make("brax:fake", 1)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_that_is_not_installed_names_its_extra(monkeypatch, suite):
    for name in fake_suites.modules():
        monkeypatch.setitem(sys.modules, name, None)  # as Python notes a module that is not there
    with pytest.raises(UserError, match=rf'pip install "policy-gradients\[{suite}\]"'):
        resolve(f"{suite}:Anything-v0")


def test_suites_are_listed_with_their_prefix_where_they_are_installed(monkeypatch):
    assert all(map(installed, SUITES))
    assert {info.id for info in environments("fak")} == {
        "gymnax:Fake-v0", "brax:fake", "playground:FakeTask", "playground:FakeRobot", "jumanji:Fake-v1",
    }  # fmt: skip
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert environments("brax:") == []


def test_a_prefix_leaves_the_preset_of_the_same_task_in_force():
    assert find_preset("ppo", "gymnax:CartPole-v1") == find_preset("ppo", "CartPole-v1") is not None
    assert settle("brax:fake") == ("brax", "the id is brax's")


def test_robots_are_made_where_their_models_are(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mujoco_playground", fake_suites.modules(robots_at=tmp_path)["mujoco_playground"])
    assert describe("playground:FakeRobot").engine == "playground"


def test_a_film_shows_a_body_until_its_episode_ends(tmp_path):
    film = record_video(lambda obs: np.zeros(1, np.float32), "playground:FakeTask", tmp_path / "film.mp4", seed=4)
    assert film.length == fake_suites.LIMIT and film.path.stat().st_size > 0
    assert 6 <= film.episode_return < 9, "three rewards: x + 1, x + 2 and x + 3 with x in [0, 1)"


def test_what_has_no_body_is_not_filmed_as_another_task_of_the_same_name(tmp_path):
    with pytest.raises(RenderingUnavailable, match=r"gymnax:Fake-v0 cannot be drawn"):
        record_video(lambda obs: np.int32(0), "gymnax:Fake-v0", tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())
