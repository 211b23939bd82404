"""Settings that every library is given alike."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A task and the settings of an algorithm on it.

    Attributes:
        env: Gymnasium's id.
        num_envs, num_steps: N and T of a rollout.
        minibatch: Samples per gradient step (TRPO: of the critic; A2C: the whole rollout).
        num_epochs: Passes over a rollout (TRPO: of the critic; A2C: one).
        hidden: Widths of the hidden layers, of policy and critic alike; both are separate and use tanh.
        learning_rate, gamma, gae_lambda: As everywhere.
        normalize: Observations and rewards by their running statistics.
        return_steps: Environment steps after which the return is stated.
        algorithm: "ppo", "trpo" or "a2c".
    """

    env: str
    num_envs: int
    num_steps: int
    minibatch: int
    num_epochs: int
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    normalize: bool = True
    return_steps: int = 300_000
    algorithm: str = "ppo"

    @property
    def label(self) -> str:
        """'HalfCheetah-v4, 8 × 256 steps, minibatch 64, 10 epochs, 64-64'."""
        net = "-".join(map(str, self.hidden))
        name = "" if self.algorithm == "ppo" else f"{self.algorithm.upper()}, "
        return (
            f"{name}{self.env}, {self.num_envs:,} × {self.num_steps} steps, minibatch {self.minibatch:,}, "
            f"{self.num_epochs} epoch{'s' * (self.num_epochs > 1)}, {net}"
        )

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    def experiment(self) -> dict[str, Any]:
        """The setting as an `Experiment` in plain data.

        Our critic's loss has a ½ that Stable-Baselines3's has not: value_coef 1 here is 0.5 there.
        """
        common = {
            "num_steps": self.num_steps,
            "learning_rate": self.learning_rate,
            "lr_schedule": "constant",
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "normalization": {"obs": self.normalize, "reward": self.normalize},
        }
        minibatches = self.num_envs * self.num_steps // self.minibatch
        own = {
            "ppo": {"num_minibatches": minibatches, "num_epochs": self.num_epochs, "value_coef": 1.0},
            "trpo": {"num_minibatches": minibatches, "value_epochs": self.num_epochs, "cg_iterations": 15},
            "a2c": {"value_coef": 1.0},
        }
        hyperparameters = {**common, **own[self.algorithm]}
        return {
            "algorithm": self.algorithm,
            "env": {"id": self.env, "num_envs": self.num_envs},
            "hyperparameters": hyperparameters,
            "network": {"hidden": list(self.hidden), "activation": "tanh"},
        }


def read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs with dotted paths (`env.num_envs=64`) as a layer of an experiment; lists, flags as JSON."""
    layer: dict[str, Any] = {}
    for pair in pairs:
        path, _, value = pair.partition("=")
        *parents, name = path.split(".")
        at = layer
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = json.loads(value) if value[:1] in "[{" or value in ("true", "false") else value
    return layer


def tell(line: dict[str, Any], out: Path | None, hidden: tuple[str, ...] = ()) -> None:
    """A result as a line of JSON: on the screen without what is hidden, and whole at the end of a file."""
    print(json.dumps({name: value for name, value in line.items() if name not in hidden}), flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
