"""Acting with an exported ONNX model, called as the other runtimes are."""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.memory import aligned
from policy_gradients.deployment.numpy_policy import chosen_source, noise_source
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
        UserError: The package `onnxruntime` is not installed, or the model cannot be loaded or is not the policy's.
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
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
            raise UserError(f"ONNX Runtime cannot load the model: {reason}.") from None
        _check_model(self._session, description)
        self.description = description
        self._check = ObservationCheck(description.observation)
        self._shape = description.observation.shape
        self._stochastic = any(put.name == "noise" for put in self._session.get_inputs())
        self._noise_size = _noise_size(description)
        self._memory = _Memory(self._session, description, self._stochastic)
        self._rng = noise_source(seed)

    def __call__(
        self, obs: ArrayLike, *, deterministic: bool = True, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `NumpyPolicy.__call__`; a draw needs a model that was exported as stochastic.

        Raises:
            RefusedObservation: As there.
            UserError: The model has no input `noise`, or `rng` is not a generator.
        """
        if not (deterministic or self._stochastic):
            raise UserError("This ONNX model is deterministic; export it with --stochastic to draw actions.")
        x = self._check(obs)
        rng = None if deterministic else chosen_source(rng, self._rng)
        if x.ndim == len(self._shape):
            return self._one(x, rng)
        batch = x.reshape(-1, *self._shape)
        feeds: dict[str, Any] = {"obs": batch}
        if self._stochastic:
            feeds["noise"] = self._noise(len(batch), rng)
        action: Any = self._session.run(["action"], feeds)[0]
        check_output(action)
        return action.reshape(*x.shape[: x.ndim - len(self._shape)], *action.shape[1:])

    def _one(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """The action for one observation, through memory that the runtime already knows."""
        binding, obs, noise, action = self._memory.bound
        obs[...] = x
        if self._stochastic:
            noise[...] = self._noise(1, rng)
        self._session.run_with_iobinding(binding)
        check_output(action)
        return action.copy() if action.shape else np.int64(action)  # type: ignore[return-value]

    def _noise(self, count: int, rng: np.random.Generator | None) -> np.ndarray:
        if rng is None:
            return np.zeros((count, self._noise_size), np.float32)  # the most likely action
        if self.description.action.kind == "discrete":
            return rng.gumbel(size=(count, self._noise_size)).astype(np.float32)
        return rng.standard_normal((count, self._noise_size), np.float32)


_TENSORS = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}


def _check_model(session: Any, description: PolicyDescription) -> None:
    """Refuses a model whose inputs and outputs are not those that `onnx.onnx_model` gives this policy."""
    observation, action = description.observation, description.action
    expected = {
        "obs": (_TENSORS[observation.dtype], observation.shape),
        "noise": ("tensor(float)", (_noise_size(description),)),
        "action": ("tensor(int64)" if action.kind == "discrete" else "tensor(float)", action.shape),
    }
    inputs, outputs = ({put.name: put for put in puts} for puts in (session.get_inputs(), session.get_outputs()))
    if not {"obs"} <= inputs.keys() <= {"obs", "noise"} or "action" not in outputs:
        raise UserError(
            "The ONNX model is not one of this library: it should take obs and give action, but takes "
            f"{', '.join(inputs)[:60] or 'nothing'} and gives {', '.join(outputs)[:60]}."
        )
    for put in (*inputs.values(), outputs["action"]):
        kind, shape = expected[put.name]
        if put.type != kind or tuple(put.shape[1:]) != shape:
            raise UserError(
                f"The ONNX model is not of this policy: {put.name} should be {kind} of shape {('batch', *shape)}, "
                f"not {put.type} of shape {tuple(put.shape)}; export the policy's bundle again."
            )


class _Memory(threading.local):
    """One thread's arrays for one observation, bound to the session: a quarter less time than handing over new ones."""

    def __init__(self, session: Any, description: PolicyDescription, stochastic: bool) -> None:
        action = description.action
        obs = aligned(description.observation.shape, description.observation.dtype)
        noise = aligned((_noise_size(description),), np.float32)
        acted = aligned(action.shape, np.int64 if action.kind == "discrete" else np.float32)
        binding = session.io_binding()
        for name, array in (("obs", obs), ("noise", noise)) if stochastic else (("obs", obs),):
            binding.bind_input(name, "cpu", 0, array.dtype, (1, *array.shape), array.ctypes.data)
        binding.bind_output("action", "cpu", 0, acted.dtype, (1, *acted.shape), acted.ctypes.data)
        self.bound = binding, obs, noise, acted  # one look-up by thread instead of four


def _noise_size(description: PolicyDescription) -> int:
    action = description.action
    return action.n if action.kind == "discrete" else math.prod(action.shape)
