"""Every MuJoCo task beside Gymnasium's own, from the same states with the same actions, in float64."""

import importlib.util
import inspect
import sys
import types
import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from policy_gradients.environments.mujoco import MUJOCO_IDS
from policy_gradients.environments.mujoco.batch import MujocoSimulator
from policy_gradients.environments.mujoco.physics import physics
from policy_gradients.environments.mujoco.tasks import DEFINITIONS, Task, load_task

if importlib.util.find_spec("imageio") is None:  # Gymnasium's window saves pictures with it, its physics needs none
    sys.modules["imageio"] = types.ModuleType("imageio")

STEPS = 200
VARIANTS = [
    ("HalfCheetah-v4", {"forward_reward_weight": 2.0, "exclude_current_positions_from_observation": False}),
    ("HalfCheetah-v5", {"ctrl_cost_weight": 0.7, "frame_skip": 3, "reset_noise_scale": 0.3}),
    ("Swimmer-v5", {"exclude_current_positions_from_observation": False}),
    ("Hopper-v4", {"terminate_when_unhealthy": False, "healthy_reward": 3.0}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "healthy_state_range": (-1.0, 1.0)}),
    ("Walker2d-v4", {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False}),
    ("Walker2d-v5", {"healthy_z_range": (1.0, 1.3), "healthy_angle_range": (-0.1, 0.3)}),
    ("Ant-v4", {"use_contact_forces": True, "terminate_when_unhealthy": False}),
    ("Ant-v4", {"exclude_current_positions_from_observation": False, "healthy_z_range": (0.5, 0.8)}),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, "main_body": "front_left_leg"}),
    ("Ant-v5", {"contact_cost_weight": 0.0, "include_cfrc_ext_in_observation": False, "forward_reward_weight": 2.0}),
    ("Humanoid-v4", {"terminate_when_unhealthy": False, "ctrl_cost_weight": 1.0}),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "include_cvel_in_observation": False}),
    ("Humanoid-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}),
    ("Humanoid-v5", {"contact_cost_weight": 0.0, "contact_cost_range": (1.0, 2.0)}),
    ("Humanoid-v5", {"contact_cost_weight": 0.1, "contact_cost_range": (1.0, 2.0), "terminate_when_unhealthy": False}),
    ("HumanoidStandup-v5", {"impact_cost_weight": 0.1, "include_qfrc_actuator_in_observation": False}),
    ("InvertedPendulum-v5", {"frame_skip": 5, "reset_noise_scale": 0.1}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0}),
    ("Reacher-v5", {"reward_dist_weight": 2.0, "reward_control_weight": 0.5}),
    ("Pusher-v5", {"reward_near_weight": 1.0, "reward_dist_weight": 3.0, "reward_control_weight": 0.2}),
]


def gymnasium_env(id: str, **options: Any) -> Any:
    """Gymnasium's environment, without its deprecation warnings and without a MUJOCO_LOG.TXT."""
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gymnasium.make(id, disable_env_checker=True, **options)
    finally:
        mujoco.set_mju_user_warning(None)


class Stepper:
    """Physics and rules of two worlds in float64, without ends of episodes; world 1 is compared."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.physics = task, physics(task, 2, 2)
        rng, (uniform, normal) = np.random.default_rng(seed), task.rules.draws
        self.start = task.rules.initial_state(rng.random((2, uniform)), rng.standard_normal((2, normal)))
        fields = self.physics.fields
        fields["qpos"][:], fields["qvel"][:] = self.start
        self.physics.forward(np.arange(2, dtype=np.int32))
        self.before = task.rules.measure(fields).copy()

    def observe(self) -> np.ndarray:
        return self.task.rules.observe(self.physics.fields)[1]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        rules, fields = self.task.rules, self.physics.fields
        fields["ctrl"][:] = action
        self.physics.step()
        after, healthy = rules.measure(fields), rules.healthy(fields)
        reward = rules.reward(self.before, after, fields, action, healthy)
        self.before = after.copy()
        return self.observe(), reward[1], bool(rules.terminates and not healthy[1])


def assert_steps_equal(id: str, options: dict) -> None:
    """Observation, reward and termination agree to the last bit, past the end of the episode too.

    Half of the actions are within the bounds, half of them up to three times as large.
    """
    stepper = Stepper(load_task(id, **options), seed=1)
    env = gymnasium_env(id, **options).unwrapped
    env.reset(seed=0)
    env.set_state(stepper.start[0][1], stepper.start[1][1])
    np.testing.assert_array_equal(env._get_obs(), stepper.observe())
    rng, space = np.random.default_rng(2), env.action_space
    for i in range(STEPS):
        scale = 1.0 if i < STEPS // 2 else 3.0
        action = scale * rng.uniform(space.low, space.high, (2, *space.shape)).astype(np.float32)
        obs, reward, terminated, _, _ = env.step(action[1])
        ours = stepper.step(action)
        np.testing.assert_array_equal(ours[0], obs)
        assert ours[1:] == (reward, terminated)
    stepper.physics.close()
    env.close()


@pytest.mark.parametrize("id", MUJOCO_IDS)
def test_two_hundred_steps_equal_gymnasium_to_the_last_bit(id):
    assert_steps_equal(id, {})


@pytest.mark.parametrize(("id", "options"), VARIANTS)
def test_options_change_a_task_as_they_change_gymnasiums(id, options):
    assert_steps_equal(id, options)


@pytest.mark.parametrize("id", MUJOCO_IDS)
def test_options_and_defaults_are_gymnasiums(id):
    env = gymnasium_env(id)
    parameters = inspect.signature(type(env.unwrapped).__init__).parameters.values()
    theirs = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    theirs.pop("default_camera_config", None)
    assert dict(DEFINITIONS[id].options) == theirs
    env.close()


@pytest.mark.parametrize("id", MUJOCO_IDS)
def test_spaces_time_limit_and_seconds_per_step_are_gymnasiums(id):
    env = gymnasium_env(id)
    simulator = MujocoSimulator(load_task(id), num_envs=1)
    assert simulator.spec.obs_space.shape == env.observation_space.shape
    np.testing.assert_array_equal(simulator.spec.action_space.low, env.action_space.low)
    np.testing.assert_array_equal(simulator.spec.action_space.high, env.action_space.high)
    assert simulator.spec.max_episode_steps == env.spec.max_episode_steps
    assert simulator.spec.dt == env.unwrapped.dt
    simulator.close()
    env.close()


def gymnasiums_draws(id: str, task: Task, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Standard draws in the order in which Gymnasium's `reset` takes them, goal candidates to the first accepted."""
    uniform, normal = task.rules.draws
    if not id.startswith(("Reacher", "Pusher")):
        return rng.random(uniform), rng.standard_normal(normal)
    positions, velocities = (4, 4) if id.startswith("Reacher") else (0, 11)
    draws = np.full(uniform, 0.5)
    draws[:positions] = rng.random(positions)
    for i in range(positions, uniform - velocities, 2):
        draws[i : i + 2] = rng.random(2)
        if id.startswith("Reacher"):
            accepted = np.linalg.norm(0.4 * draws[i : i + 2] - 0.2) < 0.2
        else:
            accepted = np.linalg.norm(draws[i : i + 2] * [0.3, 0.4] - [0.3, 0.2]) > 0.17
        if accepted:
            break
    draws[-velocities:] = rng.random(velocities)
    return draws, np.empty(0)


@pytest.mark.parametrize("id", MUJOCO_IDS)
def test_episodes_start_where_gymnasiums_start_given_the_same_random_numbers(id):
    task, env = load_task(id), gymnasium_env(id)
    for seed in range(20):
        env.reset(seed=seed)
        rng = gymnasium.utils.seeding.np_random(seed)[0]
        qpos, qvel = task.rules.initial_state(*gymnasiums_draws(id, task, rng))
        np.testing.assert_array_equal(qpos, env.unwrapped.data.qpos)
        np.testing.assert_array_equal(qvel, env.unwrapped.data.qvel)
    env.close()


@pytest.mark.parametrize("id", MUJOCO_IDS)
def test_whole_episodes_equal_gymnasiums_rounded_to_float32(id):
    limit = 30
    simulator = MujocoSimulator(load_task(id), num_envs=2, max_episode_steps=limit)
    env = gymnasium_env(id, max_episode_steps=limit)
    rng, space, ends = np.random.default_rng(3), env.action_space, []
    obs, elapsed = simulator.reset(seed=5), 0
    for _ in range(2 * limit):
        if elapsed == 0:
            env.reset(seed=0)
            state = simulator.snapshot()["state"][1]
            nq, nv = env.unwrapped.model.nq, env.unwrapped.model.nv
            env.unwrapped.set_state(state[1 : 1 + nq], state[1 + nq : 1 + nq + nv])
            np.testing.assert_array_equal(obs[1], env.unwrapped._get_obs().astype(np.float32))
        action = 1.2 * rng.uniform(space.low, space.high, (2, *space.shape)).astype(np.float32)
        step, theirs = simulator.step(action), env.step(action[1])
        np.testing.assert_array_equal(step.final_obs[1], theirs[0].astype(np.float32))
        np.testing.assert_array_equal(step.reward[1], np.float32(theirs[1]))
        assert (step.terminated[1], step.truncated[1]) == theirs[2:4]
        ended = theirs[2] or theirs[3]
        ends.append(ended)
        obs, elapsed = step.obs, 0 if ended else elapsed + 1
    assert any(ends)
    simulator.close()
    env.close()


def test_the_double_pendulums_squares_are_the_c_librarys():
    """Gymnasium squares NumPy scalars with `pow`, which differs from x·x in the last place once in a thousand times."""
    rules, rng = load_task("InvertedDoublePendulum-v4").rules, np.random.default_rng(0)
    tip, qvel = rng.normal(size=(5000, 1, 3)), rng.normal(size=(5000, 3))
    fields = {"site_xpos": tip, "qvel": qvel}
    rewards = rules.reward(None, None, fields, None, rules.healthy(fields))
    for (x, _, y), (_, v1, v2), reward in zip(tip[:, 0], qvel, rewards, strict=True):
        assert reward == 10 - (0.01 * x**2 + (y - 2) ** 2) - (1e-3 * v1**2 + 5e-3 * v2**2)
