"""REINFORCE (Williams, 1992), with a running mean of returns or with a learnt critic as its baseline."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax.numpy as jnp
import optax

from policy_gradients.algorithms.learner import (
    Judgement,
    at_present,
    entropy_bonus,
    finish_update,
    init_learner,
    one_step,
)
from policy_gradients.errors import UserError
from policy_gradients.estimation import normalization as norm
from policy_gradients.estimation.advantages import discounted_returns
from policy_gradients.estimation.batches import Batch, masked_means, standardize
from policy_gradients.types import ActorCritic, Algorithm, Array, Key, LearnerState, Metrics, Params, Transition


@dataclass(frozen=True)
class REINFORCEConfig:
    """Hyperparameters of REINFORCE. Defaults are Tianshou's for MuJoCo unless said otherwise.

    Attributes:
        num_steps: T, environment steps per environment and update. Pieces much shorter than an episode are valued by
            the baseline at their end, which harms where it is only a mean.
        baseline: "mean", the pure form: returns-to-go less their running mean, over their running standard deviation;
            or "value": returns-to-go less V(s), standardised. The two are different algorithms in any table.
        learning_rate: Adam's step size; 3e-4 learns slowly, 1e-3 without decay comes apart after 5M steps.
        lr_schedule: "constant", or "linear" (to 0 over the run's environment steps).
        gamma: γ, the discount. The factor γ^t of the gradient is dropped, as everybody does.
        gamma_start: γ of the first update, from where it goes to `gamma` in a line over the run's environment steps, or
            None: `gamma` throughout. A shorter horizon learns sooner (arXiv 1512.02011).
        value_coef: c_V, weight of the critic's loss; without effect for the baseline "mean".
        entropy_coef: c_H, weight of the entropy bonus.
        entropy_schedule: "constant", or "linear": c_H falls to 0 over the run's environment steps.
        max_grad_norm: Bound on the global norm of the gradient.
        adam_eps: ε of Adam.
        normalization: What is normalised. `value` keeps the running mean and standard deviation of returns, which the
            baseline "mean" needs.
    """

    num_steps: int = 256
    baseline: Literal["mean", "value"] = "mean"
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "linear"] = "linear"
    gamma: float = 0.99
    gamma_start: float | None = None
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    entropy_schedule: Literal["constant", "linear"] = "constant"
    max_grad_norm: float = 0.5
    adam_eps: float = 1e-8
    normalization: norm.NormalizationConfig = field(
        default_factory=partial(norm.NormalizationConfig, reward=False, value=True)
    )


def reinforce_loss(agent: ActorCritic, config: REINFORCEConfig, params: Params, batch: Batch) -> tuple[Array, Array]:
    """L = −⟨log π_θ(a|s) Ψ⟩ + c_V ½⟨(G − V(s))²⟩ − c_H ⟨H⟩ and its first two terms, over valid rows.

    Ψ is the batch's advantage. The baseline "mean" has no second term.
    """
    distribution = agent.policy(params, batch.obs)
    error = jnp.zeros_like(batch.target)
    if config.baseline == "value":
        error = 0.5 * (batch.target - agent.value(params, batch.obs)) ** 2
    parts = masked_means((-distribution.log_prob(batch.action) * batch.advantage, error), batch.valid)
    loss = parts[0] + config.value_coef * parts[1] - entropy_bonus(config, distribution, batch.valid)
    return loss, parts


def judge_by_returns(
    agent: ActorCritic, config: REINFORCEConfig, params: Params, statistics: norm.Statistics, seen: Transition
) -> Judgement:
    """Returns-to-go G less the baseline b(s), with b(s′) where a limit or the rollout's end cuts an episode.

    The pure form's b is the running mean m of returns: a critic that says 0 in normalised units, whatever it sees.
    """

    def baseline(obs: Array) -> Array:
        if config.baseline == "value":
            return agent.value(params, obs)
        return jnp.zeros(seen.valid.shape, jnp.float32)

    value = baseline(seen.obs)
    after = norm.denormalize_value(statistics, baseline(seen.next_obs))
    returns = discounted_returns(seen.reward, after, seen.terminated, seen.truncated, seen.valid, gamma=config.gamma)
    advantage = jnp.where(seen.valid, returns - norm.denormalize_value(statistics, value), 0.0)
    return Judgement(advantage, norm.normalize_value(statistics, returns), value)


def reinforce(agent: ActorCritic, config: REINFORCEConfig, *, num_envs: int, total_steps: int) -> Algorithm:
    """REINFORCE as `(init, update)`; `update(key, state, trajectory [T, N])` takes one step on the whole fresh batch.

    Args:
        agent: The networks; the baseline "mean" leaves the critic as it is.
        config: Hyperparameters.
        num_envs: N, environments in a trajectory.
        total_steps: Environment steps of the whole run, for the schedules.

    Raises:
        UserError: The baseline "mean" without `normalization.value`, which keeps the mean.
    """
    pure = config.baseline == "mean"
    if pure and not config.normalization.value:
        raise UserError("baseline 'mean' is the running mean of returns; set normalization.value, which keeps it.")
    optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=config.adam_eps))
    loss = partial(reinforce_loss, agent)

    def update(key: Key, state: LearnerState, trajectory: Transition) -> tuple[LearnerState, Metrics]:
        del key  # nothing is drawn
        now = at_present(config, state, total_steps)
        seen = norm.normalize_transition(config.normalization, state.statistics, trajectory)
        judged = judge_by_returns(agent, now, state.params, state.statistics, seen)
        weight = judged.target if pure else standardize(judged.advantage, seen.valid)
        batch = Batch(seen.obs, seen.action, seen.log_prob, weight, judged.target, judged.value, seen.valid)

        learnt, told = one_step(optimizer, now, total_steps, loss, state, batch)
        after, metrics = finish_update(agent, now, state, learnt, trajectory, seen, judged)
        told = {**metrics, **told}
        if pure:
            del told["train/value_loss"], told["train/explained_variance"]  # there is no critic
            returns = state.statistics.value
            told |= {"train/baseline_mean": returns.mean, "train/baseline_std": jnp.sqrt(returns.var)}
        return after, told

    return Algorithm(partial(init_learner, agent, optimizer, config, num_envs), update)
