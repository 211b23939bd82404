"""Which of JAX's back ends computes: the processor, or an accelerator beside it.

Beside a simulator on the host a small network is faster on the processor, although JAX has a GPU. So what depends on
the back end asks `platform` here, and not JAX for its default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from policy_gradients.errors import UserError

BACKENDS = ("auto", "cpu", "gpu")
"""What may be asked for; `auto` is JAX's own choice, an accelerator where there is one."""


def platform() -> str:
    """Where programs run that are compiled here and now: "cpu", "gpu" or "tpu"."""
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def devices() -> list[Any]:
    """All devices of that back end, those of other processes too."""
    return jax.devices(platform())


def own_device(backend: str | None = None) -> Any:
    """The first device of that back end, or of another, in this process."""
    return next(device for device in jax.devices(backend or platform()) if device.process_index == jax.process_index())


@contextmanager
def computing_on(backend: str) -> Iterator[None]:
    """Within it, in this thread, arrays are made and programs compiled for one back end.

    Args:
        backend: One of `BACKENDS`, or another platform of JAX; "auto" changes nothing.

    Raises:
        UserError: JAX has no such device.
    """
    if backend in ("auto", platform()):
        yield
        return
    try:
        device = own_device(backend)
    except RuntimeError:
        raise UserError(
            f"backend: {backend} was asked for, but JAX sees only {platform()} devices; give --backend auto, or "
            "install JAX for CUDA (pip install 'policy-gradients[gpu]') on a machine with an NVIDIA GPU."
        ) from None
    with jax.default_device(device):
        yield
