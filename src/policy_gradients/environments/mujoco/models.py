"""Compiled MuJoCo models from the XML files that Gymnasium ships."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from policy_gradients.environments.mujoco.tasks.rules import Constants
from policy_gradients.errors import UserError

_FREE_QPOS = ("x", "y", "z", "qw", "qx", "qy", "qz")
_FREE_QVEL = ("vx", "vy", "vz", "wx", "wy", "wz")


def import_mujoco() -> Any:
    """The module `mujoco`.

    Raises:
        UserError: The environment asks MuJoCo for a renderer whose system library is missing.
    """
    try:
        import mujoco
    except (AttributeError, ImportError) as error:
        raise UserError(
            f"MuJoCo could not be imported ({error}): where the variable MUJOCO_GL is set, unset it or install the "
            "renderer that it names (for egl: libegl1 libegl-mesa0 libgl1-mesa-dri)."
        ) from error
    return mujoco


def asset_folder() -> Path:
    """The folder of Gymnasium's MuJoCo models, found without importing Gymnasium (0.3 s)."""
    spec = importlib.util.find_spec("gymnasium")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("The models of the MuJoCo tasks come with Gymnasium: install gymnasium>=1.4.")
    return Path(spec.submodule_search_locations[0]) / "envs" / "mujoco" / "assets"


def load_model(xml_file: str) -> Any:
    """Compile a model.

    Args:
        xml_file: As Gymnasium reads it: a path when it starts with `.`, `/` or `~`, else a file among its assets.

    Raises:
        UserError: There is no such file, or MuJoCo does not understand it.
    """
    is_path = xml_file.startswith((".", "/", "~"))
    path = Path(xml_file).expanduser() if is_path else asset_folder() / xml_file
    if not path.is_file():
        raise UserError(f"There is no model file {path}: give xml_file a path that starts with ./, / or ~.")
    mujoco = import_mujoco()
    with _without_deprecations(mujoco):
        try:
            return mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise UserError(f"MuJoCo cannot read the model {path}: {error}") from error


@contextmanager
def _without_deprecations(mujoco: Any) -> Iterator[None]:
    """Drop what MuJoCo 4 says of `settotalmass`, an attribute of Gymnasium's half_cheetah.xml, and pass on the rest.

    Otherwise every process would print it and write a file MUJOCO_LOG.TXT where it runs.
    """
    messages: list[str] = []
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
    for message in messages:
        if "settotalmass" not in message:
            warnings.warn(message, stacklevel=4)


def read_constants(model: Any, frame_skip: int) -> Constants:
    """What the rules of a task read from its model."""
    bodies = tuple(model.body(i).name or f"body{i}" for i in range(model.nbody))
    positions, velocities = [], []
    for i in range(model.njnt):
        name, width = model.joint(i).name or f"joint{i}", _widths(model, i)
        positions += [f"qpos.{name}.{axis}" for axis in _FREE_QPOS[-width[0] :]] if width[0] > 1 else [f"qpos.{name}"]
        velocities += [f"qvel.{name}.{axis}" for axis in _FREE_QVEL[-width[1] :]] if width[1] > 1 else [f"qvel.{name}"]
    return Constants(
        dt=model.opt.timestep * frame_skip,
        timestep=model.opt.timestep,
        qpos=np.array(model.qpos0),
        masses=np.array(model.body_mass),
        bodies=bodies,
        qpos_names=tuple(positions),
        qvel_names=tuple(velocities),
    )


def _widths(model: Any, joint: int) -> tuple[int, int]:
    """Numbers of positions and velocities of a joint: 7 and 6 (free), 4 and 3 (ball) or 1 and 1."""
    return {0: (7, 6), 1: (4, 3)}.get(int(model.jnt_type[joint]), (1, 1))


def actuator_names(model: Any) -> tuple[str, ...]:
    """Names of the actuators, or of the joints that they drive where they have none."""
    return tuple(
        model.actuator(i).name or model.joint(int(model.actuator_trnid[i, 0])).name or f"actuator{i}"
        for i in range(model.nu)
    )
