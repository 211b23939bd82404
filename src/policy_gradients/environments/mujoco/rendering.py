"""Pictures of recorded states, without a screen."""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from policy_gradients.environments.mujoco.models import import_mujoco
from policy_gradients.environments.mujoco.tasks import load_task
from policy_gradients.errors import UserError, suggest


def render_frames(
    id: str,
    qpos: np.ndarray,
    qvel: np.ndarray | None = None,
    width: int = 480,
    height: int = 480,
    camera: str | None = None,
    **options: Any,
) -> Iterator[np.ndarray]:
    """Replay recorded states of a MuJoCo task, whatever engine recorded them.

    Without a screen on Linux it draws through EGL, on a GPU or through Mesa on the processor, unless the variable
    MUJOCO_GL names another renderer. Its context belongs to the thread that takes the frames.

    Args:
        id: Gymnasium's id.
        qpos: Positions, one row per frame  [T, nq].
        qvel: Velocities [T, nv]; no picture depends on them but that of a model with velocity sensors or a custom one.
        width, height: Size of the pictures, pixels.
        camera: Name of a camera of the model; None for the one that follows the robot ("track") where there is one,
            else Gymnasium's free camera.
        **options: The task's own, such as `xml_file`.

    Yields:
        Pictures, uint8 [height, width, 3].

    Raises:
        UserError: An array has the wrong shape, there is no such camera, or no renderer can be started.
    """
    task = load_task(id, **options)
    model = task.model
    for name, array, size in (("qpos", qpos, model.nq), ("qvel", qvel, model.nv)):
        if array is not None and (array.ndim != 2 or array.shape[1] != size):
            raise UserError(f"render_frames takes {name} of shape [T, {size}] for {id}, but {array.shape} came.")
    names = [model.camera(i).name for i in range(model.ncam)]
    if camera is not None and camera not in names:
        known = f"cameras {', '.join(filter(None, names))}" if any(names) else "no camera"
        raise UserError(f"{id} has {known}, but {camera!r} came.{suggest(camera, names)}")
    return draw_model(model, qpos, qvel, (width, height), camera, task.camera)


def draw_model(
    model: Any,
    qpos: np.ndarray,
    qvel: np.ndarray | None = None,
    size: tuple[int, int] = (480, 480),
    camera: str | None = None,
    view: Mapping[str, Any] | None = None,
) -> Iterator[np.ndarray]:
    """Pictures of recorded states of any MuJoCo model, as `render_frames`.

    Args:
        model: A `mujoco.MjModel`; its settings of quality are changed.
        qpos, qvel, camera: As for `render_frames`.
        size: Width and height, pixels.
        view: Attributes of the free camera, where that is used.
    """
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, size[0])
    model.vis.global_.offheight = max(model.vis.global_.offheight, size[1])
    model.vis.quality.shadowsize = 1024  # with these two a processor draws three to five times as fast
    model.vis.quality.offsamples = 0
    mujoco = import_mujoco()
    gl, context = _open(mujoco, model, size)
    try:
        data, scene = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=1000)
        mujoco.mj_forward(model, data)
        eye, scene_options = _view(mujoco, model, data, camera, view or {}), mujoco.MjvOption()
        rectangle = mujoco.MjrRect(0, 0, *size)
        for frame, positions in enumerate(qpos):
            data.qpos[:] = positions
            if qvel is not None:
                data.qvel[:] = qvel[frame]
            mujoco.mj_forward(model, data)
            gl.make_current()
            everything = int(mujoco.mjtCatBit.mjCAT_ALL)
            mujoco.mjv_updateScene(model, data, scene_options, None, eye, everything, scene)
            mujoco.mjr_render(rectangle, scene, context)
            picture = np.empty((size[1], size[0], 3), np.uint8)
            mujoco.mjr_readPixels(picture, None, rectangle, context)
            yield np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the lowest
    finally:
        gl.make_current()
        context.free()
        gl.free()


def _open(mujoco: Any, model: Any, size: tuple[int, int]) -> tuple[Any, Any]:
    """An OpenGL context and MuJoCo's renderer in it.

    MuJoCo chooses its context when it is imported, by MUJOCO_GL, and falls back to one that needs a screen; asking for
    EGL by name needs no variable.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    try:
        if sys.platform == "linux" and asked in ("", "egl"):
            from mujoco.egl import GLContext
        else:
            GLContext = mujoco.GLContext
        gl = GLContext(*size)
        gl.make_current()
        context = mujoco.MjrContext(model, int(mujoco.mjtFontScale.mjFONTSCALE_100))
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), context)
    except Exception as error:
        raise UserError(
            f"No renderer could be started ({error}): install the system libraries libegl1 libegl-mesa0 "
            "libgl1-mesa-dri (Debian's names), or set MUJOCO_GL to glfw or osmesa."
        ) from error
    return gl, context


def _view(mujoco: Any, model: Any, data: Any, name: str | None, free: Mapping[str, Any]) -> Any:
    """A camera of the model, or Gymnasium's free camera: at the scene's median, with the task's own attributes."""
    view = mujoco.MjvCamera()
    number = mujoco.mj_name2id(model, int(mujoco.mjtObj.mjOBJ_CAMERA), name or "track")
    if number >= 0:
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
        return view
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    view.lookat[:] = np.median(data.geom_xpos, axis=0)
    view.distance = model.stat.extent
    for attribute, value in free.items():
        if attribute == "lookat":
            view.lookat[:] = value
        else:
            setattr(view, attribute, value)
    return view
