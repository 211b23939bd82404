"""Tiny stand-ins with the interfaces of gymnax, Brax, MuJoCo Playground and Jumanji, so that no suite is needed.

All hold the same world: an observation (x, steps), x drawn at reset and 1 more after every step, reward x, and an end
of the process on action 1 (or a continuous action above 0.5). Each lasts three steps at most, where its suite has a
limit. Action 2 (or below −0.5) makes x NaN.
"""

import importlib.machinery
import types
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

LIMIT = 3


def draw(key):
    return jax.random.uniform(key)


def move(x, action):
    if action.ndim:
        action = jnp.where(action[0] > 0.5, 1, jnp.where(action[0] < -0.5, 2, 0))
    return jnp.where(action == 2, jnp.nan, x + 1), action == 1


def observe(x, time):
    return jnp.stack([x, jnp.asarray(time, jnp.float32)])


@dataclass(frozen=True)
class GymnaxParams:
    max_steps_in_episode: int = LIMIT
    slope: float = 1.0

    def replace(self, **changes):
        return replace(self, **changes)


class Gymnax:
    """From 1.0: the flag of `step_env` is the process's alone. The share of the limit is observed, too."""

    def __init__(self, actions="discrete"):
        self.actions = actions

    def seen(self, x, time, params):
        return jnp.append(observe(x, time), jnp.asarray(time, jnp.float32) / params.max_steps_in_episode)

    def reset_env(self, key, params):
        x = draw(key)
        return self.seen(x, 0, params), (x, 0)

    def step_env(self, key, state, action, params):
        x, ended = move(state[0], action)
        time = state[1] + 1
        return self.seen(x, time, params), (x, time), x * params.slope, ended, {}

    def is_truncated(self, state, params):
        return state[1] >= params.max_steps_in_episode

    def action_space(self, params):
        if self.actions == "tuple":
            return types.SimpleNamespace()
        if self.actions == "box":
            return types.SimpleNamespace(low=-2.0, high=2.0, shape=(1,))
        return types.SimpleNamespace(n=3)


class MergingGymnax(Gymnax):
    """Before 1.0: a limit sets the same flag as an end of the process."""

    is_truncated = property()  # not there: hasattr is False

    def step_env(self, key, state, action, params):
        obs, (x, time), reward, ended, info = super().step_env(key, state, action, params)
        return obs, (x, time), reward, ended | (time >= params.max_steps_in_episode), info


State = namedtuple("State", "data obs reward done info")
Data = namedtuple("Data", "qpos time")
BODY = "<mujoco><worldbody><body><joint type='slide'/><geom size='.1'/></body></worldbody></mujoco>"


class Brax:
    """States that carry everything: a flag that is a float, keys of both kinds, a number that becomes Python's."""

    action_size, dt = 1, 0.05
    sys = types.SimpleNamespace(mj_model=None)

    @property
    def mj_model(self):
        return mujoco.MjModel.from_xml_string(BODY)

    def __init__(self, backend="generalized", parts=()):
        self.backend, self.parts = backend, parts

    def seen(self, x, time):
        obs = observe(x, time)
        return {part: obs if part == "state" else 9 * obs for part in self.parts} if self.parts else obs

    def reset(self, key):
        x = draw(key)
        info = {"key": jax.random.key(7), "raw": key, "bonus": jnp.float32(0)}
        return State(Data(x[None], 0), self.seen(x, 0), jnp.float32(0), jnp.float32(0), info)

    def step(self, state, action):
        x, ended = move(state.data.qpos[0], action)
        time = state.data.time + 1
        info = {**state.info, "bonus": 1.0}
        return State(Data(x[None], time), self.seen(x, time), x, ended.astype(jnp.float32), info)


TimeStep = namedtuple("TimeStep", "step_type reward discount observation")
TimeStep.last = lambda self: self.step_type == 2
Parts = namedtuple("Parts", "zeta alpha")


class Jumanji:
    """Says with a discount whether its last step ended the process; observes a field of integers and one of bools."""

    def __init__(self, time_limit=LIMIT, action_spec="discrete", agents=1):
        self.time_limit, self.agents = time_limit, agents
        self.action_spec = {
            "discrete": types.SimpleNamespace(num_values=np.int32(3), shape=()),
            "several": types.SimpleNamespace(num_values=np.array([2, 3]), shape=(2,)),
            "box": types.SimpleNamespace(minimum=-1.0, maximum=1.0, shape=(1,), dtype=np.float32),
            "integers": types.SimpleNamespace(minimum=0, maximum=5, shape=(2,), dtype=np.int32),
        }[action_spec]

    def timestep(self, x, time, ended):
        cut = time >= self.time_limit
        kind = jnp.where(ended | cut, 2, 1)
        reward = x if self.agents == 1 else jnp.full(self.agents, x)
        return TimeStep(kind, reward, jnp.where(ended, 0.0, 1.0), Parts(observe(x, time), jnp.array([[True], [False]])))

    def reset(self, key):
        x = draw(key)
        return (x, jnp.int32(0)), self.timestep(x, 0, False)

    def step(self, state, action):
        x, ended = move(state[0], action)
        return (x, state[1] + 1), self.timestep(x, state[1] + 1, ended)


class Configuration(dict):
    def to_dict(self):
        return dict(self)


def playground_registry(parts, robots_at):
    made = {}

    def load(id, config_overrides):
        made["overrides"] = config_overrides
        return Brax(parts=parts)

    config = Configuration(episode_length=LIMIT, impl="warp", reward_config={"scales": {"energy": 1.0}})
    return types.SimpleNamespace(
        ALL_ENVS=("FakeTask", "FakeRobot"),
        dm_control_suite=types.SimpleNamespace(ALL_ENVS=("FakeTask",)),
        mjx_env=types.SimpleNamespace(MENAGERIE_PATH=Path(robots_at)),
        get_default_config=lambda id: config,
        load=load,
        made=made,
    )


def modules(parts=(), robots_at="/nowhere"):
    """All four suites as modules by name, to be put where Python looks for imported ones."""

    def gymnax_make(id, **arguments):
        env = (MergingGymnax if id == "Merging-v0" else Gymnax)(**arguments)
        return env, GymnaxParams()

    def broken():
        raise OSError("no such level\nat line 3")

    brax_envs = {"fake": Brax, "fast": Brax, "broken": broken}
    contents = {
        "gymnax": {"make": gymnax_make},
        "gymnax.registration": {"registered_envs": ["Fake-v0", "Merging-v0"]},
        "brax": {},
        "brax.envs": {"_envs": brax_envs, "get_environment": lambda id, **options: brax_envs[id](**options)},
        "mujoco_playground": {"registry": playground_registry(parts, robots_at)},
        "jumanji": {"make": lambda id, **options: Jumanji(**options), "registered_environments": lambda: {"Fake-v1"}},
    }
    made = {}
    for name, attributes in contents.items():
        made[name] = types.ModuleType(name)
        made[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(made[name]).update(attributes)
    return made
