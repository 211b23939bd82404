"""The MuJoCo simulator: episodes in many worlds, snapshots, failures and what it refuses."""

import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.base import EnvironmentFailure, first_elapsed
from policy_gradients.environments.mujoco import MUJOCO_IDS, make_mujoco
from policy_gradients.environments.mujoco.batch import MujocoSimulator
from policy_gradients.environments.mujoco.noise import StartNoise
from policy_gradients.environments.mujoco.physics import BatchPhysics, ThreadedPhysics, physics
from policy_gradients.environments.mujoco.tasks import load_task
from policy_gradients.errors import UserError

SEED = 2**63 + 12345
ENGINES = ["Hopper-v4", "Ant-v5"]  # one task on mujoco.batch, one on our threads


def actions(simulator: MujocoSimulator, steps: int, worlds: int) -> np.ndarray:
    """Random controls [steps, num_envs, nu]; those of the first `worlds` do not depend on num_envs."""
    space, n = simulator.spec.action_space, simulator.spec.num_envs
    out = np.zeros((steps, n, *space.shape), np.float32)
    for i in range(min(n, worlds)):
        out[:, i] = np.random.default_rng(i).uniform(space.low, space.high, (steps, *space.shape))
    return out


def play(simulator: MujocoSimulator, steps: int, first: int = 0, worlds: int = 8) -> list[np.ndarray]:
    """All results of steps `first` … `first + steps − 1`, each stacked to [steps, N, ...]."""
    rows = []
    for action in actions(simulator, first + steps, worlds)[first:]:
        rows.append([np.array(value) for value in simulator.step(action)])
    return [np.stack(column) for column in zip(*rows, strict=True)]


def simulator(id: str, num_envs: int, limit: int | None = 20, threads: int = 2) -> MujocoSimulator:
    return MujocoSimulator(load_task(id), num_envs, threads, limit)


def test_contact_forces_choose_the_engine():
    assert isinstance(physics(load_task("Ant-v4"), 1, 1), BatchPhysics)
    assert isinstance(physics(load_task("Ant-v4", use_contact_forces=True), 1, 1), ThreadedPhysics)
    without = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
    assert isinstance(physics(load_task("Humanoid-v5", **without), 1, 1), BatchPhysics)


@pytest.mark.parametrize("id", ENGINES)
def test_a_world_lives_alike_alone_and_among_many_in_any_number_of_threads(id):
    results = []
    for num_envs, threads in [(1, 1), (3, 2), (8, 3)]:
        sim = simulator(id, num_envs, threads=threads)
        first = sim.reset(SEED).copy()
        results.append([first[0], *(column[:, 0] for column in play(sim, 60))])
        sim.close()
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert results[0][4].any() or results[0][5].any()


@pytest.mark.parametrize("id", ENGINES)
def test_closing_ends_the_threads_and_may_be_repeated(id):
    before = set(threading.enumerate())
    sim = simulator(id, 4, threads=3)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2 * (id == "Ant-v5")  # those of mujoco.batch are not Python's
    sim.close()
    sim.close()
    for thread in threads:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_worlds_episodes_and_seeds_start_differently():
    sim = simulator("HalfCheetah-v4", 4, limit=1)
    starts = [sim.reset(SEED).copy(), *play(sim, 2)[0], sim.reset(SEED + 1).copy(), sim.reset(12345).copy()]
    assert len(np.unique(np.concatenate(starts), axis=0)) == 5 * 4


def test_staggered_worlds_reach_the_limit_one_after_another_from_every_reset():
    sim = MujocoSimulator(load_task("HalfCheetah-v4"), 4, 1, 8, stagger=True)
    plain = simulator("HalfCheetah-v4", 4, limit=8)
    np.testing.assert_array_equal(sim.reset(SEED), plain.reset(SEED))
    for _ in range(2):
        sim.reset(SEED)
        ends = np.array([sim.step(np.zeros((4, 6), np.float32)).truncated.copy() for _ in range(16)])
        for world, begun in enumerate(first_elapsed(4, 8)):
            np.testing.assert_array_equal(1 + np.flatnonzero(ends[:, world]), np.arange(8 - begun, 17, 8))
    sim.close()


def test_the_same_seed_starts_again_alike():
    sim = simulator("HalfCheetah-v4", 2, limit=3)
    first, played = sim.reset(SEED).copy(), play(sim, 7)
    np.testing.assert_array_equal(sim.reset(SEED), first)
    for ours, theirs in zip(play(sim, 7), played, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_draws_depend_on_nothing_but_seed_world_and_episode():
    together = StartNoise(5, 3).draw(SEED, np.array([2, 7]), np.array([4, 0]))
    alone = StartNoise(5, 3).draw(SEED, np.array([7]), np.array([0]))
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(many[1], one[0])
        assert not np.isin(many[0], many[1]).any()


def test_an_end_gives_the_last_observation_and_the_first_of_the_next_episode():
    sim = simulator("HalfCheetah-v4", 3, limit=5)
    sim.reset(SEED)
    sim._elapsed[1] = 2  # world 1 ends after three steps
    obs, final_obs, _, terminated, truncated, valid = play(sim, 5)
    np.testing.assert_array_equal(truncated[:, 1], [False, False, True, False, False])
    np.testing.assert_array_equal(truncated[:, 0], [False, False, False, False, True])
    assert not terminated.any() and valid.all()
    np.testing.assert_array_equal(obs[truncated == 0], final_obs[truncated == 0])
    assert (obs[2, 1] != final_obs[2, 1]).all()
    np.testing.assert_array_equal(obs[2, 0], final_obs[2, 0])


def test_a_robot_that_falls_at_the_limit_is_both_terminated_and_truncated():
    sim = simulator("Hopper-v4", 2, limit=1)
    sim.reset(SEED)
    sim.qpos[1, 1] = 0.1  # world 1 lies on the floor
    step = sim.step(np.zeros((2, 3), np.float32))
    assert step.truncated.tolist() == [True, True] and step.terminated.tolist() == [False, True]


@pytest.mark.parametrize("id", ENGINES)
def test_a_snapshot_continues_bit_for_bit(id):
    sim, other = simulator(id, 3), simulator(id, 3)
    sim.reset(SEED)
    play(sim, 25)
    arrays = sim.snapshot()
    expected = play(sim, 40, first=25)
    other.reset(1)
    play(other, 3)
    other.restore(arrays)
    for ours, theirs in zip(play(other, 40, first=25), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


CONTINUE = """
import sys, numpy as np
sys.path.insert(0, sys.argv[3])
from test_mujoco import play, simulator
for id in sys.argv[4:]:
    sim = simulator(id, 3)
    sim.restore(dict(np.load(f"{sys.argv[1]}/{id}.npz")))
    np.savez(f"{sys.argv[2]}/{id}.npz", *play(sim, 40, first=25))
"""


def test_a_new_process_continues_bit_for_bit(tmp_path):
    ids = ["Hopper-v4", "Ant-v4", "Ant-v5", "Reacher-v4", "Humanoid-v4"]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    expected = {}
    for id in ids:
        sim = simulator(id, 3)
        sim.reset(SEED)
        play(sim, 25)
        np.savez(tmp_path / "in" / f"{id}.npz", **sim.snapshot())
        expected[id] = play(sim, 40, first=25)
    folders = [str(tmp_path / "in"), str(tmp_path / "out"), str(__file__).rpartition("/")[0]]
    subprocess.run([sys.executable, "-c", CONTINUE, *folders, *ids], check=True)
    for id in ids:
        continued = np.load(tmp_path / "out" / f"{id}.npz")
        for name, theirs in zip(continued.files, expected[id], strict=True):
            np.testing.assert_array_equal(continued[name], theirs)


def test_a_snapshot_of_another_number_of_worlds_is_refused():
    with pytest.raises(UserError, match=r"2 environments Hopper-v4 holds 'state' of shape \(2, 58\), but \(3, 58\)"):
        simulator("Hopper-v4", 2).restore(simulator("Hopper-v4", 3).snapshot())


@pytest.mark.parametrize("id", ENGINES)
def test_an_unstable_simulation_raises_and_names_itself(id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a log file
    sim = simulator(id, 3)
    sim.reset(77)
    sim._fields["qvel"][1, 0] = 1e12
    with pytest.raises(EnvironmentFailure, match=rf"{id}: .* environment 1 of 3 \(seed 77, episode 0, step 1\).*unst"):
        play(sim, 1)
    sim.reset(77)
    play(sim, 1)


@pytest.mark.parametrize("id", ENGINES)
def test_an_action_that_is_not_a_number_raises(id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sim = simulator(id, 3)
    sim.reset(77)
    action = np.zeros((3, *sim.spec.action_space.shape), np.float32)
    action[2, 0] = np.nan
    with pytest.raises(EnvironmentFailure, match=r"environment 2 of 3 .* action that is not a number"):
        sim.step(action)


def test_an_observation_that_is_not_a_number_raises():
    sim = simulator("HalfCheetah-v4", 3)
    sim.reset(77)
    sim._physics.step = lambda: sim.qpos.__setitem__((1, 3), np.inf)
    with pytest.raises(EnvironmentFailure, match="environment 1 of 3"):
        play(sim, 1)


@pytest.mark.parametrize("id", [*(id for id in MUJOCO_IDS if id.endswith("v5")), "Ant-v4", "Humanoid-v4", "Reacher-v4"])
def test_the_rules_run_compiled_in_float32(id):
    """No branch on data, no write, no silent broadcast or promotion; the numbers are NumPy's, rounded."""
    task = load_task(id)
    rules, engine, rng = task.rules, physics(task, 2, 1), np.random.default_rng(0)
    draws = rng.random((2, rules.draws[0])), rng.standard_normal((2, rules.draws[1]))
    engine.fields["qpos"][:], engine.fields["qvel"][:] = rules.initial_state(*draws)
    engine.forward(np.arange(2, dtype=np.int32))
    before = rules.measure(engine.fields).copy()
    action = rng.uniform(-1, 1, (2, task.model.nu)).astype(np.float32)
    engine.fields["ctrl"][:] = action
    engine.step()

    def everything(before, fields, action, draws):
        healthy, after = rules.healthy(fields), rules.measure(fields)
        reward = rules.reward(before, after, fields, action, healthy)
        return rules.observe(fields), reward, healthy, rules.initial_state(*draws)

    arguments = before, dict(engine.fields), action, draws
    rounded = jax.tree.map(lambda array: jnp.asarray(np.array(array, np.float32)), arguments)
    compiled = jax.tree.leaves(jax.jit(everything)(*rounded))
    for ours, theirs in zip(compiled, jax.tree.leaves(everything(*arguments)), strict=True):
        assert ours.dtype in (np.float32, np.bool_)
        scale = 1 + np.abs(np.asarray(theirs, float)).max()
        np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), atol=1e-6 * scale, rtol=0)


def test_hoppers_pitch_has_to_be_within_both_ranges():
    rules = load_task("Hopper-v5", healthy_state_range=(-0.1, 0.1), healthy_angle_range=(-0.2, 0.2)).rules
    qpos = np.array([[9.0, 1.2, pitch, 0.0, 0.0, 0.0] for pitch in (0.0, 0.15, -0.15, 0.25)])
    assert rules.healthy({"qpos": qpos, "qvel": np.zeros((4, 6))}).tolist() == [True, False, False, False]


def test_the_environment_runs_inside_a_compiled_program():
    env, sim = make_mujoco("Hopper-v4", 2, max_episode_steps=10), simulator("Hopper-v4", 2, limit=10)
    words = jax.random.key_data(jax.random.key(3)).tolist()
    controls = actions(sim, 25, 2)

    @jax.jit
    def rollout(key):
        state, obs = env.reset(key)
        return obs, jax.lax.scan(env.step, state, jnp.asarray(controls))[1]

    obs, steps = rollout(jax.random.key(3))
    np.testing.assert_array_equal(obs, sim.reset(words[0] << 32 | words[1]))
    for ours, theirs in zip(steps, play(sim, 25), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    env.close()


def test_the_spec_names_coordinates_and_versions():
    spec = simulator("Ant-v5", 1).spec
    assert len(spec.obs_names) == spec.obs_space.shape[0] == 105 and len(set(spec.obs_names)) == 105
    assert spec.obs_names[0] == "qpos.root.z" and spec.obs_names[27] == "cfrc_ext.torso[0]"
    assert spec.action_names[:2] == ("hip_4", "ankle_4")
    assert spec.dt == 0.05 and set(spec.versions) == {"mujoco", "gymnasium"} and spec.exact_resume and spec.on_host


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("HalfCheeta-v4", {}, "Did you mean 'HalfCheetah-v4'"),
        ("Pusher-v4", {}, "use Pusher-v5"),
        ("Hopper-v4", {"reset_noise": 0.1}, "no option 'reset_noise'.*Did you mean 'reset_noise_scale'"),
        ("Hopper-v4", {"frame_skip": 2}, "no option 'frame_skip'"),
        ("Reacher-v4", {"reward_dist_weight": 2.0}, "it takes none"),
        ("Hopper-v5", {"frame_skip": 0}, "frame_skip of 1 or more, but 0"),
        ("Hopper-v5", {"frame_skip": 2.5}, "a whole number, but 2.5"),
        ("Hopper-v4", {"healthy_reward": "high"}, "takes a number, but 'high'"),
        ("Hopper-v4", {"healthy_reward": True}, "takes a number, but True"),
        ("Hopper-v4", {"terminate_when_unhealthy": 0}, "takes true or false, but 0"),
        ("Hopper-v4", {"healthy_z_range": 0.7}, "two numbers, low and high, but 0.7"),
        ("Hopper-v4", {"healthy_z_range": (2.0, 1.0)}, "two numbers, low and high"),
        ("Hopper-v5", {"xml_file": "./missing.xml"}, "no model file missing.xml"),
        ("Ant-v5", {"main_body": "tors"}, "Did you mean 'torso'"),
        ("Ant-v5", {"main_body": 99}, "but 99 came"),
    ],
)
def test_what_is_wrong_is_refused_with_a_sentence(id, options, message):
    with pytest.raises(UserError, match=message):
        MujocoSimulator(load_task(id, **options), 1)


@pytest.mark.parametrize("counts", [{"num_envs": 0}, {"num_threads": -1}, {"max_episode_steps": 0}, {"num_envs": 2.0}])
def test_counts_out_of_range_are_refused(counts):
    with pytest.raises(UserError, match=f"{next(iter(counts))} is a whole number"):
        make_mujoco("Hopper-v4", **{"num_envs": 1, **counts})


def test_a_models_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.xml").write_text("<mujoco><nonsense/></mujoco>")
    with pytest.raises(UserError, match="cannot read the model"):
        load_task("Hopper-v5", xml_file=str(tmp_path / "model.xml"))


def test_a_users_own_model_is_loaded(tmp_path):
    from policy_gradients.environments.mujoco.models import asset_folder

    model = (asset_folder() / "hopper.xml").read_text().replace('timestep="0.002"', 'timestep="0.004"')
    (tmp_path / "slow.xml").write_text(model)
    task = load_task("Hopper-v5", xml_file=str(tmp_path / "slow.xml"), frame_skip=2)
    assert MujocoSimulator(task, 1).spec.dt == 0.008


def test_the_ids_are_known_without_mujoco_jax_or_gymnasium():
    code = (
        "import sys; from policy_gradients.environments.mujoco import MUJOCO_IDS; print(len(MUJOCO_IDS), *sys.modules)"
    )
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert names[0] == "21" and not {"mujoco", "jax", "gymnasium"} & set(names)


def test_loading_a_model_writes_no_log_file(tmp_path):
    code = "from policy_gradients.environments.mujoco.tasks import load_task; load_task('HalfCheetah-v4')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert not list(tmp_path.iterdir()) and not done.stdout and not done.stderr
