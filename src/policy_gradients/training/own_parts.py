"""Whether parts of a user's own, networks and environments, can be trained: said before anything is compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from policy_gradients.environments.base import Discrete, Environment, EnvironmentSpec
from policy_gradients.errors import UserError
from policy_gradients.types import ActorCritic, Array, Key

ROLLOUT = (3, 2)
"""Steps and environments of the observations with which networks are tried."""


def checked_agent(agent: Any, spec: EnvironmentSpec) -> ActorCritic:
    """The networks, after their shapes were tried on observations of the environment; nothing is computed.

    A distribution of one's own without `logits` may draw integers beyond the last action: no shape shows that.

    Raises:
        UserError: They are no `ActorCritic`, one of their functions fails, or a shape does not suit the environment.
    """
    _check_fields(agent, spec)
    jax.eval_shape(lambda: _try(agent, spec, jax.random.key(0)))
    return agent


def checked_maker(make_env: Any) -> Callable[[int], Environment]:
    """`make_env`, whose results are checked: `num_envs` copies in one `Environment`.

    Raises:
        UserError: It cannot be called with `num_envs`; so does the function returned, where its result is another.
    """
    _check_signature(make_env)

    def make(num_envs: int) -> Environment:
        env = make_env(num_envs)
        if not isinstance(env, Environment):
            raise UserError(f"make_env returned {_kind(env)}, expected an Environment; {_WAY}.")
        if env.spec.num_envs != num_envs:
            env.close()
            raise UserError(
                f"make_env returned {env.spec.num_envs} copies of {env.spec.id}, expected the {num_envs} that it was "
                f"asked for; {_WAY}."
            )
        return env

    return make


_WAY = "give a function like `lambda num_envs: pg.make(MyEnv, num_envs=num_envs)`"


def _check_signature(make_env: Any) -> None:
    if not callable(make_env):
        raise UserError(f"make_env expects a function of num_envs, got {_kind(make_env)}; {_WAY}.")
    try:
        signature = inspect.signature(make_env)
    except ValueError:  # of a function that is not written in Python
        return
    try:
        signature.bind(1)
    except TypeError as error:
        raise UserError(f"make_env is called with num_envs, but takes other arguments ({error}); {_WAY}.") from error


def _check_fields(agent: Any, spec: EnvironmentSpec) -> None:
    missing = [name for name in ActorCritic._fields if not hasattr(agent, name)]
    if missing:
        raise UserError(
            f"agent expects an ActorCritic({', '.join(ActorCritic._fields)}), got {_kind(agent)} without "
            f"{', '.join(missing)}."
        )
    wanted, shape, dtype = spec.obs_space, getattr(agent.obs, "shape", None), getattr(agent.obs, "dtype", None)
    floats = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    if shape != wanted.shape or floats != jnp.issubdtype(wanted.dtype, jnp.floating):
        came = _kind(agent.obs) if shape is None or dtype is None else f"{dtype} of shape {shape}"
        raise UserError(
            f"agent: obs is {came}, but an observation of {spec.id} is {wanted.dtype} of shape {wanted.shape}; give "
            f"jax.ShapeDtypeStruct({wanted.shape}, jnp.{wanted.dtype}) and networks for it."
        )


def _try(agent: ActorCritic, spec: EnvironmentSpec, key: Key) -> None:
    """Acts once in every environment and judges a rollout, as training does."""
    batch = ROLLOUT[1:]
    rollout = jnp.zeros((*ROLLOUT, *spec.obs_space.shape), spec.obs_space.dtype)
    obs = rollout[0]
    params = _call("init", agent.init, key)
    _check_params(params)
    distribution = _call("policy", agent.policy, params, obs)
    action = _call("the policy's sample", lambda: distribution.sample(key))
    _check_action("sample", action, spec)
    logits = getattr(distribution, "logits", None)
    if isinstance(spec.action_space, Discrete) and logits is not None:
        _check_shape("the policy's logits", logits, batch, spec, (spec.action_space.n,))
    log_prob = _call("the policy's log_prob", lambda: distribution.log_prob(action))
    _check_shape("the policy's log_prob", log_prob, batch, spec)
    _check_shape("the policy's entropy", _call("the policy's entropy", lambda: distribution.entropy()), batch, spec)
    _check_shape("the policy's kl", _call("the policy's kl", lambda: distribution.kl(distribution)), batch, spec)
    _check_action("mode", _call("the policy's mode", lambda: distribution.mode()), spec)
    for seen in (obs, rollout):
        value = _call("value", agent.value, params, seen)
        _check_shape("value", value, seen.shape[: seen.ndim - len(spec.obs_space.shape)], spec)


def _call(what: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        where = f" for observations of shape {args[1].shape}" if len(args) > 1 else ""
        raise UserError(f"agent: {what} raised {type(error).__name__}{where}: {reason}.") from error


def _check_params(params: Any) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise UserError(
                f"agent: init returns {_kind(leaf) if dtype is None else f'an array of {dtype}'} at "
                f"params{jax.tree_util.keystr(path)}, expected arrays of floats; of an Equinox module, return "
                "eqx.filter(module, eqx.is_inexact_array)."
            )


def _check_action(method: str, action: Array, spec: EnvironmentSpec) -> None:
    discrete = isinstance(spec.action_space, Discrete)
    _check_shape(f"the policy's {method}", action, ROLLOUT[1:], spec, spec.action_space.shape)
    if jnp.issubdtype(action.dtype, jnp.integer) != discrete:
        kind, fit = ("Discrete", "integers") if discrete else ("Box", "floats")
        raise UserError(f"agent: the policy's {method} is {action.dtype}, but {spec.id} has {kind} actions: use {fit}.")


def _check_shape(
    what: str, array: Any, batch: tuple[int, ...], spec: EnvironmentSpec, event: tuple[int, ...] = ()
) -> None:
    if getattr(array, "shape", None) == (*batch, *event):
        return
    came = f"shape {array.shape}" if hasattr(array, "shape") else _kind(array)
    space = spec.action_space
    actions = f"Discrete({space.n})" if isinstance(space, Discrete) else f"Box of shape {space.shape}"
    raise UserError(
        f"agent: {what} has {came} for a batch {batch} of observations, expected shape {(*batch, *event)}; "
        f"{spec.id} takes actions from {actions}."
    )


def _kind(thing: Any) -> str:
    return "None" if thing is None else f"a {type(thing).__module__}.{type(thing).__qualname__}"
