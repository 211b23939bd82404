"""Acting with an exported ONNX model, called as the other runtimes are."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.observations import ObservationCheck, check_output
from policy_gradients.errors import UserError


class OnnxPolicy:
    """A policy run by ONNX Runtime on one thread of the CPU.

    The graph itself refuses nothing; observations are checked here, as by the other runtimes. Threads may share it.

    Args:
        model: A file, or its bytes.
        description: Of the bundle that it was exported from.
        seed: Seed of the policy's own noise; None draws one from the system.

    Raises:
        UserError: The package `onnxruntime` is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str | Path | bytes, description: PolicyDescription, *, seed: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(
                "Acting with ONNX needs the package onnxruntime: pip install 'policy-gradients[export]'."
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # handing over costs more than computing
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own errors have no common base class
            raise UserError(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}.") from None
        self.description = description
        self._check = ObservationCheck(description.observation)
        self._shape = description.observation.shape
        self._stochastic = any(put.name == "noise" for put in self._session.get_inputs())
        action = description.action
        self._noise_size = action.n if action.kind == "discrete" else math.prod(action.shape)
        self._rng = np.random.default_rng(seed)

    def __call__(
        self, obs: ArrayLike, *, deterministic: bool = True, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `NumpyPolicy.__call__`; a draw needs a model that was exported as stochastic.

        Raises:
            RefusedObservation: As there.
            UserError: The model has no input `noise`.
        """
        x = self._check(np.asarray(obs))
        lead = x.shape[: x.ndim - len(self._shape)]
        batch = x[None] if x.ndim == len(self._shape) else x.reshape(-1, *self._shape)
        feeds: dict[str, Any] = {"obs": batch}
        if self._stochastic:
            feeds["noise"] = self._noise(len(batch), None if deterministic else rng or self._rng)
        elif not deterministic:
            raise UserError("This ONNX model is deterministic; export it with --stochastic to draw actions.")
        action: Any = self._session.run(_ACTION, feeds)[0]
        check_output(action)
        return action[0] if not lead else action.reshape(*lead, *action.shape[1:])

    def _noise(self, count: int, rng: np.random.Generator | None) -> np.ndarray:
        if rng is None:
            return np.zeros((count, self._noise_size), np.float32)  # the most likely action
        if self.description.action.kind == "discrete":
            return rng.gumbel(size=(count, self._noise_size)).astype(np.float32)
        return rng.standard_normal((count, self._noise_size), np.float32)


_ACTION = ["action"]
