"""The compiled program of a run: one iteration a call, or several where an iteration is small.

A call costs half a millisecond whatever it does (arguments checked, a random key made, metrics fetched): as long as an
update of a hundred steps takes. Small updates therefore share a call. On a GPU it costs 1.6 ms, in which the GPU waits.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from policy_gradients import backend, compilation, processes
from policy_gradients.environments.base import EnvironmentSpec
from policy_gradients.environments.host import with_cause
from policy_gradients.training.devices import everywhere
from policy_gradients.training.setup import Parts, RunState
from policy_gradients.types import Array, Key, LearnerState, Metrics

STEPS_PER_CALL = 2048
"""Environment steps from which on the cost of a call no longer shows on a processor."""

UPDATES_PER_CALL = 64
"""On a GPU at most so many, however large: CartPole-v1, 2,048 × 32 steps, takes 2.9 ms an update and not 4.2."""

SECONDS_PER_CALL = 0.1
"""Calls of several updates stay near this: beside a slow simulator, too, progress is told and Ctrl-C is heard."""


class Program:
    """Compiled ahead, so that nothing can compile it a second time.

    Attributes:
        at_most: K, iterations that a call can run.
        suggested: Iterations for the next call, at most K, by what the last took; results do not depend on it.
        compile_seconds: What compiling took.
    """

    def __init__(self, parts: Parts, steps_per_update: int, key: Key, state: RunState) -> None:
        """Compiles.

        Args:
            parts: What the run is made of.
            steps_per_update: Environment steps of an iteration.
            key: Update u draws from `fold_in(key, u)`.
            state: One like those that it will be called with.
        """
        began = time.perf_counter()
        self.at_most = most_updates(parts.env.spec, steps_per_update)
        self.suggested = 1
        self._key = key
        self._names = tuple(jax.eval_shape(parts.iteration, key, *state)[2])
        several = jax.jit(
            partial(_several, parts.iteration, self.at_most, parts.mesh),
            donate_argnums=() if parts.env.spec.on_host else (3, 4),
        )
        lowered = several.lower(key, np.int32(0), np.int32(1), *state)
        options = compilation.for_training(parts.env.spec.on_host, spread=parts.mesh is not None)
        self._compiled = lowered.compile(compiler_options=options)
        self.compile_seconds = time.perf_counter() - began

    def __call__(self, state: RunState, first: int, count: int) -> tuple[RunState, list[dict[str, float]]]:
        """Runs updates `first` … `first + count − 1`, count ≤ K.

        Returns:
            The state after the last, and the metrics of each with "time/total_timesteps".

        Raises:
            EnvironmentFailure: A simulator failed; `state` is as it was.
            PeerLost: Another process stopped.
        """
        began = time.perf_counter()
        with processes.noticing_loss():
            learner, carry, rows = with_cause(self._compiled, self._key, np.int32(first), np.int32(count), *state)
            table, steps = jax.device_get(rows)
        affordable = count * SECONDS_PER_CALL / (time.perf_counter() - began)
        self.suggested = max(1, min(int(affordable), 2 * self.suggested, self.at_most))
        metrics = [dict(zip(self._names, map(float, row), strict=True)) for row in table[:count]]
        for index, row in enumerate(metrics):
            row["time/total_timesteps"] = int(jax.tree.map(lambda word, at=index: word[at], steps))
        return RunState(learner, carry), metrics


def most_updates(spec: EnvironmentSpec, steps_per_update: int) -> int:
    """Updates that share a call at most.

    Beside worlds on Warp the loop around updates cost more than calls: Humanoid-v4 took 213 ms and not 204.
    """
    if backend.platform() == "cpu" or spec.on_host or spec.engine == "warp":
        return max(1, STEPS_PER_CALL // steps_per_update)
    return UPDATES_PER_CALL


def _several(
    iteration: Callable[..., tuple[LearnerState, Any, Metrics]],
    at_most: int,
    mesh: Mesh | None,
    key: Key,
    first: Array,
    count: Array,
    learner: LearnerState,
    carry: Any,
) -> tuple[LearnerState, Any, Any]:
    """`count` iterations after one another; metrics as one array [K, M] and steps so far [K], of which `count` rows."""

    def one(update: Array, learner: LearnerState, carry: Any) -> tuple[LearnerState, Any, Any]:
        learner, carry, metrics = iteration(jax.random.fold_in(key, update), learner, carry)
        return learner, carry, (jnp.stack([jnp.asarray(x, jnp.float32) for x in metrics.values()]), learner.step)

    if at_most == 1:
        learner, carry, row = one(first, learner, carry)
        return learner, carry, everywhere(mesh, jax.tree.map(lambda x: x[None], row))

    def body(index: Array, loop: tuple) -> tuple:
        learner, carry, rows = loop
        learner, carry, row = one(first + index, learner, carry)
        return learner, carry, jax.tree.map(lambda table, new: table.at[index].set(new), rows, row)

    like = jax.eval_shape(one, first, learner, carry)[2]
    rows = jax.tree.map(lambda x: jnp.zeros((at_most, *x.shape), x.dtype), like)
    learner, carry, rows = jax.lax.fori_loop(0, count, body, (learner, carry, rows))
    return learner, carry, everywhere(mesh, rows)
