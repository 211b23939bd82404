"""From an `Experiment` to the parts of a run: environment, networks, algorithm, and the one compiled iteration."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from policy_gradients import compilation
from policy_gradients.algorithms import a2c, ppo, reinforce, trpo, vmpo
from policy_gradients.environments.base import Box, Environment, EnvironmentSpec
from policy_gradients.environments.host import with_cause
from policy_gradients.errors import UserError
from policy_gradients.estimation.batches import masked_mean
from policy_gradients.networks.actor_critic import actor_critic, resolve_distribution
from policy_gradients.training import devices
from policy_gradients.training.config import Experiment
from policy_gradients.training.own_parts import checked_agent
from policy_gradients.training.rollout import Carry, init_carry, rollout, rollout_metrics
from policy_gradients.types import ActorCritic, Algorithm, Array, Key, LearnerState, Metrics, Transition

CONSTRUCTORS: dict[str, Callable[..., Algorithm]] = {
    "reinforce": reinforce,
    "a2c": a2c,
    "trpo": trpo,
    "ppo": ppo,
    "vmpo": vmpo,
}
"""The constructor of each algorithm by name."""


CULPRITS = {
    "rollout/nonfinite_obs": "the environment's observations",
    "rollout/nonfinite_reward": "the environment's rewards",
    "rollout/nonfinite_action": "the policy's actions",
    "train/value_loss": "the critic's loss",
    "train/policy_gradient_loss": "the policy's loss",
}
"""Where numbers that are not finite can enter, in the order of the data flow, by the metric that shows it."""


def blame(metrics: Mapping[str, float]) -> str:
    """Where numbers that are not finite entered first, in words; by the metrics of the update that met them."""
    culprits = [name for name in CULPRITS if metrics.get(name, 0.0) > 0 or math.isnan(metrics.get(name, 0.0))]
    return ", ".join(CULPRITS[name] for name in culprits) or "the gradient"


class Parts(NamedTuple):
    """What a run is made of."""

    env: Environment
    agent: ActorCritic
    algorithm: Algorithm
    iteration: Any  # jitted: (key, learner, carry) -> (learner, carry, metrics)
    mesh: Mesh | None = None  # the devices over which the environments are spread; None for one


class RunState(NamedTuple):
    """All that changes while a run runs, and so all that a checkpoint holds."""

    learner: LearnerState
    carry: Carry


def make_environment(
    experiment: Experiment, num_envs: int, *, evaluation: bool = False, mesh: Mesh | None = None
) -> Environment:
    """`num_envs` copies of the experiment's environment, with its wrappers.

    For `evaluation`, scores are as the field reports them: rewards unclipped, whole games (`registry.make`).
    """
    from policy_gradients.environments.registry import make

    env, distribution = experiment.env, experiment.network.distribution
    action_map = env.action_map
    if action_map == "auto":
        action_map = "tanh" if distribution == "tanh_normal" else "clip"
    return make(
        env.id, num_envs, engine=env.engine, action_map=action_map, num_threads=env.num_threads,
        max_episode_steps=env.max_episode_steps, stagger=env.stagger, frame_stack=env.frame_stack,
        obs_clip=env.obs_clip, reward_clip=env.reward_clip, evaluation=evaluation, mesh=mesh, **env.kwargs,
    )  # fmt: skip


def make_agent(experiment: Experiment, spec: EnvironmentSpec) -> ActorCritic:
    """The networks that the experiment asks for, in the environment's shapes."""
    space = spec.action_space
    discrete = not isinstance(space, Box)
    distribution = resolve_distribution(experiment.network.distribution, discrete)
    if distribution == "tanh_normal" and spec.action_map != "tanh":
        raise UserError(
            f"network.distribution: tanh_normal needs the action map tanh, but {spec.id} has {spec.action_map}"
            f"{'' if spec.control_bounds is None or spec.control_bounds.bounded else ' (its actions are unbounded)'}; "
            "use normal."
        )
    if not discrete and len(space.shape) != 1:
        raise UserError(f"{spec.id}: actions of shape {space.shape} are not supported; flatten them to one axis.")
    obs = jax.ShapeDtypeStruct(spec.obs_space.shape, spec.obs_space.dtype)
    return actor_critic(obs, space.shape, None if isinstance(space, Box) else space.n, experiment.network)


def build(
    experiment: Experiment, env: Environment, agent: ActorCritic | None = None, mesh: Mesh | None = None
) -> Parts:
    """The parts of a run; `agent` overrides the experiment's networks, and a mesh spreads the environments.

    The iteration is rollout and update as **one** program: `iteration(key, learner, carry)`. Its buffers are reused
    in place where the environment lives on the device; beside a host simulator the inputs stay, so that a simulator
    that fails loses nothing.

    Raises:
        UserError: The networks do not suit the environment, or its simulator cannot be spread over the mesh.
    """
    devices.check_spreads(env.spec, mesh)
    config = experiment.hyperparameters
    agent = make_agent(experiment, env.spec) if agent is None else checked_agent(agent, env.spec)
    constructor = CONSTRUCTORS[experiment.algorithm]
    algorithm = constructor(agent, config, num_envs=env.spec.num_envs, total_steps=experiment.total_steps)

    def iteration(key: Key, learner: LearnerState, carry: Carry) -> tuple[LearnerState, Carry, Metrics]:
        act_key, learn_key = jax.random.split(key)
        after, trajectory = rollout(
            agent, env, config.normalization, config.num_steps, act_key, learner.params, learner.statistics, carry
        )
        learner, metrics = algorithm.update(learn_key, learner, trajectory)
        seen = rollout_metrics(carry.episodes, after.episodes, trajectory)
        seen = {**seen, **_saturation(trajectory, env.spec.action_map), **_nonfinite(trajectory)}
        seen |= env.metrics(after.env_state)
        return learner, after, {**metrics, **seen}

    donated = () if env.spec.on_host else (1, 2)
    return Parts(env, agent, algorithm, jax.jit(devices.over(mesh, iteration), donate_argnums=donated), mesh)


def _nonfinite(trajectory: Transition) -> Metrics:
    def count(x: Array) -> Array:
        bad = ~jnp.isfinite(x).reshape(*trajectory.valid.shape, -1).all(axis=-1)
        return jnp.sum(bad & trajectory.valid, dtype=jnp.float32)

    return {
        "rollout/nonfinite_obs": count(trajectory.obs) + count(trajectory.next_obs),
        "rollout/nonfinite_reward": count(trajectory.reward),
        "rollout/nonfinite_action": count(trajectory.action),
    }


def _saturation(trajectory: Transition, action_map: str) -> Metrics:
    """The share of action coordinates at or beyond the bounds: |u| ≥ 1 where actions are clipped, |tanh u| > 0.99."""
    if action_map == "none":
        return {}
    bound = 1.0 if action_map == "clip" else math.atanh(0.99)
    outside = jnp.mean(jnp.abs(trajectory.action) >= bound, axis=-1, dtype=jnp.float32)
    return {"rollout/action_saturation": masked_mean(outside, trajectory.valid)}


def initial_state(parts: Parts, key: Key) -> RunState:
    """A learner that knows nothing and environments that have just been reset."""

    def begin(key: Key) -> tuple[LearnerState, Carry]:
        learner_key, env_key = jax.random.split(key)
        return parts.algorithm.init(learner_key), init_carry(parts.env, env_key)

    places = None if parts.mesh is None else devices.layout(parts.mesh, *jax.eval_shape(begin, key))
    program = jax.jit(begin, out_shardings=places, compiler_options=compilation.for_few_runs())
    return RunState(*with_cause(program, key))


def start_environments(env: Environment, key: Key) -> Carry:
    """The environments reset. Compiled, so that no two arrays of the carry share a buffer that is later given away."""
    return jax.jit(partial(init_carry, env), compiler_options=compilation.for_few_runs())(key)


def forget_running_returns(learner: LearnerState) -> LearnerState:
    """The learner for environments that start anew: no discounted return of an abandoned episode is carried on."""
    reward = learner.statistics.reward
    if reward is None:
        return learner
    reward = reward._replace(running_return=jnp.zeros_like(reward.running_return))
    return learner._replace(statistics=learner.statistics._replace(reward=reward))
