"""The policy of a bundle in JAX, as it was trained: what the other runtimes are compared with."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.bundle import Bundle
from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.observations import ObservationCheck, check_output


class JaxPolicy:
    """The deterministic policy, compiled, called as `NumpyPolicy` is.

    Its networks are those of training (`networks.actor_critic`), built anew from the bundle's description.

    Args:
        bundle: The policy.
    """

    def __init__(self, bundle: Bundle) -> None:
        import jax

        self.description = bundle.description
        self._check = ObservationCheck(bundle.description.observation)
        self._shape = bundle.description.observation.shape
        program = _program(bundle)
        self._program, self._act = jax.jit(program), jax.jit(lambda obs: program(obs)["action"])
        self._discrete = bundle.description.action.kind == "discrete"

    def __call__(
        self, obs: ArrayLike, *, deterministic: bool = True, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `NumpyPolicy.__call__`, without draws: `rng` is not used."""
        if not deterministic:
            raise NotImplementedError("The JAX policy of a bundle is for comparisons, which are deterministic.")
        x, lead = self._batch(obs)
        action = np.asarray(self._act(x))
        check_output(action)
        action = action.reshape((*lead, *action.shape[1:]))
        return action.astype(np.int64) if self._discrete else action

    def distribution(self, obs: ArrayLike) -> dict[str, np.ndarray]:
        """As `NumpyPolicy.distribution`."""
        x, lead = self._batch(obs)
        outputs = {name: np.asarray(array) for name, array in self._program(x).items() if name != "action"}
        check_output(outputs["logits" if self._discrete else "mean"])
        return {name: array.reshape((*lead, *array.shape[1:])) for name, array in outputs.items()}

    def _batch(self, obs: ArrayLike) -> tuple[np.ndarray, tuple[int, ...]]:
        """Observations [B, *obs], and the batch axes that they came with."""
        x = self._check(obs)
        return x.reshape(-1, *self._shape), x.shape[: x.ndim - len(self._shape)]


def _program(bundle: Bundle) -> Any:
    """The function from observations [B, *obs] to the action and the distribution's parameters."""
    import jax
    import jax.numpy as jnp

    from policy_gradients.networks import NetworkConfig, actor_critic

    description, own = bundle.description, bundle.description.network
    config = NetworkConfig(
        hidden=own.hidden, activation=own.activation, layer_norm=own.layer_norm, shared_torso=False,
        features=own.features, distribution=own.distribution, log_std_init=own.log_std_init,
        state_dependent_std=own.state_dependent_std, log_std_range=own.log_std_range,
    )  # fmt: skip
    action, observation = description.action, description.observation
    one = jax.ShapeDtypeStruct(observation.shape, observation.dtype)
    networks = actor_critic(one, action.shape, action.n if action.kind == "discrete" else None, config)
    params = {"policy": _nested(bundle.tensors)}

    def run(obs: jax.Array) -> dict[str, jax.Array]:
        distribution = networks.policy(params, _inputs(bundle, obs))._asdict()
        if "logits" in distribution:
            chosen = jnp.argmax(distribution["logits"], axis=-1) + action.start
            return {"action": chosen, **distribution}
        return {"action": _control(description, distribution["mean"]), **distribution}

    return run


def _inputs(bundle: Bundle, obs: Any) -> Any:
    import jax.numpy as jnp

    observation, normalizer = bundle.description.observation, bundle.description.normalizer
    if observation.clip is not None:
        obs = jnp.clip(obs, -observation.clip, observation.clip)
    if normalizer is None:
        return obs
    mean, var = (bundle.tensors[f"normalizer/{name}"][None] for name in ("mean", "var"))
    return jnp.clip((obs - mean) / jnp.sqrt(var + normalizer.epsilon), -normalizer.clip, normalizer.clip)


def _control(description: PolicyDescription, u: Any) -> Any:
    """By the definition of the action map: u is clipped or squashed first, then stretched."""
    import jax.numpy as jnp

    from policy_gradients.deployment.numpy_network import bound_array

    action = description.action
    low = bound_array(action.low, action.shape, -math.inf)[None]
    high = bound_array(action.high, action.shape, math.inf)[None]
    if action.map == "none":
        return jnp.clip(u, low, high)
    bounded = jnp.tanh(u) if action.map == "tanh" else jnp.clip(u, -1.0, 1.0)
    return (high + low) / np.float32(2) + (high - low) / np.float32(2) * bounded


def _nested(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Tensors by path as the nested dicts that the networks take."""
    tree: dict[str, Any] = {}
    for path, tensor in tensors.items():
        *folders, name = path.split("/")
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = tensor
    return tree
