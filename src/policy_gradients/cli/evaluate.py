"""`policy-gradients evaluate`: how well a trained policy plays, with the policy as it would be deployed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from policy_gradients.cli.arguments import Parser, positive, seed
from policy_gradients.cli.runtime import check_back_end, start_jax
from policy_gradients.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from policy_gradients.deployment.numpy_policy import NumpyPolicy
    from policy_gradients.environments.base import Environment
    from policy_gradients.training.config import EnvironmentConfig

COPIES = 64
"""Most environments played at once: more would cost memory and start-up for no speed."""

_ANOTHER = "Or name an environment to play in with --env ID (of a run with make_env= only that name is known here)."

RUN_POLICIES = ("policy", "policy_best")
"""The bundles in a run's folder: its last policy, and its best so far."""


class Played(NamedTuple):
    """Undiscounted return and length of each episode; NaN and 0 for one that found no end."""

    returns: "np.ndarray"
    lengths: "np.ndarray"


def run(arguments: Sequence[str]) -> int:
    """Plays the episodes and prints how they went; the exit code."""
    options = _parser().parse(arguments)
    bundle = find_bundle(options.path)
    start_jax()
    check_back_end()
    from policy_gradients.backend import computing_on
    from policy_gradients.deployment.numpy_policy import load_policy

    policy = load_policy(bundle, seed=options.seed)
    config = environment_config(policy, bundle, options.env)
    with computing_on("cpu"):  # where the policy acts: a few copies, step by step, would keep a GPU waiting
        try:
            env = make_environment(policy, config, min(options.episodes, COPIES))
        except UserError as error:
            if options.env is not None:
                raise
            raise UserError(f"{error} {_ANOTHER}") from error
        try:
            played = play(policy, env, options.episodes, deterministic=not options.stochastic, seed=options.seed)
        finally:
            env.close()
    print(summary(played, env.spec.id, "stochastic" if options.stochastic else "deterministic"))
    if options.video is not None:
        from policy_gradients.evaluation.video import record_video

        out = Path(options.video or beside(options.path) / "evaluation.mp4")
        record_video(
            policy, config.id, out, seed=options.seed, frame_stack=config.frame_stack, env_options=config.kwargs
        )
        print(f"Film: {out}")
    return 0


def _parser() -> Parser:
    parser = Parser("evaluate", "Plays whole episodes with a trained policy, its normaliser frozen.")
    parser.add_argument("path", metavar="RUN", type=Path, help="a run's folder, or a policy bundle")
    parser.add_argument("--env", metavar="ID", help="play in this environment instead of the policy's own")
    parser.add_argument("--episodes", type=positive, default=100, help="how many (100, as for published results)")
    parser.add_argument("--stochastic", action="store_true", help="draw actions instead of taking the most likely ones")
    parser.add_argument("--seed", type=seed, default=0, help="of first states and drawn actions (0)")
    parser.add_argument("--video", nargs="?", const="", metavar="FILE", help="film an episode (evaluation.mp4 in RUN)")
    return parser


def find_bundle(path: Path) -> Path:
    """The policy bundle that a path means: itself, or a run's last policy, or its best where it has not finished.

    Raises:
        UserError: There is none.
    """
    try:
        if path.is_file():
            return path.parent if path.name == "policy.json" else path
        for folder in (path, *(path / name for name in RUN_POLICIES)):
            if (folder / "policy.json").is_file():
                return folder
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    raise UserError(
        f"{path} holds no policy; give a bundle, or the folder of a run that has finished or been evaluated once "
        "(a run with networks of your own writes none)."
    )


def beside(path: Path) -> Path:
    """The folder for what is made from the policy of a path: the run's, or the one that the bundle lies in."""
    bundle = find_bundle(path)
    return path if path.is_dir() and path != bundle else bundle.parent


def environment_config(policy: "NumpyPolicy", bundle: Path, env_id: str | None = None) -> "EnvironmentConfig":
    """Where to play: in the environment of the run around the bundle; without a run, in the one that the bundle names.

    Args:
        policy: Of the bundle.
        bundle: Its path.
        env_id: Play in this environment instead, with the wrappers that the policy needs.

    Raises:
        UserError: The run's settings cannot be read, or the bundle names an environment that is not the library's own
            (to play there imports the module named, which is for whoever asks to say).
    """
    from policy_gradients.environments.registry import PREFIXES
    from policy_gradients.training.config import EnvironmentConfig

    observation, described = policy.description.observation, policy.description.environment
    wrappers: dict[str, Any] = {"frame_stack": observation.frames, "obs_clip": observation.clip}
    if env_id is not None:
        return EnvironmentConfig(env_id, **wrappers)
    around = _run_around(bundle, described.id)
    if around is not None:
        return around
    if described.engine not in PREFIXES or ":" in described.id:
        raise UserError(
            f"evaluate: {bundle} names the environment {described.id[:60]!r} of {described.engine[:60]!r}, which is "
            "none of this library's; evaluate the run's folder, or give --env ID if you trust the module that it names."
        )
    engine = "mujoco" if described.engine == "warp" else described.engine  # scores are C's, wherever it was trained
    return EnvironmentConfig(f"{engine}:{described.id}", max_episode_steps=described.max_episode_steps, **wrappers)


def _run_around(bundle: Path, env_id: str) -> "EnvironmentConfig | None":
    """The environment of the run whose policy this is; None where the bundle lies somewhere else."""
    from policy_gradients.training.config import load_experiment

    settings = bundle.parent / "config.yaml"
    if bundle.name not in RUN_POLICIES or not settings.is_file():
        return None
    try:
        env = load_experiment(settings).env
    except UserError:
        if (bundle.parent / "checkpoints").is_dir():
            raise
        return None
    return env if env.id.endswith(env_id) else None


def make_environment(policy: "NumpyPolicy", config: "EnvironmentConfig", num_envs: int) -> "Environment":
    """The environment as scores are reported: raw rewards, whole episodes, and actions in the simulator's own units.

    Raises:
        UserError: The environment's observations or actions are not the policy's.
    """
    from policy_gradients.environments.base import Discrete
    from policy_gradients.environments.registry import make

    options: dict[str, Any] = {**config.kwargs}
    env = make(
        config.id, num_envs, engine=config.engine, action_map="none", num_threads=config.num_threads,
        frame_stack=config.frame_stack, max_episode_steps=config.max_episode_steps, obs_clip=config.obs_clip,
        evaluation=True, **options,
    )  # fmt: skip
    if env.spec.obs_space.shape != policy.description.observation.shape:
        env.close()
        raise UserError(
            f"evaluate: {config.id} gives observations of shape {env.spec.obs_space.shape}, but the policy expects "
            f"{policy.description.observation.shape}. Evaluate the run's folder, which knows the wrappers."
        )
    described = policy.description.action
    space = env.spec.action_space
    if (space.n if isinstance(space, Discrete) else space.shape) != (described.n or described.shape):
        env.close()
        raise UserError(
            f"evaluate: {config.id} takes actions in {space}, but the policy gives {described.n or described.shape} of "
            f"kind {described.kind}. Name an environment with the same actions."
        )
    return env


def play(policy: "NumpyPolicy", env: "Environment", episodes: int, *, deterministic: bool, seed: int) -> Played:
    """Plays so many episodes, one after the other in every environment, each chosen before it is played.

    (Taking the first to finish would count short episodes first.) The policy's actions are in the simulator's units,
    so `env` maps none.
    """
    import jax
    import numpy as np

    from policy_gradients.environments.host import with_cause
    from policy_gradients.evaluation.evaluate import LONGEST_EPISODE

    reset, step = jax.jit(env.reset), jax.jit(env.step)
    key, rng, n = jax.random.key(seed), np.random.default_rng(seed), env.spec.num_envs
    returns, lengths = np.full(episodes, np.nan), np.zeros(episodes, np.int64)
    for first in range(0, episodes, n):
        state, obs = with_cause(reset, jax.random.fold_in(key, first))
        total, length, open_ = np.zeros(n), np.zeros(n, np.int64), np.arange(n) < episodes - first
        for _ in range((env.spec.max_episode_steps or LONGEST_EPISODE) + 1):
            action = policy(np.asarray(obs), deterministic=deterministic, rng=rng) - policy.description.action.start
            state, out = with_cause(step, state, np.asarray(action, env.spec.action_space.dtype))
            obs, counted = out.obs, open_ & np.asarray(out.valid)
            total += np.where(counted, np.asarray(out.reward), 0.0)
            length += counted
            ended = np.flatnonzero(counted & np.asarray(out.terminated | out.truncated))
            returns[first + ended], lengths[first + ended] = total[ended], length[ended]
            open_[ended] = False
            if not open_.any():
                break
    return Played(returns, lengths)


def summary(played: Played, env_id: str, kind: str) -> str:
    """What an evaluation found, in a few lines.

    Raises:
        UserError: No episode found its end.
    """
    done = played.lengths > 0
    returns: Any = played.returns[done]
    if not returns.size:
        raise UserError(f"evaluate: no episode of {env_id} found an end; give the environment a max_episode_steps.")
    extremes = f"least {returns.min():,.1f}, most {returns.max():,.1f}"
    lines = [
        f"{env_id}, {returns.size} {kind} episodes",
        f"  return  {returns.mean():,.1f} ± {returns.std():,.1f}  ({extremes})",
        f"  length  {played.lengths[done].mean():,.1f} steps",
    ]
    if not done.all():
        lines.append(f"  {(~done).sum()} episodes found no end and are left out")
    return "\n".join(lines)
