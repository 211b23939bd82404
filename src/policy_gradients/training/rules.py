"""What values settings may have, alone and together."""

import math
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from policy_gradients.training.schema import Problem, leaves

if TYPE_CHECKING:
    from policy_gradients.training.config import Experiment


class Range(NamedTuple):
    """The numbers that a setting may be."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("a number above 0", lambda x: x > 0)
NOT_NEGATIVE = Range("0 or more", lambda x: x >= 0)
AT_LEAST_ONE = Range("1 or more", lambda x: x >= 1)
FRACTION = Range("a number from 0 to 1", lambda x: 0 <= x <= 1)

RANGES = {
    "hyperparameters.num_steps": AT_LEAST_ONE,
    "hyperparameters.num_epochs": AT_LEAST_ONE,
    "hyperparameters.num_minibatches": AT_LEAST_ONE,
    "hyperparameters.learning_rate": POSITIVE,
    "hyperparameters.gamma": FRACTION,
    "hyperparameters.gamma_start": FRACTION,
    "hyperparameters.gae_lambda": FRACTION,
    "hyperparameters.clip_eps": POSITIVE,
    "hyperparameters.value_clip_eps": POSITIVE,
    "hyperparameters.value_coef": NOT_NEGATIVE,
    "hyperparameters.entropy_coef": NOT_NEGATIVE,
    "hyperparameters.max_grad_norm": POSITIVE,
    "hyperparameters.target_kl": POSITIVE,
    "hyperparameters.adam_eps": POSITIVE,
    "hyperparameters.rms_decay": FRACTION,
    "hyperparameters.rms_eps": POSITIVE,
    "hyperparameters.max_kl": POSITIVE,
    "hyperparameters.cg_iterations": AT_LEAST_ONE,
    "hyperparameters.cg_damping": NOT_NEGATIVE,
    "hyperparameters.line_search_steps": AT_LEAST_ONE,
    "hyperparameters.line_search_shrink": Range("a number between 0 and 1", lambda x: 0 < x < 1),
    "hyperparameters.value_epochs": AT_LEAST_ONE,
    "hyperparameters.target_period": AT_LEAST_ONE,
    "hyperparameters.dual_learning_rate": POSITIVE,
    "hyperparameters.eps_eta": POSITIVE,
    "hyperparameters.eps_mean": POSITIVE,
    "hyperparameters.eps_std": POSITIVE,
    "hyperparameters.eta_init": POSITIVE,
    "hyperparameters.alpha_init": POSITIVE,
    "hyperparameters.normalization.obs_clip": POSITIVE,
    "hyperparameters.normalization.reward_clip": POSITIVE,
    "hyperparameters.normalization.reward_scale": POSITIVE,
    "env.num_envs": AT_LEAST_ONE,
    "env.num_threads": NOT_NEGATIVE,
    "env.max_episode_steps": AT_LEAST_ONE,
    "env.frame_stack": AT_LEAST_ONE,
    "env.obs_clip": POSITIVE,
    "env.reward_clip": POSITIVE,
    "network.hidden": AT_LEAST_ONE,
    "network.value_hidden": AT_LEAST_ONE,
    "network.policy_gain": POSITIVE,
    "network.value_gain": POSITIVE,
    "evaluation.num_evaluations": NOT_NEGATIVE,
    "evaluation.episodes": AT_LEAST_ONE,
    "evaluation.stochastic_episodes": NOT_NEGATIVE,
    "checkpoint.num_checkpoints": AT_LEAST_ONE,
    "checkpoint.keep_last": AT_LEAST_ONE,
    "total_steps": AT_LEAST_ONE,
    "devices": Range("1 or more, or all", lambda x: x in ("all", -1) or x >= 1),
    "seed": Range("a whole number from 0 to 2³² − 1", lambda x: 0 <= x < 2**32),
}
"""The range of each number, whichever algorithm it belongs to; `none` is always fine where the type allows it."""


def broken_rules(experiment: "Experiment", wrong: Collection[str] = ()) -> list[Problem]:
    """Every value out of range and every group of settings that contradict each other.

    Args:
        experiment: With values of the right types.
        wrong: Paths already known to be wrong, about which nothing more is said.
    """
    problems = [problem for problem in _out_of_range(experiment) if problem.path not in wrong]
    sound = {".".join(leaf.path) for leaf in leaves(experiment)} - {*wrong, *(problem.path for problem in problems)}
    for paths, contradiction in CONTRADICTIONS.items():
        text = contradiction(experiment) if sound.issuperset(paths) else None
        if text:
            problems.append(Problem(paths[0], text))
    return problems


def _out_of_range(experiment: "Experiment") -> Iterator[Problem]:
    for leaf in leaves(experiment):
        path = ".".join(leaf.path)
        limits = RANGES.get(path)
        values = leaf.default if isinstance(leaf.default, tuple) else (leaf.default,)
        if limits and any(value is not None and not limits.holds(value) for value in values):
            shown = list(values) if isinstance(leaf.default, tuple) else leaf.default
            yield Problem(path, f"expected {limits.words}, got {shown!r}.")


def _uneven_minibatches(experiment: "Experiment") -> str | None:
    config: Any = experiment.hyperparameters
    num_envs = experiment.env.num_envs
    batch = config.num_steps * num_envs
    if batch % config.num_minibatches == 0:
        return None
    fitting = " and ".join(map(str, nearest_divisors(batch, config.num_minibatches)))
    return (
        f"{config.num_minibatches} does not divide num_steps × num_envs = {config.num_steps} × {num_envs} = {batch}; "
        f"the nearest that do: {fitting}."
    )


def _less_than_one_update(experiment: "Experiment") -> str | None:
    batch = experiment.hyperparameters.num_steps * experiment.env.num_envs
    if experiment.total_steps >= batch:
        return None
    return f"{experiment.total_steps} is less than one update of num_steps × num_envs = {batch} steps; ask for more."


def _no_kl_to_follow(experiment: "Experiment") -> str | None:
    config: Any = experiment.hyperparameters
    if config.lr_schedule not in ("kl_adaptive", "kl_update") or config.target_kl is not None:
        return None
    return f"{config.lr_schedule!r} follows target_kl, which is none; set it (0.008 is rl_games' value)."


def _falling_discount(experiment: "Experiment") -> str | None:
    config = experiment.hyperparameters
    if config.gamma_start is None or config.gamma_start <= config.gamma:
        return None
    return (
        f"expected at most gamma, {config.gamma}, to which it rises, got {config.gamma_start}; lower it, or set it to "
        "none for gamma throughout."
    )


def _scaled_twice(experiment: "Experiment") -> str | None:
    config = experiment.hyperparameters.normalization
    if not (config.reward and config.value):
        return None
    return "normalization.reward is on as well, so the critic's targets would be scaled twice; turn one off."


def _no_mean_of_returns(experiment: "Experiment") -> str | None:
    config: Any = experiment.hyperparameters
    if config.baseline != "mean" or config.normalization.value:
        return None
    return "'mean' is the running mean of returns, which normalization.value keeps; turn that on, or use 'value'."


def _torso_outside_the_trust_region(experiment: "Experiment") -> str | None:
    if experiment.algorithm != "trpo" or not experiment.network.shared_torso:
        return None
    return "TRPO fits its critic after the policy's step, and a shared torso would move the policy with it; use false."


def _upside_down(experiment: "Experiment") -> str | None:
    low, high = experiment.network.log_std_range
    return None if low < high else f"expected [low, high], got [{low}, {high}]."


def _starts_outside(experiment: "Experiment") -> str | None:
    start, (low, high) = experiment.network.log_std_init, experiment.network.log_std_range
    return None if low <= start <= high else f"{start} lies outside log_std_range, [{low}, {high}]."


def _squash_missing(experiment: "Experiment") -> str | None:
    if experiment.network.distribution != "tanh_normal" or experiment.env.action_map in ("auto", "tanh"):
        return None
    return f"{experiment.env.action_map!r} does not fit network.distribution 'tanh_normal'; use 'tanh' or 'auto'."


CONTRADICTIONS: dict[tuple[str, ...], Callable[["Experiment"], str | None]] = {
    ("hyperparameters.num_minibatches", "hyperparameters.num_steps", "env.num_envs"): _uneven_minibatches,
    ("total_steps", "hyperparameters.num_steps", "env.num_envs"): _less_than_one_update,
    ("hyperparameters.lr_schedule", "hyperparameters.target_kl"): _no_kl_to_follow,
    ("hyperparameters.gamma_start", "hyperparameters.gamma"): _falling_discount,
    ("hyperparameters.normalization.value", "hyperparameters.normalization.reward"): _scaled_twice,
    ("hyperparameters.baseline", "hyperparameters.normalization.value"): _no_mean_of_returns,
    ("network.shared_torso", "hyperparameters.max_kl"): _torso_outside_the_trust_region,
    ("network.log_std_range",): _upside_down,
    ("network.log_std_init", "network.log_std_range"): _starts_outside,
    ("env.action_map", "network.distribution"): _squash_missing,
}
"""What can be wrong between settings: the settings (the first is where to look), and the sentence that says why."""


def nearest_divisors(number: int, near: int) -> list[int]:
    """The divisors of `number` next to `near`, below and above, where they exist."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = sorted({*small, *(number // d for d in small)})
    return [d for d in divisors if d < near][-1:] + [d for d in divisors if d > near][:1]
