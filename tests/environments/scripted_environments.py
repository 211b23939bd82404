"""A Gymnasium environment that does what its actions say, so that a test decides what goes wrong, where and when."""

import ctypes
import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text

GO, TERMINATE, TRUNCATE, BOTH, RAISE, NAN_OBS, INF_REWARD, WRONG_SHAPE, KILL, SEGFAULT, EXIT, SLEEP = range(12)


class Scripted(gymnasium.Env):
    """Observes (number of the episode, step in it, first seed); reward is 10 · episode + step."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Discrete(12)

    def __init__(self, reset_raises_in_episode: int = 0) -> None:
        self.episode, self.first_seed = 0, -1
        self.reset_raises_in_episode = reset_raises_in_episode

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.first_seed = seed
        self.episode, self.t = self.episode + 1, 0
        if self.episode == self.reset_raises_in_episode:
            raise RuntimeError("the reset went wrong")
        return self.observe(), {}

    def observe(self):
        return np.array([self.episode, self.t, self.first_seed], np.float64)

    def step(self, action):
        self.t += 1
        obs, reward = self.observe(), 10.0 * self.episode + self.t
        if action == RAISE:
            raise ZeroDivisionError("the step went wrong")
        if action == NAN_OBS:
            obs[1] = np.nan
        if action == INF_REWARD:
            reward = np.inf
        if action == WRONG_SHAPE:
            obs = obs[:1]
        if action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == SEGFAULT:
            ctypes.string_at(0)
        if action == EXIT:
            os._exit(7)
        if action == SLEEP:
            time.sleep(60)
        return obs, reward, action in (TERMINATE, BOTH), action in (TRUNCATE, BOTH), {}


class Echo(gymnasium.Env):
    """Observes the action it was given: in `dtype` and within ±`bound` as a Box, or from 5 to 7 as a Discrete."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, discrete: bool = False, dtype: str = "float64", bound: float = 2.0) -> None:
        self.kept = None
        self.action_space = Discrete(3, start=5) if discrete else Box(-bound, bound, (2,), np.dtype(dtype))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        assert self.action_space.contains(action) and action.dtype == self.action_space.dtype
        assert self.kept is None or (self.kept[0] == self.kept[1]).all(), "an action that was kept has changed"
        self.kept = (action, action.copy())
        return np.broadcast_to(np.asarray(action, np.float64), (2,)), 1.0, False, False, {}


class Camera(gymnasium.Env):
    """Observes an image whose pixels count up, with the given shape."""

    action_space = Discrete(2)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.observation_space = Box(0, 255, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        shape = self.observation_space.shape
        return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape), {}

    def step(self, action):
        return (*self.reset()[:1], 0.0, False, False, {})


class Spaces(gymnasium.Env):
    """Has the spaces that it is asked to have."""

    def __init__(self, obs: str = "box", action: str = "discrete") -> None:
        known = {
            "box": Box(-1.0, 1.0, (2,)),
            "discrete": Discrete(2),
            "dict": Dict({"position": Box(-1.0, 1.0, (2,))}),
            "multi_discrete": MultiDiscrete([2, 3]),
            "integers": Box(0, 5, (2,), np.int32),
            "text": Text(5),
        }
        self.observation_space, self.action_space = known[obs], known[action]


def make_scripted(**kwargs) -> gymnasium.Env:
    return Scripted(**kwargs)


def raise_in_constructor() -> gymnasium.Env:
    raise RuntimeError("no such robot")


gymnasium.register("Scripted-v0", Scripted, max_episode_steps=4)


class Mistaken(gymnasium.Env):
    """One of the mistakes that are easily made, by name."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake
        if mistake != "no observation_space":
            self.observation_space = Box(-1.0, 1.0, (3,), np.float32)
        if mistake != "no action_space":
            self.action_space = Discrete(12)
        if mistake == "reset without seed":
            self.reset = self.old_reset

    def old_reset(self):
        return np.zeros(3), {}

    old_reset.__qualname__ = "Mistaken.reset"

    def reset(self, *, seed=None, options=None):
        obs = np.zeros(2 if self.mistake == "short observation" else 3)
        return obs if self.mistake == "reset without info" else (obs, {})

    def step(self, action):
        values = {
            "4 values": (np.zeros(3), 1.0, False, {}),
            "no values": None,
            "no reward": (np.zeros(3), None, False, False, {}),
            "two rewards": (np.zeros(3), [1.0, 2.0], False, False, {}),
        }
        return values.get(self.mistake, (np.zeros(3), np.array([1.5]), False, False, {}))


class Shaped(gymnasium.Env):
    """Observes zeros of a shape."""

    action_space = Discrete(2)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.observation_space = Box(-1.0, 1.0, shape, np.float32)
