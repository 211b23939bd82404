"""Many runs as one program: members that differ in their seed and in numbers among their hyperparameters.

Where the environment is written in JAX or on Warp, the iteration is mapped over the members; beside a simulator on the
host there is one member. Either way the numbers are arguments of the program, so other numbers need no other program.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients import compilation
from policy_gradients.environments.base import Environment
from policy_gradients.environments.host import with_cause
from policy_gradients.training.calendar import count_updates, due_updates
from policy_gradients.training.config import Experiment
from policy_gradients.training.products import Evaluation
from policy_gradients.training.rollout import Carry, init_carry
from policy_gradients.training.setup import build, make_agent, make_environment
from policy_gradients.types import ActorCritic, Array, Key, LearnerState, Metrics

REPORTS = 20
"""Returns told of a member without evaluations: as many as an experiment's default has evaluations."""


class Member(NamedTuple):
    """What one member has of its own."""

    numbers: Mapping[str, float]  # hyperparameters of type float by name; the same names in every member
    seed: int


def moments(experiment: Experiment) -> tuple[int, ...]:
    """The updates after which members are judged: those of the experiment's evaluations, or else 20 evenly spread."""
    steps_per_update = experiment.env.num_envs * experiment.hyperparameters.num_steps
    updates = count_updates(experiment.total_steps, steps_per_update)
    return due_updates(updates, experiment.evaluation.num_evaluations or REPORTS)


def train_members(
    experiment: Experiment, members: Sequence[Member], stopped: Callable[[], object] = lambda: False
) -> Generator[np.ndarray]:
    """Trains members side by side; yields their returns at each of the `moments`, [len(members)].

    A return is that of the deterministic policy in an evaluation, as `train` makes it with that seed, or without
    evaluations that of the last 100 training episodes: NaN where none has finished, −∞ from where a member met numbers
    that are not finite. Closing the generator ends the training.

    Args:
        experiment: What all members have in common.
        members: One alone beside a simulator on the host.
        stopped: Asked before every update; true ends the generator.

    Raises:
        UserError, EnvironmentFailure: As in training.
    """
    env = make_environment(experiment, experiment.env.num_envs)
    judge = None
    try:
        agent = make_agent(experiment, env.spec)
        if experiment.evaluation.num_evaluations:
            config = replace(experiment, evaluation=replace(experiment.evaluation, stochastic_episodes=0))
            judge = Evaluation.build(config, agent, partial(make_environment, config, evaluation=True))
        due = moments(experiment)
        for at in course(experiment, members, env, agent, due[-1], stopped):
            if at.update in due:
                yield np.where(at.lost, -math.inf, _returns(at, members, judge))
    finally:
        env.close()
        if judge is not None:
            judge.env.close()


def _returns(at: "Stage", members: Sequence[Member], judge: Evaluation | None) -> np.ndarray:
    """The return of each member that is not lost: in an evaluation, or else in training."""
    if judge is None:
        return np.asarray(at.metrics["rollout/ep_rew_mean"], np.float64)
    told = evaluate_members(judge, members, at)
    return np.array([each.get("eval/mean_reward", math.nan) for each in told])


class Stage(NamedTuple):
    """Where members stand after an update; every array has a leading axis of members [S]."""

    update: int  # updates done
    learner: LearnerState
    carry: Carry
    metrics: dict[str, np.ndarray]  # of this update; none before the first
    lost: np.ndarray  # bool: has met numbers that are not finite, so that nothing of it means anything


def course(
    experiment: Experiment,
    members: Sequence[Member],
    env: Environment,
    agent: ActorCritic,
    updates: int,
    stopped: Callable[[], object] = lambda: False,
) -> Generator[Stage]:
    """Members trained side by side: first where they begin, as soon as the program is compiled, then every update.

    A member draws what the run of its seed alone draws. Arrays of a stage are given up when the next one is asked for.
    A member that is lost goes on with the others, and they do not feel it.

    Args:
        experiment: What all members have in common.
        members: One alone beside a simulator on the host.
        env: Environments of one member; their `reset` and `step` can be mapped over members.
        agent: The networks.
        updates: How many.
        stopped: Asked before every update; true ends the generator.
    """
    numbers = {name: jnp.array([m.numbers[name] for m in members], jnp.float32) for name in members[0].numbers}
    init_keys, keys, _ = _keys(members)
    start, iterate = _programs(experiment, env, agent)
    learner, carry = with_cause(start, numbers, init_keys)
    program = iterate.lower(numbers, keys, jnp.uint32(0), learner, carry).compile()
    lost = np.zeros(len(members), bool)
    yield Stage(0, learner, carry, {}, lost)
    for update in range(updates):
        if stopped():
            return
        learner, carry, metrics = with_cause(program, numbers, keys, jnp.uint32(update), learner, carry)
        told = jax.device_get(metrics)
        lost = lost | np.any([count > 0 for name, count in told.items() if "/nonfinite" in name], axis=0)
        yield Stage(update + 1, learner, carry, told, lost)


def _keys(members: Sequence[Member]) -> tuple[Key, Key, Key]:
    """Of each member, the streams of initialisation, updates and evaluations that the run of its seed has."""
    seeds = jnp.array([member.seed for member in members], jnp.uint32)
    return tuple(jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 4), out_axes=1)(seeds))[:3]


def _fold(update: int, key: Key) -> Key:
    return jax.random.fold_in(key, update)


def _programs(experiment: Experiment, env: Environment, agent: ActorCritic) -> tuple[Any, Any]:
    """`(numbers, keys) -> learners, carries` and `(numbers, keys, update, learners, carries) -> …`, compiled."""

    host = env.spec.on_host

    def with_numbers(numbers: Mapping[str, Array]) -> Experiment:
        return replace(experiment, hyperparameters=replace(experiment.hyperparameters, **numbers))

    def learner(member: tuple[Mapping[str, Array], Key]) -> LearnerState:
        numbers, key = member
        return build(with_numbers(numbers), env, agent).algorithm.init(key)

    def start(numbers: Mapping[str, Array], keys: Key) -> tuple[LearnerState, Carry]:
        learner_keys, env_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        # One member after another: QR factorisations of batches, side by side, wait for each other without end on the
        # few threads of a small processor (JAX 0.10 and 0.12), and orthogonal weights are QR factorisations.
        learners = jax.lax.map(learner, (numbers, learner_keys))
        return learners, _over_members(partial(init_carry, env), (0,), host)(env_keys)

    def iterate(
        numbers: Mapping[str, Array], key: Key, update: Array, learner: LearnerState, carry: Carry
    ) -> tuple[LearnerState, Carry, Metrics]:
        iteration = build(with_numbers(numbers), env, agent).iteration
        return iteration(jax.random.fold_in(key, update), learner, carry)

    first = jax.jit(start, compiler_options=compilation.for_few_runs())
    each = _over_members(iterate, (0, 0, None, 0, 0), host)
    donated = () if host else (3, 4)
    return first, jax.jit(each, donate_argnums=donated, compiler_options=compilation.for_training(host))


def _over_members(function: Callable[..., Any], axes: tuple[int | None, ...], on_host: bool) -> Callable[..., Any]:
    """The function mapped over members; beside a simulator on the host, over the one that there is."""
    if not on_host:
        return jax.vmap(function, in_axes=axes)

    def single(*args: Any) -> Any:
        own = [arg if axis is None else jax.tree.map(lambda x: x[0], arg) for arg, axis in zip(args, axes, strict=True)]
        return jax.tree.map(lambda x: x[None], function(*own))

    return single


def evaluate_members(judge: Evaluation, members: Sequence[Member], at: Stage) -> list[dict[str, float]]:
    """The `eval/…` metrics of each member, one after another; none of a member that is lost."""
    keys = jax.vmap(partial(_fold, at.update))(_keys(members)[2])
    return [
        {} if lost else judge(keys[i], *of_member((at.learner.params, at.learner.statistics), i))
        for i, lost in enumerate(at.lost)
    ]


@jax.jit
def of_member(tree: Any, member: int) -> Any:
    """One member's part of arrays [S, ...]: one small program, where indexing them would be one for each array."""
    return jax.tree.map(lambda x: x[member], tree)
