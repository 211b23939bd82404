"""What a runtime accepts as an observation: anything else is refused rather than guessed at."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.description import ObservationDescription
from policy_gradients.errors import UserError


class RefusedObservation(UserError):
    """The policy does not act on this observation: its shape, type or a number in it is wrong, or it overflows."""


class ObservationCheck:
    """The function from what a caller gives to the observations [*batch, *obs] in the network's dtype, checked.

    Args:
        description: Of one observation.
    """

    def __init__(self, description: ObservationDescription) -> None:
        self._shape = description.shape
        self._dtype = np.dtype(description.dtype)
        self._float = description.dtype == "float32"

    def __call__(self, obs: ArrayLike) -> np.ndarray:
        """`obs`, as float32 or uint8.

        Raises:
            RefusedObservation: It is no array, has another shape or type, is partly masked, or holds a NaN or an
                infinity.
        """
        x = obs if type(obs) is np.ndarray else as_array(obs)
        if x.shape != self._shape and (
            x.ndim < len(self._shape) or x.shape[x.ndim - len(self._shape) :] != self._shape
        ):
            raise RefusedObservation(
                f"The policy expects observations of shape {self._shape}, alone or with batch axes before it, "
                f"not an array of shape {x.shape}."
            )
        if x.dtype is not self._dtype and x.dtype != self._dtype:
            x = self._converted(x)
        if self._float and not finite(x):
            raise RefusedObservation("The observation holds a NaN or an infinity; the policy does not act on it.")
        return x

    def _converted(self, x: np.ndarray) -> np.ndarray:
        kind: Any = x.dtype.kind
        if self._float and kind in "fiub":
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes an infinity, which is refused
                return x.astype(np.float32)
        if not self._float and kind in "iu" and (x.size == 0 or (x.min() >= 0 and x.max() <= 255)):
            return x.astype(np.uint8)
        raise RefusedObservation(f"The policy expects observations of {self._dtype}, not of {x.dtype}.")


def as_array(obs: ArrayLike) -> np.ndarray:
    """`obs` as a plain array.

    Raises:
        RefusedObservation: NumPy makes no array of it, or some of its entries are masked.
    """
    if isinstance(obs, np.ndarray) and np.any(getattr(obs, "mask", False)):
        raise RefusedObservation("The observation has masked entries; the policy does not act on what is hidden.")
    try:
        return np.asarray(obs)
    except (TypeError, ValueError) as error:
        reason = str(error).partition(". ")[0].rstrip(".")
        raise RefusedObservation(f"The observation is not an array of numbers ({reason}).") from None


def check_output(out: np.ndarray) -> None:
    """Refuses an output with a NaN or an infinity.

    Raises:
        RefusedObservation: There is one.
    """
    if not finite(out):
        raise RefusedObservation("The policy's output is not finite: the observation is too large for its network.")


def finite(x: np.ndarray) -> bool:
    """Whether no number is a NaN or an infinity."""
    return 0 not in np.isfinite(x).tobytes()  # a search for a byte: a quarter of the time of np.isfinite(x).all()
