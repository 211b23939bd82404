"""On-policy policy gradients in JAX: one compiled program per training iteration, for every kind of environment.

Names are imported when they are first used, so `import policy_gradients` costs milliseconds and `load_policy` never
brings JAX into the process.
"""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # which type checkers take for true; importing it from `typing` would double the import's time

_HOMES = {
    "policy_gradients.algorithms": (
        "A2CConfig",
        "PPOConfig",
        "REINFORCEConfig",
        "TRPOConfig",
        "VMPOConfig",
        "a2c",
        "ppo",
        "reinforce",
        "trpo",
        "vmpo",
    ),
    "policy_gradients.deployment.numpy_policy": ("load_policy",),
    "policy_gradients.distributions": ("Categorical", "Normal", "TanhNormal"),
    "policy_gradients.environments.base": ("Environment", "EnvironmentFailure", "EnvironmentSpec", "Step"),
    "policy_gradients.environments.registry": ("make",),
    "policy_gradients.errors": ("UserError",),
    "policy_gradients.estimation.advantages": ("gae",),
    "policy_gradients.estimation.normalization": ("NormalizationConfig",),
    "policy_gradients.evaluation.plots": ("plot_runs",),
    "policy_gradients.evaluation.video": ("record_video",),
    "policy_gradients.networks": ("NetworkConfig", "actor_critic"),
    "policy_gradients.training.api": ("train", "train_seeds"),
    "policy_gradients.training.config": (
        "CheckpointConfig",
        "EnvironmentConfig",
        "EvaluationConfig",
        "Experiment",
        "LoggingConfig",
        "load_experiment",
    ),
    "policy_gradients.training.loop": ("resume",),
    "policy_gradients.training.seeds": ("SeedRuns",),
    "policy_gradients.training.session": ("Run", "TrainingDiverged"),
    "policy_gradients.types": ("ActorCritic", "Algorithm", "LearnerState", "Transition"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from policy_gradients.algorithms import A2CConfig as A2CConfig
    from policy_gradients.algorithms import PPOConfig as PPOConfig
    from policy_gradients.algorithms import REINFORCEConfig as REINFORCEConfig
    from policy_gradients.algorithms import TRPOConfig as TRPOConfig
    from policy_gradients.algorithms import VMPOConfig as VMPOConfig
    from policy_gradients.algorithms import a2c as a2c
    from policy_gradients.algorithms import ppo as ppo
    from policy_gradients.algorithms import reinforce as reinforce
    from policy_gradients.algorithms import trpo as trpo
    from policy_gradients.algorithms import vmpo as vmpo
    from policy_gradients.deployment.numpy_policy import load_policy as load_policy
    from policy_gradients.distributions import Categorical as Categorical
    from policy_gradients.distributions import Normal as Normal
    from policy_gradients.distributions import TanhNormal as TanhNormal
    from policy_gradients.environments.base import Environment as Environment
    from policy_gradients.environments.base import EnvironmentFailure as EnvironmentFailure
    from policy_gradients.environments.base import EnvironmentSpec as EnvironmentSpec
    from policy_gradients.environments.base import Step as Step
    from policy_gradients.environments.registry import make as make
    from policy_gradients.errors import UserError as UserError
    from policy_gradients.estimation.advantages import gae as gae
    from policy_gradients.estimation.normalization import NormalizationConfig as NormalizationConfig
    from policy_gradients.evaluation.plots import plot_runs as plot_runs
    from policy_gradients.evaluation.video import record_video as record_video
    from policy_gradients.networks import NetworkConfig as NetworkConfig
    from policy_gradients.networks import actor_critic as actor_critic
    from policy_gradients.training.api import train as train
    from policy_gradients.training.api import train_seeds as train_seeds
    from policy_gradients.training.config import CheckpointConfig as CheckpointConfig
    from policy_gradients.training.config import EnvironmentConfig as EnvironmentConfig
    from policy_gradients.training.config import EvaluationConfig as EvaluationConfig
    from policy_gradients.training.config import Experiment as Experiment
    from policy_gradients.training.config import LoggingConfig as LoggingConfig
    from policy_gradients.training.config import load_experiment as load_experiment
    from policy_gradients.training.loop import resume as resume
    from policy_gradients.training.seeds import SeedRuns as SeedRuns
    from policy_gradients.training.session import Run as Run
    from policy_gradients.training.session import TrainingDiverged as TrainingDiverged
    from policy_gradients.types import ActorCritic as ActorCritic
    from policy_gradients.types import Algorithm as Algorithm
    from policy_gradients.types import LearnerState as LearnerState
    from policy_gradients.types import Transition as Transition

else:  # hidden from type checkers, so that they see a misspelt name

    def __getattr__(name: str) -> object:
        """Imports a public name on first use (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


__all__ = [
    "A2CConfig",
    "ActorCritic",
    "Algorithm",
    "Categorical",
    "CheckpointConfig",
    "Environment",
    "EnvironmentConfig",
    "EnvironmentFailure",
    "EnvironmentSpec",
    "EvaluationConfig",
    "Experiment",
    "LearnerState",
    "LoggingConfig",
    "NetworkConfig",
    "Normal",
    "NormalizationConfig",
    "PPOConfig",
    "REINFORCEConfig",
    "Run",
    "SeedRuns",
    "Step",
    "TRPOConfig",
    "TanhNormal",
    "TrainingDiverged",
    "Transition",
    "UserError",
    "VMPOConfig",
    "__version__",
    "a2c",
    "actor_critic",
    "gae",
    "load_experiment",
    "load_policy",
    "make",
    "plot_runs",
    "ppo",
    "record_video",
    "reinforce",
    "resume",
    "train",
    "train_seeds",
    "trpo",
    "vmpo",
]


def __dir__() -> list[str]:
    return [*__all__]
