"""From one raw environment written in JAX to a batch of N that reset themselves.

A raw environment is a pair of pure functions over a single copy, with no time limit and no reset of its own:

    reset(key) -> (state, obs)
    step(key, state, action) -> (state, obs, reward, terminated)

(One that can itself say that an episode was cut short returns `truncated` as a fifth.)

`autoreset` adds what every training loop needs and what suites of environments each do a little differently: the batch
axis, the time limit as a truncation, the reset within the step that ended, and the true last observation before it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from policy_gradients.environments.base import (
    Array,
    Discrete,
    Environment,
    EnvironmentSpec,
    EnvState,
    Step,
    first_elapsed,
)
from policy_gradients.environments.device import device_environment
from policy_gradients.errors import UserError

RawReset: TypeAlias = Callable[[Array], tuple[Any, Array]]
RawStep: TypeAlias = Callable[
    [Array, Any, Array], tuple[Any, Array, Array, Array] | tuple[Any, Array, Array, Array, Array]
]

HUGE = 1e10
"""An observation or reward beyond this is a simulation out of control (MuJoCo's own bound on states, mjMAXVAL)."""


class AutoresetState(NamedTuple):
    """State of N copies that are stepped together."""

    raw: Any  # the raw environment's own state                                        [N, ...]
    key: Array  # one key per copy, never changed: every draw folds a new number into it [N]
    clock: Array  # steps since `reset`, uint32, the same for all copies
    steps: Array  # steps taken in the running episode, int32                           [N]
    unstable: Array | None = None  # copies that were reset because they were out of control, so far, int32


def autoreset(
    spec: EnvironmentSpec,
    reset: RawReset,
    step: RawStep,
    max_episode_steps: int | None = None,
    discard_unstable: bool = False,
    stagger: bool = False,
) -> Environment:
    """The batched `Environment` of a raw environment written in JAX.

    Copy i draws from fold_in(key, i) alone, so it lives through the same episodes whatever the number of copies.
    A copy that ends is reset within the same step: `Step.obs` is then the first observation of the next episode and
    `Step.final_obs` the last of the one that ended. Where the decision process and the time limit end on the same
    step, both flags are set. Step keys cost nothing where `step` does not read its key.

    Args:
        spec: What the environment is; `num_envs` sets the number of copies.
        reset: Draws a first state: `(key) -> (state, obs)`, of one copy.
        step: Moves one copy: `(key, state, action) -> (state, obs, reward, terminated)`, and `truncated` where the
            environment has limits of its own. The action is one of `spec.action_space`, a `Discrete`'s `start` added.
            The state keeps its structure, shapes and dtypes.
        max_episode_steps: Environment steps after which an episode is truncated; None for no limit.
        discard_unstable: For simulations that can fail: a copy whose observation or reward is NaN or beyond `HUGE` is
            reset, its row is not valid and holds zeros, and `env/unstable_worlds` counts it.
        stagger: Cut first episodes short at different times (`base.first_elapsed`); needs a limit.

    Returns:
        The environment; its `spec.max_episode_steps` is `max_episode_steps`.

    Raises:
        UserError: The limit or `num_envs` is below 1, or what `reset` and `step` return disagrees with `spec` or with
            each other.
    """
    for name, value in (("num_envs", spec.num_envs), ("max_episode_steps", max_episode_steps)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{spec.id}: {name} must be an integer of 1 or more, not {value!r}.")
    _check_raw(spec, reset, step)
    if stagger and max_episode_steps is None:
        raise UserError(
            f"{spec.id}: stagger spreads the ends by a time limit, but there is none; set max_episode_steps."
        )
    begun = first_elapsed(spec.num_envs, max_episode_steps or 1) * stagger
    start = spec.action_space.start if isinstance(spec.action_space, Discrete) else 0

    def reset_all(key: Array) -> tuple[AutoresetState, Array]:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(spec.num_envs))
        clock = jnp.uint32(0)
        raw, obs = jax.vmap(reset)(_fold(keys, _reset_draw(clock)))
        unstable = jnp.int32(0) if discard_unstable else None
        return AutoresetState(raw, keys, clock, jnp.asarray(begun), unstable), obs

    def step_all(state: AutoresetState, action: Array) -> tuple[AutoresetState, Step]:
        clock = state.clock + 1
        raw, final_obs, reward, terminated, *cut = jax.vmap(step)(
            _fold(state.key, _step_draw(clock)), state.raw, action + start if start else action
        )
        steps = state.steps + 1
        truncated = cut[0] if cut else jnp.zeros_like(terminated)
        if max_episode_steps is not None:
            truncated = truncated | (steps >= max_episode_steps)
        out = Step(final_obs, final_obs, reward.astype(jnp.float32), terminated, truncated, jnp.ones_like(terminated))
        out = _without_unstable(out) if discard_unstable else out
        done = out.terminated | out.truncated | ~out.valid
        fresh = lambda keys: jax.vmap(reset)(_fold(keys, _reset_draw(clock)))  # noqa: E731
        raw, obs = _reset_where(done, fresh, state.key, (raw, out.final_obs))
        unstable = None if state.unstable is None else state.unstable + jnp.sum(~out.valid, dtype=jnp.int32)
        return AutoresetState(raw, state.key, clock, jnp.where(done, 0, steps), unstable), out._replace(obs=obs)

    environment = device_environment(
        dataclasses.replace(spec, max_episode_steps=max_episode_steps, staggered=stagger), reset_all, step_all
    )
    return environment._replace(metrics=_count_unstable) if discard_unstable else environment


def _count_unstable(state: AutoresetState) -> dict[str, Array]:
    return {"env/unstable_worlds": jnp.asarray(state.unstable, jnp.float32)}


def _without_unstable(out: Step) -> Step:
    """`out` where a row with a number that is NaN or beyond `HUGE` is cut, not valid, and holds zeros."""
    near = lambda x: (jnp.abs(x) < HUGE).reshape(x.shape[0], -1).all(-1)  # noqa: E731, false for NaN
    sound = near(out.final_obs) & near(out.reward)
    clean = lambda x: jnp.where(sound.reshape(sound.shape + (1,) * (x.ndim - 1)), x, jnp.zeros_like(x))  # noqa: E731
    obs = clean(out.final_obs)
    return Step(obs, obs, clean(out.reward), out.terminated & sound, out.truncated | ~sound, sound)


def _reset_draw(clock: Array) -> Array:
    """The number folded into a copy's key for a reset at this time; never one of `_step_draw`'s."""
    return 2 * clock


def _step_draw(clock: Array) -> Array:
    return 2 * clock + 1


def _fold(keys: Array, data: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def _reset_where(done: Array, fresh: Callable[[Array], Any], keys: Array, current: Any) -> Any:
    """`current` with the rows that are done replaced by `fresh(keys)` of those rows.

    Drawing a first state for every copy at every step would cost a CPU more than CartPole's physics, so there the few
    rows that ended are gathered. A GPU would have to ask at each step whether any are left, so it draws all rows.
    """
    return jax.lax.platform_dependent(
        done,
        keys,
        current,
        cpu=lambda done, keys, current: _reset_gathered(done, fresh, keys, current),
        default=lambda done, keys, current: _reset_all(done, fresh, keys, current),
    )


def _reset_all(done: Array, fresh: Callable[[Array], Any], keys: Array, current: Any) -> Any:
    def choose(new: Array, old: Array) -> Array:
        return jnp.where(done.reshape(done.shape + (1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh(keys), current)


def _reset_gathered(done: Array, fresh: Callable[[Array], Any], keys: Array, current: Any) -> Any:
    n = done.shape[0]
    chunk = min(n, max(8, n // 16))  # the fastest of 1, 4, 8, n/64, n/32, n/16 and n/8 for CartPole, n from 8 to 4,096

    def some_left(carry: tuple[Array, Any]) -> Array:
        return carry[0].any()

    def reset_some(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        left, current = carry
        rows = jnp.nonzero(left, size=chunk, fill_value=n)[0]  # row n does not exist: what is put there is dropped
        put = lambda new, old: old.at[rows].set(new, mode="drop")  # noqa: E731
        current = jax.tree.map(put, fresh(keys.at[rows].get(mode="clip")), current)
        return left.at[rows].set(False, mode="drop"), current

    return jax.lax.while_loop(some_left, reset_some, (done, current))[1]


def _check_raw(spec: EnvironmentSpec, reset: RawReset, step: RawStep) -> None:
    """Refuses a raw environment that does not keep to its specification, before a scan fails on it obscurely."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.ShapeDtypeStruct(spec.action_space.shape, spec.action_space.dtype)
    state, first = _parts(f"{spec.id}: reset", jax.eval_shape(reset, key), (2,), "(state, obs)")
    step_returns = "(state, obs, reward, terminated), or truncated as a fifth"
    next_state, obs, reward, *ends = _parts(
        f"{spec.id}: step", jax.eval_shape(step, key, state, action), (4, 5), step_returns
    )
    expected = jax.ShapeDtypeStruct(spec.obs_space.shape, spec.obs_space.dtype)
    for call, got in (("reset", first), ("step", obs)):
        if _kind(got) != _kind(expected):
            raise UserError(
                f"{spec.id}: {call} returns observations of {_kind(got)}, but the observation space says "
                f"{expected.shape} and {expected.dtype}. Make the two agree."
            )
    flag = _kind(jax.ShapeDtypeStruct((), jnp.bool_))
    if getattr(reward, "shape", None) != () or any(_kind(end) != flag for end in ends):
        raise UserError(
            f"{spec.id}: step must return a scalar reward and a scalar bool terminated (and truncated), not a reward "
            f"of {_kind(reward)} and ends of {', '.join(map(_kind, ends))}."
        )
    if _signature(state) != _signature(next_state):
        raise UserError(
            f"{spec.id}: the state that step returns differs in structure, shape or dtype from the one that reset "
            f"returns: {_signature(next_state)} instead of {_signature(state)}. Make them the same."
        )


def _parts(call: str, returned: Any, counts: tuple[int, ...], expected: str) -> Any:
    """What a raw function returned, where it is a tuple of as many values as it should be."""
    if isinstance(returned, tuple | list) and len(returned) in counts:
        return returned
    came = f"{len(returned)} values" if isinstance(returned, tuple | list) else "a single value"
    raise UserError(f"{call} must return {expected}; it returns {came}.")


def _kind(value: Any) -> str:
    """Shape and dtype of an array; the type of what is none."""
    if not hasattr(value, "dtype"):
        return f"type {type(value).__name__}"
    return f"shape {value.shape} and dtype {value.dtype}"


def _signature(state: EnvState) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
