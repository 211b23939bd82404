"""Films: what is in the file, and the sentence where there can be none."""

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import imageio_ffmpeg
import jax
import numpy as np
import pytest

from policy_gradients.environments.base import EnvironmentFailure
from policy_gradients.environments.registry import make
from policy_gradients.errors import UserError
from policy_gradients.evaluation import video
from policy_gradients.evaluation.video import RenderingUnavailable, record_video
from policy_gradients.training import products


class Painting(gymnasium.Env):
    """Episodes of 10 steps whose picture gets whiter; reward is the action; 40 frames per second of odd size."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 40}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 10, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None, breaks: str = "", bound: float | None = None) -> None:
        self.render_mode, self.breaks = render_mode, breaks
        if bound is not None:
            self.action_space = gymnasium.spaces.Box(-bound, bound, (1,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        if self.breaks == "reset":
            raise RuntimeError
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.dtype == np.float32 or self.action_space.contains(action)
        self.t += 1
        if self.breaks == "step" and self.t == 3:
            raise RuntimeError("the brush broke\nin two")
        return np.full(1, self.t, np.float32), float(action[0]), self.t == 10, False, {}

    def render(self) -> Any:
        if self.breaks == "raises":
            raise RuntimeError("no paint\nleft")
        if self.breaks == "blind":
            return super().render()
        return None if self.breaks == "nothing" else np.full((65, 83, 3), 20 * self.t, np.uint8)

    def close(self) -> None:
        if self.breaks == "close":
            raise RuntimeError("the tube is stuck")


class Slideshow(Painting):
    """Observes one image, in an order of axes of its own, which it fills with the number of the step."""

    def __init__(self, render_mode: str | None = None, shape: tuple[int, ...] = (2, 5, 6)) -> None:
        super().__init__(render_mode)
        self.observation_space = gymnasium.spaces.Box(0, 255, tuple(shape), np.uint8)
        self.image = np.zeros(shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.now(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        _, *rest = super().step(action)
        return self.now(), *rest

    def now(self) -> np.ndarray:
        self.image[...] = np.arange(self.image.size).reshape(self.image.shape) + self.t  # always the same memory
        return self.image


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    gymnasium.register("Painting-v0", Painting, disable_env_checker=True)
    gymnasium.register("Slideshow-v0", Slideshow, disable_env_checker=True)
    yield
    del gymnasium.registry["Painting-v0"], gymnasium.registry["Slideshow-v0"]


def frames_of(path: Path) -> tuple[tuple, np.ndarray]:
    """Codec, pixel format, width, height and frames per second; and the frames."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    stream = re.search(r"Video: (\w+).*?, (\w+)\(.*?, (\d+)x(\d+).*?, ([\d.]+) fps", done.stderr.decode())
    assert stream is not None
    codec, pixels, width, height, fps = stream.groups()
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    return (codec, pixels, int(width), int(height), float(fps)), frames


def constant(obs: np.ndarray) -> np.ndarray:
    return np.full(1, 0.5, np.float32)


def test_a_film_shows_the_whole_episode_in_real_time(tmp_path: Path) -> None:
    film = record_video(constant, "Painting-v0", tmp_path / "film.mp4", fps=20)
    meta, frames = frames_of(film.path)
    assert (film.length, film.episode_return) == (10, 5.0)
    assert meta == ("h264", "yuv420p", 82, 64, 20)
    brightness = [frame.mean() for frame in frames]
    np.testing.assert_allclose(brightness, [0, 40, 80, 120, 160], atol=4)  # every second of ten states
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize(("limit", "steps"), [({"max_steps": 4}, 4), ({"max_seconds": 0.15}, 6)])
def test_a_film_ends_at_its_limit(limit: dict[str, Any], steps: int, tmp_path: Path) -> None:
    film = record_video(constant, "Painting-v0", tmp_path / "film.mp4", **limit)
    assert film.length == steps


def test_the_policy_sees_what_the_simulator_observed(tmp_path: Path) -> None:
    seen = []

    def policy(obs: np.ndarray) -> np.ndarray:
        seen.append(obs[0])
        return obs

    film = record_video(policy, "Painting-v0", tmp_path / "film.mp4", max_steps=4)
    assert seen == [0, 1, 2, 3] and film.episode_return == 6


def test_an_action_at_a_bound_that_float32_cannot_hold_lies_within_the_environments_own(tmp_path: Path) -> None:
    high = np.full(1, 0.1, np.float32)  # just beyond 0.1
    film = record_video(lambda obs: high, "Painting-v0", tmp_path / "film.mp4", env_options={"bound": 0.1})
    assert film.length == 10


@pytest.mark.parametrize("told", [True, False])
def test_a_policy_of_stacked_frames_sees_the_earlier_ones_as_in_training(told: bool, tmp_path: Path) -> None:
    seen = []

    def policy(obs: np.ndarray) -> np.ndarray:
        seen.append(obs.tolist())
        return obs[-1:]

    if not told:  # a bundle says it of itself
        policy.description = SimpleNamespace(observation=SimpleNamespace(frames=3))  # type: ignore[attr-defined]
    options = {"frame_stack": 3} if told else {}
    record_video(policy, "Painting-v0", tmp_path / "film.mp4", max_steps=4, **options)
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("shape", [(2, 5, 6), (5, 6), (5, 6, 3)])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_policy_of_images_sees_them_as_in_training(shape: tuple[int, ...], frames: int, tmp_path: Path) -> None:
    seen = []

    def policy(obs: np.ndarray) -> np.ndarray:
        seen.append(np.array(obs))
        return np.zeros(1, np.float32)

    options = {"shape": shape}
    record_video(policy, "Slideshow-v0", tmp_path / "f.mp4", max_steps=3, frame_stack=frames, env_options=options)
    env = make("gymnasium:Slideshow-v0", 1, frame_stack=frames, num_workers=0, **options)
    state, obs = env.reset(jax.random.key(0))
    for image in seen:
        np.testing.assert_array_equal(image, obs[0])
        state, out = env.step(state, np.zeros((1, 1), np.float32))
        obs = out.obs
    env.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v4"])
def test_our_own_tasks_are_filmed_without_a_screen(env_id: str, tmp_path: Path) -> None:
    action = {"CartPole-v1": np.int64(1), "HalfCheetah-v4": np.zeros(6, np.float32)}[env_id]
    film = record_video(lambda obs: action, env_id, tmp_path / "film.mp4", max_steps=3)
    meta, frames = frames_of(film.path)
    assert film.length == 3 and len(frames) >= 2
    assert meta[-1] == {"CartPole-v1": 25, "HalfCheetah-v4": 20}[env_id]
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 20  # not one colour
    assert (frames[0] != frames[-1]).any()


def test_a_mujoco_film_is_the_episode_of_its_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = []

    def render_frames(env_id: str, qpos: np.ndarray, **options: Any) -> Iterator[np.ndarray]:
        drawn.append(qpos)
        return iter(np.zeros((len(qpos), 16, 16, 3), np.uint8))

    monkeypatch.setattr("policy_gradients.environments.mujoco.render_frames", render_frames)
    films = [
        record_video(
            lambda obs: np.ones(3, np.float32),
            "Hopper-v4",
            tmp_path / "film.mp4",
            seed=seed,
            fps=60,
            max_steps=8,
            env_options={"device": "cuda:1"} if seed == 2 else None,  # Warp's, and nothing to the film
        )
        for seed in (1, 1, 2)
    ]
    first, again, other = drawn
    assert first.shape == (3, 6)  # 125 states a second: every third
    np.testing.assert_array_equal(first, again)
    assert films[0].episode_return == films[1].episode_return and (first != other).any()
    assert (np.diff(first[:, 0]) != 0).all()  # it moves


@pytest.mark.parametrize(
    ("env_id", "options", "sentence"),
    [
        ("Painting-v0", {"breaks": "raises"}, "Painting-v0 cannot be drawn: no paint. Try: pip install"),
        ("Painting-v0", {"breaks": "nothing"}, "render.. gave object"),
        ("Painting-v0", {"breaks": "blind"}, r"Painting-v0 cannot be drawn: it has no render\(\)\.$"),
        ("Painting-v0", {"breaks": "reset"}, r"Painting-v0 cannot be filmed: reset\(\) raised RuntimeError\.$"),
        (
            "Painting-v0",
            {"breaks": "step"},
            r"Painting-v0 cannot be filmed: step\(\) raised RuntimeError: the brush broke\.$",
        ),
        ("Painting-v0", {"colour": "blue"}, "Painting-v0 cannot be drawn by Gymnasium"),
        ("probe", {}, "cannot be drawn by Gymnasium"),
    ],
)
def test_a_task_that_cannot_be_drawn_says_so(
    env_id: str, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    if env_id == "probe":
        from policy_gradients.environments.probes import PROBE_IDS

        env_id = PROBE_IDS[0]
    with pytest.raises(RenderingUnavailable, match=sentence) as caught:
        record_video(constant, env_id, tmp_path / "film.mp4", env_options=options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_environment_that_cannot_be_closed_has_its_film(tmp_path: Path) -> None:
    film = record_video(constant, "Painting-v0", tmp_path / "film.mp4", env_options={"breaks": "close"})
    assert film.length == 10 and film.path.exists()


def test_a_simulator_that_fails_while_it_is_filmed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*args: Any) -> None:
        raise EnvironmentFailure("Painting-v0 (environment 1 of 1) raised: no paint.\nTraceback")

    monkeypatch.setattr(video, "_record_gymnasium", fails)
    with pytest.raises(RenderingUnavailable, match=r"^Painting-v0 cannot be filmed: .* raised: no paint\.$"):
        record_video(constant, "Painting-v0", tmp_path / "film.mp4")


@pytest.mark.parametrize("breaks", ["reset", "step", "raises", "blind"])
def test_an_environment_that_breaks_while_it_is_filmed_costs_a_run_only_its_film(
    breaks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env = SimpleNamespace(id="Painting-v0", kwargs={"breaks": breaks}, frame_stack=1)
    said: list[str] = []
    monkeypatch.setattr(products, "make_curve", lambda *args: None)
    monkeypatch.setattr("policy_gradients.deployment.numpy_policy.load_policy", lambda path: constant)
    progress: Any = SimpleNamespace(message=said.append)
    experiment: Any = SimpleNamespace(env=env, seed=0)
    products.make_pictures(experiment, tmp_path, progress, film=True)
    assert len(said) == 1 and said[0].startswith("No film: Painting-v0 cannot be ")


def test_a_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RenderingUnavailable, match=r"needs ffmpeg, .* pip install 'policy-gradients\[video\]'"):
        record_video(constant, "CartPole-v1", tmp_path / "film.mp4")


def test_a_missing_renderer_is_no_other_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def render_frames(env_id: str, qpos: np.ndarray, **options: Any) -> Iterator[np.ndarray]:
        raise UserError("No renderer could be started: install libegl1.")
        yield

    monkeypatch.setattr("policy_gradients.environments.mujoco.render_frames", render_frames)
    with pytest.raises(RenderingUnavailable, match="install libegl1"):
        record_video(lambda obs: np.zeros(6, np.float32), "HalfCheetah-v4", tmp_path / "film.mp4", max_steps=2)


def test_a_film_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text("the old film")

    def policy(obs: np.ndarray) -> np.ndarray:
        if obs[0] == 3:
            raise UserError("The policy expects other observations.")
        return obs

    with pytest.raises(UserError, match="other observations"):
        record_video(policy, "Painting-v0", tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_text() == "the old film"
    assert len(list(tmp_path.iterdir())) == 1


def test_half_a_film_is_not_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text('#!/bin/sh\nfor last; do :; done\necho half > "$last"\necho "the disk is full" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(RenderingUnavailable, match="cannot be written: the disk is full"):
        record_video(constant, "Painting-v0", tmp_path / "film.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["ffmpeg"]


def test_half_a_film_of_a_process_that_was_killed_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as killed:
        pass
    for name in (f"film.mp4.{killed.pid}", f"film.mp4.{os.getppid()}", f"other.mp4.{killed.pid}", "film.mp4.mine"):
        (tmp_path / f".{name}.mp4").touch()
    record_video(constant, "Painting-v0", tmp_path / "film.mp4")
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == sorted(
        [f".film.mp4.{os.getppid()}.mp4", f".other.mp4.{killed.pid}.mp4", ".film.mp4.mine.mp4", "film.mp4"]
    )


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RenderingUnavailable, match="cannot be written"):
        record_video(constant, "Painting-v0", tmp_path / "nowhere" / "film.mp4")


@pytest.mark.slow
def test_an_atari_game_is_filmed_as_the_policy_sees_it(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    film = record_video(lambda obs: np.int64(1), "envpool:Pong-v5", tmp_path / "film.mp4", max_steps=20)
    meta, frames = frames_of(film.path)
    assert film.length == 20 and meta[2:4] == (504, 504)
    assert frames[-1].max() > 100


def test_a_film_where_a_folder_is_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RenderingUnavailable, match="cannot be written"):
        record_video(constant, "Painting-v0", tmp_path)
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*.mp4"))
