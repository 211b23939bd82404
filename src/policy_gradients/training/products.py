"""What a run leaves behind: evaluations, the policy bundle, the learning curve and the film."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import jax
import numpy as np

from policy_gradients.environments.base import Environment, EnvironmentSpec
from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import Statistics, init_statistics
from policy_gradients.evaluation.evaluate import Evaluator, eval_metrics, make_evaluator
from policy_gradients.training.config import Experiment, config_hash
from policy_gradients.training.devices import on_one_device
from policy_gradients.training.progress import Progress
from policy_gradients.types import ActorCritic, Key, LearnerState, Params


class Evaluation(NamedTuple):
    """Periodic evaluation: one episode in each of its own environments, some deterministic and some sampled."""

    env: Environment
    deterministic: np.ndarray  # bool [N]
    run: Evaluator

    @classmethod
    def build(cls, experiment: Experiment, agent: ActorCritic, make_env: Callable[[int], Environment]) -> Self:
        """Environments of its own and one compiled program for all evaluations of a run."""
        config = experiment.evaluation
        num_envs = config.episodes + config.stochastic_episodes
        env = make_env(num_envs)
        run = make_evaluator(agent, env, experiment.hyperparameters.normalization, episodes=1)
        return cls(env, np.arange(num_envs) < config.episodes, run)

    def __call__(self, key: Key, params: Params, statistics: Statistics) -> dict[str, float]:
        """`eval/…` metrics under frozen statistics; the parameters may lie on several devices, evaluations use one."""
        params, statistics = on_one_device((params, statistics))
        return eval_metrics(self.run(key, params, statistics, self.deterministic), self.deterministic)


def check_describable(experiment: Experiment, agent: ActorCritic, spec: EnvironmentSpec) -> None:
    """Refuses, before it is trained in, an environment that no policy bundle could describe.

    Raises:
        UserError: What its spec says makes no sense (a step of no time, names for other coordinates).
    """
    from policy_gradients.deployment.agent import describe_agent
    from policy_gradients.deployment.description import parse_description

    normalization = experiment.hyperparameters.normalization
    statistics = jax.eval_shape(partial(init_statistics, normalization, agent.obs, spec.num_envs))
    try:
        parse_description(describe_agent(spec, experiment.network, normalization, statistics, {}))
    except UserError as error:
        raise UserError(f"{spec.id}: no policy could be written for this environment. {error}") from None


def write_policy(
    experiment: Experiment, folder: Path, spec: EnvironmentSpec, learner: LearnerState, metrics: Mapping[str, float]
) -> None:
    """The policy as a bundle that acts without JAX."""
    from policy_gradients.deployment.bundle import write_bundle

    provenance = {
        "algorithm": experiment.algorithm,
        "seed": experiment.seed,
        "total_timesteps": int(learner.step),
        "mean_reward": metrics.get("eval/mean_reward"),
        "config_hash": config_hash(experiment),
    }
    write_bundle(
        folder, spec=spec, network=experiment.network, normalization=experiment.hyperparameters.normalization,
        params=jax.device_get(learner.params), statistics=jax.device_get(learner.statistics), provenance=provenance,
    )  # fmt: skip


def make_curve(runs: Sequence[Path], picture: Path, progress: Progress) -> None:
    """The learning curve of runs; one that cannot be drawn is skipped with a sentence."""
    from policy_gradients.evaluation.plots import plot_runs

    try:
        plot_runs(runs, picture)
        progress.message(f"Learning curve: {picture}")
    except UserError as error:
        progress.message(f"No learning curve: {error}")


def make_pictures(experiment: Experiment, run: Path, progress: Progress, *, film: bool) -> None:
    """curve.png and, if asked for, video.mp4; one that cannot be made is skipped with a sentence: the run succeeded."""
    make_curve([run], run / "curve.png", progress)
    if film:
        make_film(experiment, run, progress)


def lacks_film(run: Path) -> bool:
    """Whether a run has no film of its policy: none, or only one of an earlier end that was gone beyond."""
    film, policy = run / "video.mp4", run / "policy" / "policy.json"
    return not film.is_file() or film.stat().st_mtime < policy.stat().st_mtime


def make_film(experiment: Experiment, run: Path, progress: Progress) -> None:
    """video.mp4, of a run's last policy; one that cannot be made is skipped with a sentence."""
    from policy_gradients.deployment.numpy_policy import load_policy
    from policy_gradients.evaluation.video import record_video

    try:
        policy, env = load_policy(run / "policy"), experiment.env
        record_video(
            policy, env.id, run / "video.mp4", seed=experiment.seed, frame_stack=env.frame_stack, env_options=env.kwargs
        )
        progress.message(f"Film: {run / 'video.mp4'}")
    except UserError as error:
        progress.message(f"No film: {error}")
