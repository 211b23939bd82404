"""What the adapters to suites share: one copy of an environment in the terms of `autoreset`, and its batch of N."""

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import (
    Array,
    Box,
    Environment,
    EnvironmentFailure,
    EnvironmentSpec,
    Space,
    box,
)
from policy_gradients.errors import UserError


class Physics(NamedTuple):
    """What a picture of a simulated body is drawn from."""

    model: Any  # mujoco.MjModel
    positions: Callable[[Any], Array]  # state -> qpos [nq]


class SuiteTask(NamedTuple):
    """One copy of a suite's environment, raw: it neither resets itself nor hides its last observation.

    Attributes:
        reset: `(key) -> (state, observation)`; the key is a raw array of words, as the suites are written for.
        step: `(key, state, action) -> (state, observation, reward, terminated, truncated)`, `truncated` for limits that
            are the environment's own.
        action_space: What `step` takes.
        max_episode_steps: The limit that the suite puts around the environment, in environment steps, or None.
        dt: Seconds of simulated time per step, or None.
        packages: Distributions whose versions decide what the environment does.
        physics: For pictures, or None where MuJoCo cannot draw the environment.
    """

    reset: Callable[[Array], tuple[Any, Any]]
    step: Callable[[Array, Any, Array], tuple[Any, Any, Any, Any, Any]]
    action_space: Space
    max_episode_steps: int | None
    dt: float | None
    packages: Sequence[str]
    physics: Physics | None = None


def suite_environment(
    suite: str, id: str, task: SuiteTask, num_envs: int, max_episode_steps: int | None, stagger: bool = False
) -> Environment:
    """A suite's environment as `num_envs` copies that reset themselves; copies out of control are reset and counted.

    Raises:
        UserError: The rewards are several, or nothing in the observation is for a policy.
        EnvironmentFailure: `reset` or `step` cannot be traced.
    """

    @jax.jit  # traced once, however often the program around it is: tracing a simulator of bodies takes seconds
    def reset(key: Array) -> tuple[Any, Array]:
        with warnings.catch_warnings(action="ignore"):
            state, observation = task.reset(jax.random.key_data(key))
        return _strong(state), observation_vector(observation)

    @jax.jit
    def step(key: Array, state: Any, action: Array) -> tuple[Any, Array, Array, Array, Array]:
        with warnings.catch_warnings(action="ignore"):
            state, observation, reward, *ends = task.step(jax.random.key_data(key), state, action)
        terminated, truncated = (jnp.asarray(end).astype(jnp.bool_) for end in ends)
        reward = jnp.asarray(reward).astype(jnp.float32)
        return _strong(state), observation_vector(observation), reward, terminated, truncated

    shape = _traced(suite, id, reset, step, task.action_space)
    limit = task.max_episode_steps if max_episode_steps is None else max_episode_steps
    spec = EnvironmentSpec(
        id=id,
        engine=suite,
        num_envs=num_envs,
        obs_space=box(-np.inf, np.inf, shape),
        action_space=task.action_space,
        control_bounds=task.action_space if isinstance(task.action_space, Box) else None,
        dt=task.dt,
        versions=_versions((*task.packages, "jax")),
    )
    return autoreset(spec, reset, step, limit, discard_unstable=True, stagger=stagger)


def observation_vector(observation: Any) -> Array:
    """An observation of any structure as one float32 vector.

    Arrays are flattened row by row and joined in JAX's order of leaves: fields as they are declared, keys of a dict
    sorted. Small images are flattened, too: no suite has pictures that the CNN is made for.
    """
    return jnp.concatenate([jnp.asarray(leaf).astype(jnp.float32).reshape(-1) for leaf in jax.tree.leaves(observation)])


def import_suite(suite: str, module: str) -> Any:
    """A module of a suite.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"The suite {suite!r} cannot be imported ({error}); install it with: "
            f'pip install "policy-gradients[{suite}]"'
        ) from error


def construct(suite: str, id: str, constructor: Callable[[], Any], options: Mapping[str, Any]) -> Any:
    """What `constructor` returns.

    Raises:
        UserError: It fails, and options were given that it may not like.
        EnvironmentFailure: It fails without options.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return constructor()
    except UserError:
        raise
    except Exception as error:  # a constructor may raise anything
        if options and isinstance(error, TypeError | ValueError | KeyError | AttributeError):
            given = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise UserError(
                f"{suite}:{id} cannot be made with {given} ({_first_line(error)}); give options that {suite} knows."
            ) from error
        raise EnvironmentFailure(f"{suite}:{id} cannot be made: {_first_line(error)}") from error


def _traced(suite: str, id: str, reset: Callable, step: Callable, actions: Space) -> tuple[int, ...]:
    """The shape of an observation, once `reset` and `step` have been seen to work."""
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        state, obs = jax.eval_shape(reset, key)
        _, _, reward, *_ = jax.eval_shape(step, key, state, jax.ShapeDtypeStruct(actions.shape, actions.dtype))
    except UserError:
        raise
    except Exception as error:  # a suite may raise anything
        raise EnvironmentFailure(
            f"{suite}:{id} cannot be run with JAX {jax.__version__}: {type(error).__name__}: {_first_line(error)}"
        ) from error
    if reward.shape:
        raise UserError(
            f"{suite}:{id} gives {reward.shape[0]} rewards, one for each of several agents; only environments of one "
            "agent are supported."
        )
    return obs.shape


def _strong(state: Any) -> Any:
    """A state whose leaves keep their type for ever, so that a program with it is compiled once.

    A Python number in a first state makes a weakly typed array, which the first step may turn into another kind.
    """
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    strong = lambda leaf: leaf if is_key(leaf) else jax.lax.convert_element_type(leaf, leaf.dtype)  # noqa: E731
    return jax.tree.map(lambda leaf: strong(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)), state)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions by name, of those distributions that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
