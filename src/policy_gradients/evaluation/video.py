"""Films of one episode, made without a screen, with the policy as it is deployed: observations in, actions out."""

import contextlib
import glob
import importlib
import itertools
import math
import os
import shutil
import subprocess
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from policy_gradients.environments.base import EnvironmentFailure
from policy_gradients.environments.host import with_cause
from policy_gradients.environments.registry import make, resolve, without_device
from policy_gradients.environments.suites import SUITES, load_task
from policy_gradients.environments.suites.task import observation_vector
from policy_gradients.environments.wrappers import image_order
from policy_gradients.errors import UserError

Policy: TypeAlias = Callable[[np.ndarray], np.ndarray]

_PIXEL_FPS = 15.0  # a step of an Atari game is 4 of 60 frames a second
_PIXEL_SIZE = 480  # pixel observations are enlarged by a whole factor to about this height
_INSTALL = "pip install 'policy-gradients[video]'"


class RenderingUnavailable(UserError):
    """The task cannot be drawn here; the message says what to install, where that would help."""


class Film(NamedTuple):
    """A film that was written, and the episode in it."""

    path: Path
    episode_return: float
    length: int  # environment steps


class _Pace(NamedTuple):
    """How long a film may be, and how dense."""

    max_steps: int
    max_seconds: float
    most_fps: float

    def steps(self, steps_per_second: float) -> int:
        """Environment steps to film."""
        return max(1, min(self.max_steps, int(self.max_seconds * steps_per_second)))

    def stride(self, steps_per_second: float) -> int:
        """Every how many-th state is drawn, so that the film runs in real time."""
        return max(1, math.ceil(steps_per_second / self.most_fps - 1e-6))


class _Recording(NamedTuple):
    """An episode; pictures of the states before its steps, some of which may only be played as they are taken."""

    frames: Iterator[np.ndarray]  # uint8 [height, width, 3], one in `stride` states
    fps: float
    rewards: list[float]


def record_video(
    policy: Policy,
    env_id: str,
    path: str | Path,
    *,
    seed: int = 0,
    max_steps: int = 1_000,
    max_seconds: float = 20.0,
    fps: float = 30.0,
    frame_stack: int | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> Film:
    """Plays one episode and writes it as H.264 in an mp4, in real time.

    MuJoCo tasks are played by our own engine and drawn from the recorded positions, as are Brax's and Playground's.
    Other tasks are played and drawn by Gymnasium. EnvPool's games, which it does not draw, are shown as the policy sees
    them.

    Args:
        policy: From one raw observation (images with the channels last) to an action in the simulator's bounds, such as
            `deployment.load_policy` gives.
        env_id: As for `environments.registry.make`.
        path: The film; replaced when the new one is complete.
        seed: Of the episode.
        max_steps: Environment steps after which the film ends, the episode finished or not.
        max_seconds: Length after which it ends, likewise.
        fps: Most frames per second; of a faster simulation only every second, third … state is drawn.
        frame_stack: Observations joined into the one that the policy sees, as for `make`; None for as many as the
            policy's bundle says. (Of Atari through EnvPool it says none: its frames are stacked by the simulator.)
        env_options: The task's own options; the device of Warp's engine may be among them.

    Raises:
        RenderingUnavailable: The task cannot be drawn, fails while it is, or a library is missing.
        UserError: Unknown id, or a policy for other observations.
    """
    ffmpeg = _find_ffmpeg()
    engine, name = resolve(env_id)
    if frame_stack is None:
        description = getattr(policy, "description", None)
        frame_stack = 1 if description is None else int(description.observation.frames)
    record = {
        "mujoco": _record_mujoco,
        "warp": _record_mujoco,
        "envpool": partial(_record_pixels, frame_stack),
    }.get(engine, partial(_record_suite, engine) if engine in SUITES else _record_gymnasium)
    if engine != "envpool":  # whose environment comes with all its wrappers
        policy = _with_stack(policy, frame_stack)
    pace = _Pace(max_steps, max_seconds, fps)
    try:
        recording = record(policy, str(name), seed, pace, dict(env_options or {}))
        _write(ffmpeg, Path(path), recording)
    except EnvironmentFailure as failure:
        raise RenderingUnavailable(f"{name} cannot be filmed: {_first_line(str(failure))}") from failure
    return Film(Path(path), float(np.sum(recording.rewards)), len(recording.rewards))


def _with_stack(policy: Policy, frames: int) -> Policy:
    """The policy of `frames` observations as one of single ones, which remembers those of one episode."""
    seen: deque[np.ndarray] = deque(maxlen=frames)

    def act(obs: np.ndarray) -> np.ndarray:
        newest = obs.copy()  # a simulator may reuse its memory
        seen.extend([newest] if seen else [newest] * frames)
        return policy(np.concatenate(seen, axis=-1))

    return act if frames > 1 else policy


def _record_mujoco(policy: Policy, name: str, seed: int, pace: _Pace, options: dict[str, Any]) -> _Recording:
    from policy_gradients.environments.mujoco import render_frames
    from policy_gradients.environments.mujoco.batch import MujocoSimulator
    from policy_gradients.environments.mujoco.tasks import load_task

    options = without_device(options)
    simulator = MujocoSimulator(load_task(name, **options), 1, num_threads=1)
    rate = 1.0 / (simulator.spec.dt or 1 / 30)
    positions, rewards, ended = [], [], False
    try:
        obs = simulator.reset(seed)
        while not ended and len(rewards) < pace.steps(rate):
            positions.append(simulator.qpos[0].copy())
            out = simulator.step(np.asarray(policy(np.asarray(obs[0])), np.float32)[None])
            obs, ended = out.obs, bool(out.terminated[0] or out.truncated[0])
            rewards.append(float(out.reward[0]))
    finally:
        simulator.close()
    stride = pace.stride(rate)
    frames = render_frames(name, np.array(positions[::stride]), **options)
    return _Recording(_available(frames), rate / stride, rewards)


def _record_suite(suite: str, policy: Policy, name: str, seed: int, pace: _Pace, options: dict[str, Any]) -> _Recording:
    task = load_task(suite, name, **options)
    if task.physics is None:
        raise RenderingUnavailable(f"{suite}:{name} cannot be drawn: of the suites only Brax's and Playground's are.")
    from policy_gradients.environments.mujoco.rendering import draw_model

    rate, draw_key = 1.0 / (task.dt or 1 / 30), jax.random.key_data(jax.random.key(seed))
    reset, step = jax.jit(task.reset), jax.jit(task.step)
    positions, rewards, ended = [], [], False
    state, obs = reset(draw_key)
    while not ended and len(rewards) < min(pace.steps(rate), task.max_episode_steps or pace.max_steps):
        positions.append(np.asarray(task.physics.positions(state)))
        action = np.asarray(policy(np.asarray(observation_vector(obs))), np.float32)
        state, obs, reward, terminated, truncated = step(draw_key, state, action)
        rewards.append(float(reward))
        ended = bool(terminated) or bool(truncated)
    frames = draw_model(task.physics.model, np.array(positions[:: pace.stride(rate)]))
    return _Recording(_available(frames), rate / pace.stride(rate), rewards)


def _record_pixels(
    frame_stack: int, policy: Policy, name: str, seed: int, pace: _Pace, options: dict[str, Any]
) -> _Recording:
    env = make(f"envpool:{name}", 1, action_map="none", frame_stack=frame_stack, evaluation=True, **options)
    rate = 1.0 / env.spec.dt if env.spec.dt else _PIXEL_FPS
    images, rewards, ended = [], [], False
    try:
        space, first = env.spec.obs_space, getattr(env.spec.action_space, "start", 0)
        if space.dtype != np.uint8 or len(space.shape) != 3:
            raise RenderingUnavailable(f"{name} cannot be drawn: EnvPool gives no pictures of it.")
        step = jax.jit(env.step)
        state, obs = with_cause(env.reset, jax.random.key(seed))
        while not ended and len(rewards) < pace.steps(rate):
            seen = np.array(obs)[0]
            # Of stacked frames the last is the newest; three channels are one frame in colour.
            images.append(seen[..., -3:] if seen.shape[-1] % 3 == 0 else seen[..., -1:].repeat(3, axis=-1))
            action = np.asarray(policy(seen) - first, env.spec.action_space.dtype)
            state, out = with_cause(step, state, action[None])
            obs, ended = out.obs, bool(out.terminated[0] | out.truncated[0])
            rewards.append(float(out.reward[0]))
    finally:
        env.close()
    stride, factor = pace.stride(rate), max(1, round(_PIXEL_SIZE / space.shape[0]))
    enlarged = (image.repeat(factor, 0).repeat(factor, 1) for image in images[::stride])
    return _Recording(enlarged, rate / stride, rewards)


def _record_gymnasium(policy: Policy, name: str, seed: int, pace: _Pace, options: dict[str, Any]) -> _Recording:
    import gymnasium

    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # else SIGTERM is SDL's while pygame draws
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame would look for a screen and complain
    try:
        with warnings.catch_warnings(action="ignore"):
            # Without Gymnasium's own checker, as in training: it may raise at what was good enough there.
            env = gymnasium.make(name, **{"disable_env_checker": True, **options, "render_mode": "rgb_array"})
    except gymnasium.error.DependencyNotInstalled as error:
        raise RenderingUnavailable(f"{name} cannot be drawn: {_first_line(str(error))} Try: {_INSTALL}.") from error
    except Exception as error:  # a constructor may raise anything, for one at the keyword that it does not know
        raise RenderingUnavailable(f"{name} cannot be drawn by Gymnasium: {_first_line(str(error))}") from error
    rate, rewards = float(env.metadata.get("render_fps") or 30), []
    frames = _gymnasium_frames(policy, env, seed, pace.steps(rate), pace.stride(rate), rewards)
    return _Recording(frames, rate / pace.stride(rate), rewards)


def _gymnasium_frames(
    policy: Policy, env: Any, seed: int, steps: int, stride: int, rewards: list[float]
) -> Iterator[np.ndarray]:
    """Plays the episode while its frames are taken, and notes its rewards."""
    reorder = image_order(env.observation_space.shape, env.observation_space.dtype) or np.asarray
    try:
        obs, _ = _ask(env, "reset", seed=seed)
        ended = False
        while not ended and len(rewards) < steps:
            if len(rewards) % stride == 0:
                yield _picture(env)
            action = _within(env.action_space, policy(reorder(np.asarray(obs))))
            obs, reward, terminated, truncated, _ = _ask(env, "step", action)
            rewards.append(float(reward))
            ended = terminated or truncated
    finally:
        with contextlib.suppress(Exception):  # the film is there, or has a reason of its own not to be
            env.close()


def _within(space: Any, action: Any) -> Any:
    """The action as training gives it to the environment, also where bounds of float64 were rounded to float32."""
    return np.clip(action, space.low, space.high) if space.dtype == np.float64 else action


def _ask(env: Any, call: str, *args: Any, **options: Any) -> Any:
    """What a function of the environment returns; it may raise anything, even where training went well."""
    try:
        return getattr(env, call)(*args, **options)
    except Exception as error:
        kind, text = type(error).__name__, str(error).strip()
        cause = _first_line(f"{kind}: {text}" if text else kind)
        raise RenderingUnavailable(f"{_name_of(env)} cannot be filmed: {call}() raised {cause}") from error


def _name_of(env: Any) -> str:
    return env.spec.id if env.spec else "The environment"


def _picture(env: Any) -> np.ndarray:
    name = _name_of(env)
    try:
        with warnings.catch_warnings(action="ignore"):
            frame = env.render()
    except NotImplementedError as error:  # of `gymnasium.Env`
        raise RenderingUnavailable(f"{name} cannot be drawn: it has no render().") from error
    except Exception as error:
        raise RenderingUnavailable(f"{name} cannot be drawn: {_first_line(str(error))} Try: {_INSTALL}.") from error
    frame = np.asarray(frame)
    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
        raise RenderingUnavailable(
            f"{name} cannot be filmed: render() gave {frame.dtype} {frame.shape}, not uint8 [height, width, 3]."
        )
    return frame


def _available(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    try:
        yield from frames
    except UserError as error:
        raise RenderingUnavailable(str(error)) from error


def _write(ffmpeg: str, path: Path, recording: _Recording) -> None:
    """The film at `path`, whole or not at all; sides are cut to even lengths, which yuv420p needs."""
    first = next(recording.frames)
    height, width = (side - side % 2 for side in first.shape[:2])
    _remove_left_over(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.mp4")
    command = [
        *(ffmpeg, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-r", f"{recording.fps:g}", "-i", "-", "-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p"),
        *("-movflags", "+faststart", str(partial)),
    ]
    try:  # in a group of its own: Ctrl-C reaches this process, which then ends the other
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)
    except OSError as error:
        raise RenderingUnavailable(f"{ffmpeg} cannot be started: {error.strerror}; {_INSTALL}.") from error
    try:
        with contextlib.suppress(BrokenPipeError):  # ffmpeg has given up and says why below
            for frame in itertools.chain([first], recording.frames):
                process.stdin.write(frame[:height, :width].tobytes())  # type: ignore[union-attr]
        _, complaint = process.communicate()
        if process.returncode:
            raise RenderingUnavailable(f"{path} cannot be written: {_first_line(complaint.decode(errors='replace'))}")
        partial.replace(path)
    except OSError as error:
        raise RenderingUnavailable(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        process.kill()
        process.communicate()
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Removes the unfinished films for this path of processes that were killed."""
    for film in path.parent.glob(f".{glob.escape(path.name)}.*.mp4"):
        pid = film.name.removeprefix(f".{path.name}.").removesuffix(".mp4")
        if pid.isdecimal() and not _runs(int(pid)):
            with contextlib.suppress(OSError):
                film.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _find_ffmpeg() -> str:
    """The program that encodes: imageio-ffmpeg's, else the system's."""
    try:
        return importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        system = shutil.which("ffmpeg")
        if system is None:
            raise RenderingUnavailable(f"A film needs ffmpeg, which is not installed: {_INSTALL}.") from error
        return system


def _first_line(text: str) -> str:
    """The first line of a message, ended by a full stop."""
    return (text.strip().splitlines() or ["no reason given"])[0].rstrip(".") + "."
