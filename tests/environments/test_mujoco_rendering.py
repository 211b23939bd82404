"""Pictures of recorded MuJoCo states; skipped only where no renderer can be started."""

import subprocess
import sys

import numpy as np
import pytest

from policy_gradients.environments.mujoco import render_frames
from policy_gradients.environments.mujoco.batch import MujocoSimulator
from policy_gradients.environments.mujoco.tasks import load_task
from policy_gradients.errors import UserError


def frames(id: str, qpos: np.ndarray, **options) -> list[np.ndarray]:
    try:
        return list(render_frames(id, qpos, width=64, height=48, **options))
    except UserError as error:
        if "No renderer" in str(error):
            pytest.skip(str(error))
        raise


def start(id: str) -> np.ndarray:
    return load_task(id).rules.constants.qpos


def test_a_frame_shows_the_robot_the_right_way_up():
    pictures = frames("Hopper-v4", start("Hopper-v4")[None])
    assert len(pictures) == 1 and pictures[0].shape == (48, 64, 3) and pictures[0].dtype == np.uint8
    sky, floor = pictures[0][:8, :8].astype(float), pictures[0][-8:, :8].astype(float)
    assert sky.std() < floor.std()  # the floor is a chess board
    assert np.abs(pictures[0].astype(float) - frames("Hopper-v4", start("Hopper-v4")[None])[0]).max() == 0


def test_the_camera_follows_the_robot():
    qpos = np.stack([start("Hopper-v4")] * 2)
    qpos[1, 0] = 2.0  # two metres on, a whole number of the floor's squares or not
    near, far = (picture[12:30, 26:38].astype(float) for picture in frames("Hopper-v4", qpos))
    assert np.abs(near - far).mean() < 10


def test_different_states_look_different_without_a_camera_in_the_model():
    qpos = np.array([[0.0, 0.0], [0.0, 0.5]])
    upright, leaning = frames("InvertedPendulum-v5", qpos)
    assert (upright != leaning).any()


def test_pictures_larger_than_the_models_buffer_are_drawn():
    try:
        (picture,) = render_frames("Hopper-v4", start("Hopper-v4")[None], width=700, height=500)
    except UserError as error:
        pytest.skip(str(error))
    assert picture.shape == (500, 700, 3)
    np.testing.assert_allclose(picture[:10, :30].mean((0, 1)), picture[:10, -30:].mean((0, 1)), atol=3)  # sky


def test_recorded_positions_are_the_simulators():
    simulator = MujocoSimulator(load_task("Swimmer-v4"), 2)
    simulator.reset(0)
    before = simulator.qpos.copy()
    simulator.step(np.ones((2, 2), np.float32))
    assert simulator.qpos.shape == (2, 5) and (simulator.qpos != before).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qpos": np.zeros((3, 5))}, r"qpos of shape \[T, 6\] for Hopper-v4, but \(3, 5\)"),
        ({"qpos": np.zeros((3, 6)), "qvel": np.zeros(6)}, r"qvel of shape \[T, 6\]"),
        ({"qpos": np.zeros((3, 6)), "camera": "trak"}, "cameras track, but 'trak' came. Did you mean 'track'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_drawn(arguments, message):
    with pytest.raises(UserError, match=message):
        render_frames("Hopper-v4", **arguments)


def test_a_missing_renderer_names_the_system_libraries():
    code = (
        "import sys; sys.modules['mujoco.egl'] = None\n"
        "import numpy as np\n"
        "from policy_gradients.environments.mujoco import render_frames\n"
        "list(render_frames('Hopper-v4', np.zeros((1, 6))))\n"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "UserError" in done.stderr and "libegl1 libegl-mesa0 libgl1-mesa-dri" in done.stderr
