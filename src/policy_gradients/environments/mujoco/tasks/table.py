"""Gymnasium's MuJoCo tasks as data: model file, options with their defaults, time limit and camera of each id.

Every number is Gymnasium 1.4's (gymnasium/envs/mujoco and the registry in gymnasium/envs/__init__.py), and the tests
compare each task with Gymnasium's own. `Pusher-v4` is missing because Gymnasium itself refuses it on MuJoCo 3 and
later, where its object is too light to be pushed (github.com/Farama-Foundation/Gymnasium/issues/950).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from policy_gradients.environments.mujoco.tasks.ant import Ant
from policy_gradients.environments.mujoco.tasks.arm import Pusher, Reacher
from policy_gradients.environments.mujoco.tasks.humanoid import Humanoid, HumanoidStandup
from policy_gradients.environments.mujoco.tasks.pendulum import InvertedDoublePendulum, InvertedPendulum
from policy_gradients.environments.mujoco.tasks.planar import Runner, Walker
from policy_gradients.environments.mujoco.tasks.rules import Rules


@dataclass(frozen=True)
class Definition:
    """One row of the table.

    Attributes:
        rules: Class of the task's rules.
        options: Gymnasium's keyword arguments that change the task, with Gymnasium's defaults.
        xml_file: Model file among Gymnasium's assets, where it is not an option.
        frame_skip: Physics steps per environment step, where it is not an option.
        fixed: Attributes of the rules that are no options.
        max_episode_steps: Environment steps after which an episode is truncated.
        camera: Attributes of the free camera, used where the model has no camera named "track".
    """

    rules: type[Rules]
    options: Mapping[str, Any]
    xml_file: str = ""
    frame_skip: int = 0
    fixed: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int = 1000
    camera: Mapping[str, Any] = field(default_factory=dict)


_half_cheetah = {
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 0.1,
    "reset_noise_scale": 0.1,
    "exclude_current_positions_from_observation": True,
}
_swimmer = {**_half_cheetah, "ctrl_cost_weight": 1e-4}
_walker2d = {
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 1e-3,
    "healthy_reward": 1.0,
    "terminate_when_unhealthy": True,
    "healthy_z_range": (0.8, 2.0),
    "healthy_angle_range": (-1.0, 1.0),
    "reset_noise_scale": 5e-3,
    "exclude_current_positions_from_observation": True,
}
_hopper = {
    **_walker2d,
    "healthy_state_range": (-100.0, 100.0),
    "healthy_z_range": (0.7, inf),
    "healthy_angle_range": (-0.2, 0.2),
}
_ant = {
    "ctrl_cost_weight": 0.5,
    "contact_cost_weight": 5e-4,
    "healthy_reward": 1.0,
    "terminate_when_unhealthy": True,
    "healthy_z_range": (0.2, 1.0),
    "contact_force_range": (-1.0, 1.0),
    "reset_noise_scale": 0.1,
    "exclude_current_positions_from_observation": True,
}
_shown = {
    "exclude_current_positions_from_observation": True,
    "include_cinert_in_observation": True,
    "include_cvel_in_observation": True,
    "include_qfrc_actuator_in_observation": True,
    "include_cfrc_ext_in_observation": True,
}
_humanoid = {
    "forward_reward_weight": 1.25,
    "ctrl_cost_weight": 0.1,
    "healthy_reward": 5.0,
    "terminate_when_unhealthy": True,
    "healthy_z_range": (1.0, 2.0),
    "reset_noise_scale": 0.01,
    "exclude_current_positions_from_observation": True,
}
_standup = {
    "uph_cost_weight": 1.0,
    "ctrl_cost_weight": 0.1,
    "impact_cost_weight": 5e-7,
    "impact_cost_range": (-inf, 10.0),
    "reset_noise_scale": 0.01,
}
_pendulum_camera = {"distance": 2.04}
_double_pendulum_camera = {"distance": 4.1225, "lookat": (0.0, 0.0, 0.1225)}


def _model(xml_file: str, frame_skip: int) -> dict[str, Any]:
    return {"xml_file": xml_file, "frame_skip": frame_skip}


DEFINITIONS: dict[str, Definition] = {
    "HalfCheetah-v4": Definition(Runner, _half_cheetah, "half_cheetah.xml", 5, {"normal_velocities": True}),
    "HalfCheetah-v5": Definition(
        Runner, {**_half_cheetah, **_model("half_cheetah.xml", 5)}, fixed={"normal_velocities": True}
    ),
    "Swimmer-v4": Definition(Runner, _swimmer, "swimmer.xml", 4, {"hidden": 2}),
    "Swimmer-v5": Definition(Runner, {**_swimmer, **_model("swimmer.xml", 4)}, fixed={"hidden": 2}),
    "Hopper-v4": Definition(Walker, _hopper, "hopper.xml", 4, {"version": 4}),
    "Hopper-v5": Definition(Walker, {**_hopper, **_model("hopper.xml", 4)}, fixed={"version": 5}),
    "Walker2d-v4": Definition(Walker, _walker2d, "walker2d.xml", 4, {"version": 4}),
    "Walker2d-v5": Definition(Walker, {**_walker2d, **_model("walker2d_v5.xml", 4)}, fixed={"version": 5}),
    "Ant-v4": Definition(
        Ant,
        {**_ant, "use_contact_forces": False, "xml_file": "ant.xml"},
        frame_skip=5,
        fixed={"version": 4, "normal_velocities": True},
    ),
    "Ant-v5": Definition(
        Ant,
        {
            **_ant,
            "forward_reward_weight": 1.0,
            "main_body": 1,
            "include_cfrc_ext_in_observation": True,
            **_model("ant.xml", 5),
        },
        fixed={"version": 5, "normal_velocities": True},
    ),
    "Humanoid-v4": Definition(Humanoid, _humanoid, "humanoid.xml", 5, {"version": 4}),
    "Humanoid-v5": Definition(
        Humanoid,
        {
            **_humanoid,
            **_shown,
            "contact_cost_weight": 5e-7,
            "contact_cost_range": (-inf, 10.0),
            **_model("humanoid.xml", 5),
        },
        fixed={"version": 5},
    ),
    "HumanoidStandup-v4": Definition(HumanoidStandup, {}, "humanoidstandup.xml", 5, {"version": 4, **_standup}),
    "HumanoidStandup-v5": Definition(
        HumanoidStandup, {**_standup, **_shown, **_model("humanoidstandup.xml", 5)}, fixed={"version": 5}
    ),
    "InvertedPendulum-v4": Definition(
        InvertedPendulum,
        {},
        "inverted_pendulum.xml",
        2,
        {"version": 4, "reset_noise_scale": 0.01},
        camera=_pendulum_camera,
    ),
    "InvertedPendulum-v5": Definition(
        InvertedPendulum,
        {"reset_noise_scale": 0.01, **_model("inverted_pendulum.xml", 2)},
        fixed={"version": 5},
        camera=_pendulum_camera,
    ),
    "InvertedDoublePendulum-v4": Definition(
        InvertedDoublePendulum,
        {},
        "inverted_double_pendulum.xml",
        5,
        {"version": 4, "healthy_reward": 10.0, "reset_noise_scale": 0.1, "normal_velocities": True},
        camera=_double_pendulum_camera,
    ),
    "InvertedDoublePendulum-v5": Definition(
        InvertedDoublePendulum,
        {"healthy_reward": 10.0, "reset_noise_scale": 0.1, **_model("inverted_double_pendulum.xml", 5)},
        fixed={"version": 5, "normal_velocities": True},
        camera=_double_pendulum_camera,
    ),
    "Reacher-v4": Definition(Reacher, {}, "reacher.xml", 2, {"version": 4}, max_episode_steps=50),
    "Reacher-v5": Definition(
        Reacher,
        {"reward_dist_weight": 1.0, "reward_control_weight": 1.0, **_model("reacher.xml", 2)},
        fixed={"version": 5},
        max_episode_steps=50,
    ),
    "Pusher-v5": Definition(
        Pusher,
        {
            "reward_near_weight": 0.5,
            "reward_dist_weight": 1.0,
            "reward_control_weight": 0.1,
            **_model("pusher_v5.xml", 5),
        },
        max_episode_steps=100,
        camera={"distance": 4.0},
    ),
}
