"""A policy and a critic, separate or on one torso, built from the shapes of an environment."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients.distributions import Categorical, Normal, TanhNormal
from policy_gradients.errors import UserError
from policy_gradients.networks.features import (
    NATURE_LEAST_SIDE,
    ActivationName,
    Network,
    dense,
    dense_init,
    mlp,
    nature_cnn,
)
from policy_gradients.types import ActorCritic, Array, Obs, Params

DistributionName: TypeAlias = Literal["auto", "normal", "tanh_normal", "categorical"]


@dataclass(frozen=True)
class NetworkConfig:
    """The networks of a run.

    Attributes:
        hidden: Widths of the policy's hidden layers (for pixels: layers after the CNN, usually none).
        value_hidden: Widths of the critic's; None for the same as the policy's.
        activation: Non-linearity by name.
        layer_norm: Layer normalisation before every activation.
        shared_torso: Policy and critic share all hidden layers; the heads stay apart.
        features: "mlp" (of flattened observations), "cnn" (Nature CNN), or "auto": the CNN for uint8 images of 36 × 36
            and more, the MLP for everything else.
        distribution: "normal", "tanh_normal", "categorical", or "auto": normal for Box, categorical for Discrete.
        log_std_init: Initial log σ, for actions in [−1, 1].
        state_dependent_std: σ is a second output of the policy's head instead of a free parameter.
        log_std_range: Bounds of log σ; below −5 log-probabilities lose their float32 precision.
        policy_gain: Orthogonal gain of the policy's head; 0.01 starts near the middle of the action range
            (arXiv 2006.05990, C57: the initial policy's last layer is the most important of the initialisations).
        value_gain: Orthogonal gain of the critic's head.
    """

    hidden: tuple[int, ...] = (64, 64)
    value_hidden: tuple[int, ...] | None = None
    activation: ActivationName = "tanh"
    layer_norm: bool = False
    shared_torso: bool = False
    features: Literal["auto", "mlp", "cnn"] = "auto"
    distribution: DistributionName = "auto"
    log_std_init: float = 0.0
    state_dependent_std: bool = False
    log_std_range: tuple[float, float] = (-5.0, 2.0)
    policy_gain: float = 0.01
    value_gain: float = 1.0


def resolve_distribution(name: str, discrete: bool) -> str:
    """The distribution that `name` stands for ("auto" by the kind of action).

    Raises:
        UserError: The distribution does not fit the action space.
    """
    if name == "auto":
        return "categorical" if discrete else "normal"
    if (name == "categorical") != discrete:
        kind, fit = ("Discrete", "categorical") if discrete else ("Box", "normal or tanh_normal")
        raise UserError(f"network.distribution: {name} does not fit {kind} actions; use {fit}, or auto.")
    return name


def resolve_features(name: str, shape: tuple[int, ...], dtype: Any) -> str:
    """The feature extractor that `name` stands for ("auto" by shape and dtype of one observation).

    Raises:
        UserError: A CNN was asked for what is no uint8 image, or too small a one.
    """
    image = len(shape) == 3 and dtype == np.uint8
    fits = image and min(shape[:2]) >= NATURE_LEAST_SIDE
    if name == "auto":
        return "cnn" if fits else "mlp"
    if name == "cnn" and not image:
        raise UserError(
            f"network.features: cnn expects uint8 images [H, W, C], observations are {np.dtype(dtype)} of shape "
            f"{shape}; use --network.features mlp."
        )
    if name == "cnn" and not fits:
        least = f"{NATURE_LEAST_SIDE} × {NATURE_LEAST_SIDE}"
        raise UserError(
            f"network.features: cnn expects images [H, W, C] of at least {least} pixels, observations have shape "
            f"{shape}; use --network.features mlp."
        )
    return name


def actor_critic(
    obs: jax.ShapeDtypeStruct,
    action_shape: tuple[int, ...],
    num_actions: int | None = None,
    config: NetworkConfig | None = None,
) -> ActorCritic:
    """The networks for one kind of observation and action.

    Args:
        obs: Shape and dtype of one observation; uint8 for pixels, [H, W, C] for the CNN.
        action_shape: Shape of one Box action, (A,); ignored for Discrete.
        num_actions: K of a Discrete action space, else None.
        config: What to build; the defaults are the field's for MuJoCo.

    Returns:
        `init(key) -> params` (nested dicts of float32 arrays), `policy(params, obs) -> Distribution`,
        `value(params, obs) -> [*batch]`.

    Raises:
        UserError: The distribution does not fit the actions, or a CNN the observations.
    """
    config = config or NetworkConfig()
    distribution = resolve_distribution(config.distribution, num_actions is not None)
    outputs = num_actions if num_actions is not None else action_shape[0] * (1 + config.state_dependent_std)
    value_hidden = config.hidden if config.value_hidden is None or config.shared_torso else config.value_hidden
    torso, value_torso = _torso(obs, config, config.hidden), _torso(obs, config, value_hidden)

    def init(key: jax.Array) -> Params:
        torso_key, policy_key, value_torso_key, value_key = jax.random.split(key, 4)
        policy: dict[str, Any] = {"head": dense_init(policy_key, torso.out_size, outputs, config.policy_gain)}
        value: dict[str, Any] = {"head": dense_init(value_key, value_torso.out_size, 1, config.value_gain)}
        if distribution != "categorical" and not config.state_dependent_std:
            policy["log_std"] = jnp.full(action_shape, config.log_std_init, jnp.float32)
        if config.shared_torso:
            return {"torso": torso.init(torso_key), "policy": policy, "value": value}
        policy["torso"], value["torso"] = torso.init(torso_key), value_torso.init(value_torso_key)
        return {"policy": policy, "value": value}

    def policy(params: Params, x: Obs) -> Categorical | Normal | TanhNormal:
        own = params["policy"]
        out = dense(own["head"], torso.apply(params["torso"] if config.shared_torso else own["torso"], x))
        if distribution == "categorical":
            return Categorical(out)
        mean, log_std = _gaussian(out, own, config)
        return TanhNormal(mean, log_std) if distribution == "tanh_normal" else Normal(mean, log_std)

    def value(params: Params, x: Obs) -> Array:
        own = params["value"]
        features = value_torso.apply(params["torso"] if config.shared_torso else own["torso"], x)
        return dense(own["head"], features)[..., 0]

    return ActorCritic(obs, init, policy, value)


def _torso(obs: jax.ShapeDtypeStruct, config: NetworkConfig, hidden: tuple[int, ...]) -> Network:
    if resolve_features(config.features, obs.shape, obs.dtype) == "mlp":
        return _flattened(mlp(_size(obs.shape), hidden, config.activation, config.layer_norm), obs)
    cnn = nature_cnn(obs.shape)
    head = mlp(cnn.out_size, hidden, config.activation, config.layer_norm)

    def init(key: jax.Array) -> Params:
        cnn_key, head_key = jax.random.split(key)
        return {"cnn": cnn.init(cnn_key), **head.init(head_key)}

    return Network(init, lambda params, x: head.apply(params, cnn.apply(params["cnn"], x)), head.out_size)


def _flattened(network: Network, obs: jax.ShapeDtypeStruct) -> Network:
    """The network over observations of any rank, flattened to vectors of float32; uint8 divided by 255."""

    def apply(params: Params, x: Array) -> Array:
        batch = x.shape[: x.ndim - len(obs.shape)]
        x = x.reshape(*batch, _size(obs.shape)).astype(jnp.float32)
        return network.apply(params, x / 255.0 if obs.dtype == np.uint8 else x)

    return Network(network.init, apply, network.out_size)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size


def _gaussian(out: Array, params: dict[str, Any], config: NetworkConfig) -> tuple[Array, Array]:
    if config.state_dependent_std:
        mean, log_std = jnp.split(out, 2, axis=-1)
        log_std = log_std + config.log_std_init
    else:
        mean = out
        log_std = jnp.broadcast_to(params["log_std"].reshape((1,) * (out.ndim - 1) + (-1,)), out.shape)
    return mean, jnp.clip(log_std, *config.log_std_range)
