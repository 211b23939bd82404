"""What a run is: typed settings, read strictly from YAML, flags or Python, and all their rules in one place."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from policy_gradients.algorithms import A2CConfig, PPOConfig, REINFORCEConfig, TRPOConfig, VMPOConfig
from policy_gradients.errors import UserError, suggest
from policy_gradients.networks.actor_critic import NetworkConfig
from policy_gradients.training.rules import broken_rules
from policy_gradients.training.schema import Problem, Reader, leaves, to_plain

Hyperparameters: TypeAlias = REINFORCEConfig | A2CConfig | TRPOConfig | PPOConfig | VMPOConfig
CONFIGS: dict[str, type[Hyperparameters]] = {
    "reinforce": REINFORCEConfig,
    "a2c": A2CConfig,
    "trpo": TRPOConfig,
    "ppo": PPOConfig,
    "vmpo": VMPOConfig,
}
"""The hyperparameters of each algorithm, by its name."""


@dataclass(frozen=True)
class EnvironmentConfig:
    """Where the agent acts.

    Attributes:
        id: Gymnasium or EnvPool id, `module:Id-v0` for your own; a prefix (`mujoco:`, `warp:`, `jax:`, `envpool:`,
            `gymnasium:`) forces the engine.
        num_envs: N, copies stepped together. More: faster steps and steadier gradients, but fewer updates for the same
            number of steps (8 as in Stable-Baselines3's zoo and CleanRL).
        num_threads: Threads of a simulator on the host; 0 for one per core.
        action_map: How a drawn action in [−1, 1] reaches the simulator's bounds: "clip" (clip, then rescale), "tanh"
            (squash, then rescale), "none" (as it is), or "auto": tanh under a tanh_normal policy, else clip.
        max_episode_steps: Environment steps after which an episode is truncated; none for the task's own limit.
        stagger: Cut the first episode of every copy short at a time of its own, so that the ends by the time limit are
            spread evenly instead of coming all at once (rsl_rl's init_at_random_ep_len). Worth it with
            thousands of copies; for MuJoCo tasks and environments in JAX.
        frame_stack: Observations stacked into one; more shows the policy velocities that a single one hides.
        obs_clip: Bound on raw observations; none for no clipping (normalised ones have `normalization.obs_clip`).
        reward_clip: Bound on raw rewards; none for no clipping (Atari: 1, Mnih et al. 2015).
        engine: What steps a MuJoCo task: "batch" (MuJoCo's C engine on the processor), "warp" (MuJoCo Warp on a GPU),
            or "auto": Warp where a CUDA device is present, it is installed, and there are worlds enough to fill it.
        kwargs: Keyword arguments of the task itself, by name.
    """

    id: str = "HalfCheetah-v4"
    num_envs: int = 8
    num_threads: int = 0
    action_map: Literal["auto", "clip", "tanh", "none"] = "auto"
    max_episode_steps: int | None = None
    stagger: bool = False
    frame_stack: int = 1
    obs_clip: float | None = None
    reward_clip: float | None = None
    engine: Literal["auto", "batch", "warp"] = "auto"
    kwargs: dict[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationConfig:
    """Tests of the policy while it learns, in environments of their own and with the normaliser frozen.

    Attributes:
        num_evaluations: How many, spread evenly over the run, the last at its end. More: a finer curve and a better
            `policy_best`, for time that does not train (20 is one per 5 % of the run); 0 for none.
        episodes: Episodes of the deterministic policy in each (10 as in Tianshou's benchmark).
        stochastic_episodes: Episodes of the sampled policy in each; 0 for none.
    """

    num_evaluations: int = 20
    episodes: int = 10
    stochastic_episodes: int = 10


@dataclass(frozen=True)
class CheckpointConfig:
    """What can be resumed.

    Attributes:
        num_checkpoints: How many are written, spread evenly over the run. More: less is lost to a crash, for some
            30 ms each (20 loses at most 5 % of the run).
        keep_last: How many of the latest stay on disk; a second one survives damage to the first.
        keep_best: Keep the best evaluation's checkpoint and policy as well.
    """

    num_checkpoints: int = 20
    keep_last: int = 2
    keep_best: bool = True


@dataclass(frozen=True)
class LoggingConfig:
    """Where metrics go, beside `metrics.jsonl`.

    Attributes:
        tensorboard: Also write TensorBoard events (needs the extra `tensorboard`).
        progress: "bar", "lines" (one every few seconds), "none", or "auto": a bar on a terminal, else lines.
    """

    tensorboard: bool = False
    progress: Literal["auto", "bar", "lines", "none"] = "auto"


@dataclass(frozen=True)
class Experiment:
    """One run, whole: the same experiment on the same machine gives the same numbers.

    Attributes:
        algorithm: Its name.
        hyperparameters: The algorithm's own settings.
        env: Where the agent acts.
        network: What acts and judges.
        evaluation: Tests while it learns.
        checkpoint: What can be resumed.
        logging: Where metrics go.
        total_steps: Environment steps of the whole run, over all copies, rounded up to whole updates (1e6 is MuJoCo's
            usual yardstick).
        seed: Of everything drawn at random.
        devices: Devices among which the environments are shared out, each with its part of every gradient; "all" or −1
            for all that JAX sees. For environments in JAX and on Warp; the results are those of one device. Several
            processes train with all of theirs.
        backend: What computes, "cpu" or "gpu"; "auto" takes the GPU where there is one, and beside a simulator on the
            host whichever is measured to be faster at the start. A run keeps what was chosen.
        video: Film an episode at the end; of many seeds that of the first.
    """

    algorithm: str = "ppo"
    hyperparameters: Hyperparameters = field(default_factory=PPOConfig)
    env: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    total_steps: int = 1_000_000
    seed: int = 0
    devices: int | Literal["all"] = 1
    backend: Literal["auto", "cpu", "gpu"] = "auto"
    video: bool = True


def default_experiment(algorithm: str) -> Experiment:
    """An experiment with every setting at its default.

    Raises:
        UserError: There is no such algorithm.
    """
    if algorithm not in CONFIGS:
        raise UserError(f"algorithm: {_unknown_algorithm(algorithm)}")
    return Experiment(algorithm=algorithm, hyperparameters=CONFIGS[algorithm]())


def parse_experiment(mapping: Mapping[str, Any], source: str = "") -> Experiment:
    """The experiment that plain data describes; settings that are not there keep their defaults.

    Args:
        mapping: Names as in `Experiment`, nested; numbers may be text ("1e-3").
        source: Where it came from, for messages.

    Raises:
        UserError: Unknown settings, wrong types, values out of range: all of them at once.
    """
    settings = {"algorithm": Experiment.algorithm, "hyperparameters": {}, **mapping}
    problems = []
    if settings["algorithm"] not in list(CONFIGS):
        problems = [Problem("algorithm", _unknown_algorithm(settings["algorithm"]))]
        settings |= {"algorithm": Experiment.algorithm, "hyperparameters": {}}
    kind = CONFIGS[settings["algorithm"]]
    known = [".".join(leaf.path) for leaf in leaves(default_experiment(settings["algorithm"]))]
    reader = Reader(known, problems)
    experiment = reader.settings(Experiment, settings, overrides={"hyperparameters": kind})
    _raise(reader.problems + broken_rules(experiment, wrong=[problem.path for problem in reader.problems]), source)
    return experiment


def validate(experiment: Experiment) -> None:
    """Checks an experiment made by hand: types, ranges, and settings that do not go together.

    Raises:
        UserError: With everything that is wrong.
    """
    wanted = CONFIGS.get(experiment.algorithm)
    if wanted is not None and type(experiment.hyperparameters) is not wanted:
        raise UserError(
            f"hyperparameters: {experiment.algorithm!r} expects {wanted.__name__}, "
            f"got {type(experiment.hyperparameters).__name__}."
        )
    parse_experiment(to_mapping(experiment))


def to_mapping(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain dicts, lists and scalars; `parse_experiment` reads it back equal."""
    return to_plain(experiment)


def config_hash(experiment: Experiment) -> str:
    """Sixteen hexadecimal digits that name what decides the learning curve.

    Seeds of one setting share it: the seed is left out, and so are what computes (devices, backend) and what only
    watches (checkpoint, logging, video).
    """
    mapping = to_mapping(parse_experiment(to_mapping(experiment)))  # 1 and 1.0 are the same setting
    for name in ("seed", "devices", "backend", "checkpoint", "logging", "video"):
        del mapping[name]
    return hashlib.sha256(json.dumps(mapping, sort_keys=True).encode()).hexdigest()[:16]


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Writes every setting as YAML; `load_experiment` reads it back equal. A file that is there stays whole.

    Raises:
        UserError: The file cannot be written.
    """
    import yaml

    text = yaml.safe_dump(to_mapping(experiment), sort_keys=False, allow_unicode=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error


def load_experiment(path: Path) -> Experiment:
    """The experiment in a YAML file.

    Raises:
        UserError: The file cannot be read, or what it says is wrong.
    """
    return parse_experiment(load_mapping(path), source=str(path))


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, not yet checked.

    Raises:
        UserError: No such file, no YAML, no mapping (as in an empty file), or a setting given twice.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        _forbid_duplicates(yaml.compose(text, Loader=yaml.SafeLoader))
        mapping = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except RecursionError as error:
        raise UserError(
            f"{path}: a setting contains itself, or is nested too deep; look at its aliases (*name)."
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # the latter of bytes, dates and numbers that cannot be
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(mapping, dict):
        came = "nothing" if mapping is None else repr(mapping)
        raise UserError(f"{path}: expected settings by name (like 'total_steps: 1e6'), got {came}.")
    return mapping


def _forbid_duplicates(node: Any) -> None:
    """YAML allows no name twice in a mapping, but PyYAML silently lets the last one win."""
    import yaml

    if not isinstance(node, yaml.CollectionNode):
        return
    names: set[str] = set()
    for child in node.value:
        if isinstance(child, tuple):
            label, child = child
            if isinstance(label, yaml.ScalarNode):  # of other names YAML's reader complains
                if label.value in names:
                    raise yaml.MarkedYAMLError(problem=f"{label.value!r} is given twice", problem_mark=label.start_mark)
                names.add(label.value)
        _forbid_duplicates(child)


def _unknown_algorithm(name: Any) -> str:
    known = ", ".join(CONFIGS)
    return f"there is no algorithm {name!r}; expected one of {known}.{suggest(str(name), CONFIGS)}"


def _raise(problems: list[Problem], source: str) -> None:
    if not problems:
        return
    lines = [f"{path}: {text}" if path else text for path, text in problems]
    head = f"{source}: " if source else ""
    if len(lines) == 1:
        raise UserError(head + lines[0])
    raise UserError("\n  ".join([f"{head}{len(lines)} settings are wrong:", *lines]))
