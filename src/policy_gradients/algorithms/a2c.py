"""Advantage actor-critic, synchronous (Mnih et al., arXiv 1602.01783, without the threads)."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import optax

from policy_gradients.algorithms.learner import at_present, entropy_bonus, finish_update, init_learner, judge, one_step
from policy_gradients.estimation import normalization as norm
from policy_gradients.estimation.batches import Batch, masked_means, standardize
from policy_gradients.types import ActorCritic, Algorithm, Array, Key, LearnerState, Metrics, Params, Transition


@dataclass(frozen=True)
class A2CConfig:
    """Hyperparameters of A2C. Defaults are Tianshou's for MuJoCo, found in some 800 trainings, unless said otherwise.

    The learning rate, its decay, the steps per update and the number of environments work together: change them
    together.

    Attributes:
        num_steps: T, environment steps per environment and update. Longer: slower at first, often higher in the end.
        learning_rate: RMSprop's step size; 7e-4 suits 80 steps per update, 1e-3 suits 256 to 2,048.
        lr_schedule: "constant", or "linear" (to 0 over the run's environment steps).
        gamma: γ, the discount.
        gamma_start: γ of the first update, from where it goes to `gamma` in a line over the run's environment steps, or
            None: `gamma` throughout. A shorter horizon learns sooner (arXiv 1512.02011).
        gae_lambda: λ of the advantage estimate. Not in the paper, which has 1: 0.95 learns faster on MuJoCo.
        value_coef: c_V, weight of the critic's loss.
        entropy_coef: c_H, weight of the entropy bonus.
        entropy_schedule: "constant", or "linear": c_H falls to 0 over the run's environment steps.
        max_grad_norm: Bound on the global norm of the gradient.
        advantages: Standardise them per "batch", or "none".
        rms_decay: α of RMSprop, the memory of squared gradients.
        rms_eps: ε of RMSprop, **added to the root** of the mean square, as in PyTorch (TensorFlow has it inside).
        normalization: What is normalised.
    """

    num_steps: int = 5
    learning_rate: float = 7e-4
    lr_schedule: Literal["constant", "linear"] = "linear"
    gamma: float = 0.99
    gamma_start: float | None = None
    gae_lambda: float = 0.95
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    entropy_schedule: Literal["constant", "linear"] = "constant"
    max_grad_norm: float = 0.5
    advantages: Literal["none", "batch"] = "none"
    rms_decay: float = 0.99
    rms_eps: float = 1e-5
    normalization: norm.NormalizationConfig = field(default_factory=norm.NormalizationConfig)


def a2c_loss(agent: ActorCritic, config: A2CConfig, params: Params, batch: Batch) -> tuple[Array, Array]:
    """L = −⟨log π_θ(a|s) Â⟩ + c_V ½⟨(R̂ − V_φ(s))²⟩ − c_H ⟨H⟩ and its first two terms, over valid rows."""
    distribution, value = agent.policy(params, batch.obs), agent.value(params, batch.obs)
    log_prob = distribution.log_prob(batch.action)
    parts = masked_means((-log_prob * batch.advantage, 0.5 * (batch.target - value) ** 2), batch.valid)
    loss = parts[0] + config.value_coef * parts[1] - entropy_bonus(config, distribution, batch.valid)
    return loss, parts


def rmsprop(config: A2CConfig) -> optax.GradientTransformation:
    """g/(√v + ε) of the clipped gradient, v ← α v + (1 − α) g²; ε stands beside the root, as in PyTorch."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_rms(config.rms_decay, config.rms_eps, eps_in_sqrt=False),
    )


def a2c(agent: ActorCritic, config: A2CConfig, *, num_envs: int, total_steps: int) -> Algorithm:
    """A2C as `(init, update)`; `update(key, state, trajectory [T, N])` takes one step on the whole fresh batch.

    There is no probability ratio and no second pass: the gradient is that of the policy that acted.

    Args:
        agent: The networks.
        config: Hyperparameters.
        num_envs: N, environments in a trajectory.
        total_steps: Environment steps of the whole run, for the schedules.
    """
    optimizer = rmsprop(config)
    loss = partial(a2c_loss, agent)

    def update(key: Key, state: LearnerState, trajectory: Transition) -> tuple[LearnerState, Metrics]:
        del key  # nothing is drawn
        now = at_present(config, state, total_steps)
        seen = norm.normalize_transition(config.normalization, state.statistics, trajectory)
        judged = judge(agent, now, state.params, state.statistics, seen)
        advantage = judged.advantage
        if config.advantages == "batch":
            advantage = standardize(advantage, seen.valid)
        batch = Batch(seen.obs, seen.action, seen.log_prob, advantage, judged.target, judged.value, seen.valid)

        learnt, told = one_step(optimizer, now, total_steps, loss, state, batch)
        after, metrics = finish_update(agent, now, state, learnt, trajectory, seen, judged)
        return after, {**metrics, **told}

    return Algorithm(partial(init_learner, agent, optimizer, config, num_envs), update)
