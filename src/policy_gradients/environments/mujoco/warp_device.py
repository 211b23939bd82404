"""Where MuJoCo Warp runs: which engine suits, which device, how many worlds fit, and the kernels' first compilation."""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from policy_gradients.environments.mujoco.tasks import Task
from policy_gradients.errors import UserError, suggest

if TYPE_CHECKING:
    from jax.sharding import Mesh

ENGINES = ("auto", "batch", "warp")
"""What `engine` may be for a MuJoCo task."""

FEW_WORLDS = 256
"""With fewer worlds a GPU waits for launches more than it computes, and `auto` stays with the processor."""


class Choice(NamedTuple):
    """An engine of the MuJoCo tasks and, in half a sentence, why it was chosen."""

    engine: str
    reason: str


def choose_engine(asked: str, num_envs: int | None = None) -> Choice:
    """The engine, "batch" or "warp", that `asked` stands for on this machine.

    Args:
        asked: One of `ENGINES`; "auto" takes Warp where JAX has a CUDA device and Warp is installed.
        num_envs: Worlds, where that is known already.

    Raises:
        UserError: There is no such engine.
    """
    if asked not in ENGINES:
        raise UserError(f"engine is one of {', '.join(ENGINES)}, but {asked!r} came.{suggest(str(asked), ENGINES)}")
    if asked != "auto":
        return Choice(asked, "as asked for")
    if not _installed():
        return Choice("batch", "MuJoCo Warp is not installed")
    from policy_gradients import backend

    if backend.platform() != "gpu":
        return Choice("batch", "JAX sees no CUDA device")
    if num_envs is not None and num_envs < FEW_WORLDS:
        return Choice("batch", f"fewer than {FEW_WORLDS} worlds would not fill a GPU")
    return Choice("warp", f"JAX runs on {backend.devices()[0].device_kind}")


def _installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("warp", "mujoco_warp"))


def import_warp() -> Any:
    """The module `warp`, quiet.

    Raises:
        UserError: Warp or MuJoCo Warp is not installed.
    """
    if not _installed():
        raise UserError(
            "The engine warp needs MuJoCo Warp: pip install 'policy-gradients[gpu]', or choose --engine batch."
        )
    import warp

    warp.config.log_level = warp.LOG_ERROR
    warp.init()
    return warp


def pick_device(warp: Any, name: str | None) -> Any:
    """Warp's device of that name, or the one that JAX computes on.

    Raises:
        UserError: There is no such device, or no GPU that both JAX and Warp can use.
    """
    from policy_gradients import backend

    platform = backend.platform()
    if name is not None:
        known = [str(device) for device in warp.get_devices()]
        if name not in known or name.startswith("cuda") != (platform == "gpu"):
            raise UserError(
                f"The engine warp on the device {name!r} needs that device in JAX and in Warp, but JAX computes on "
                f"{platform} and Warp knows {', '.join(known)}."
            )
        return warp.get_device(name)
    if platform != "gpu":
        raise UserError(
            f"The engine warp needs a CUDA device, but JAX computes on {platform}: install JAX for CUDA "
            "(pip install 'jax[cuda13]') on a machine with an NVIDIA GPU, or choose --engine batch."
        )
    if warp.get_cuda_device_count() == 0:
        raise UserError(
            "JAX has a CUDA device, but Warp cannot use it: this Warp needs an NVIDIA driver of version 580 or newer "
            "(nvidia-smi shows yours). Update the driver, or choose --engine batch."
        )
    return warp.device_from_jax(backend.own_device())


def pick_devices(warp: Any, name: str | None, mesh: "Mesh | None") -> list[Any]:
    """Warp's devices for this process's devices of a mesh, each once; without a mesh the one of `pick_device`.

    Raises:
        UserError: As `pick_device`; or one device is named where there are several.
    """
    if mesh is None:
        return [pick_device(warp, name)]
    if name not in (None, "cpu"):
        raise UserError(f"The option device names one device, {name!r}; leave it out, or give --devices 1.")
    pick_device(warp, name)
    return list({str(where): where for where in map(warp.device_from_jax, mesh.local_devices)}.values())


def check_room(warp: Any, task: Task, num_envs: int, device: Any) -> None:
    """Refuses more worlds than the device has free memory for.

    Raises:
        UserError: With how many would fit.
    """
    if not device.is_cuda:
        return
    from policy_gradients.environments.mujoco.warp_physics import bytes_per_world

    free, each = device.free_memory, bytes_per_world(task)
    if num_envs * each > free:
        raise UserError(
            f"{num_envs:,} worlds of {task.id} need some {num_envs * each / 2**30:,.1f} GiB on {device.name}, where "
            f"{free / 2**30:,.1f} GiB are free: at most {free // each:,} fit. Give fewer num_envs, or leave Warp more "
            "room (XLA_PYTHON_CLIENT_MEM_FRACTION is the share that JAX takes for itself)."
        )


def announce_kernels(warp: Any, task: Task, device: Any) -> None:
    """Says once per model, device and version that kernels will be compiled, and where they are kept."""
    import mujoco_warp

    folder = Path(warp.config.kernel_cache_dir)
    model = hashlib.sha256(f"{task.model.nv} {task.model.ngeom} {task.model.opt.integrator}".encode()).hexdigest()[:8]
    architecture = getattr(device, "arch", 0) if device.is_cuda else "cpu"
    marker = folder / f"policy_gradients_{mujoco_warp.__version__}_{architecture}_{model}"
    if marker.exists():
        return
    print(f"Compiling MuJoCo Warp's kernels for {task.id}, once, into {folder} …", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:  # nothing can be kept there, so every process compiles and says so
        return


def compile_together(warp: Any, launches: Callable[[], None]) -> None:
    """Compiles and loads all kernels that `launches` launches, side by side, and launches none of them.

    Warp compiles a kernel's module when the kernel is first launched, so one after another: Humanoid has 46, which take
    a minute for a GPU. Here every launch's request for a module is noted, and answered with nothing, which a launch
    takes for an answer; a question for a kernel's occupancy, which names no block, is answered truly.
    """
    modules = type(warp.get_module(__name__))
    load, wanted = modules.load, {}

    def note(module: Any, device: Any, block_dim: int | None = None) -> Any:
        if block_dim is None:
            return load(module, device)
        wanted[module, block_dim] = device
        return None

    modules.load = note
    try:
        launches()
    finally:
        modules.load = load
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done in [threads.submit(load, module, wanted[module, dim], dim) for module, dim in wanted]:
            done.result()
