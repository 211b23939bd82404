"""Stable-Baselines3's PPO as a contestant; runs where Stable-Baselines3 is installed and needs nothing of ours.

Settings: {"setting": fields of a PPOSetting, "threads": of PyTorch, "processes": step environments in processes}.
"""

import warnings
from typing import Any

from contest import measure_for, serve
from report import versions


class Trainer:
    """`PPO.learn`, one iteration at a time."""

    def __init__(self, settings: dict[str, Any]) -> None:
        warnings.simplefilter("ignore")  # Gymnasium calls v4 outdated
        import torch
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

        setting = settings["setting"]
        torch.set_num_threads(settings["threads"])
        if settings["processes"]:  # forked: otherwise each of up to 64 processes would import PyTorch anew
            vec = {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": "fork"}}
        else:
            vec = {"vec_env_cls": DummyVecEnv}
        env = make_vec_env(setting["env"], setting["num_envs"], seed=0, **vec)
        if setting["normalize"]:
            env = VecNormalize(env, gamma=setting["gamma"])
        hidden = list(setting["hidden"])
        self._model = PPO(
            "MlpPolicy", env, learning_rate=setting["learning_rate"], n_steps=setting["num_steps"],
            batch_size=setting["minibatch"], n_epochs=setting["num_epochs"], gamma=setting["gamma"],
            gae_lambda=setting["gae_lambda"], seed=0, device="cpu",
            policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": torch.nn.Tanh},
        )  # fmt: skip
        self._per_update = setting["num_envs"] * setting["num_steps"]
        self._return_steps = setting["return_steps"]
        self._noted: dict[str, float | None] = {}

    def iterate(self) -> int:
        """One rollout and its update; returns the environment steps it took."""
        self._model.learn(self._per_update, reset_num_timesteps=False)
        steps = self._model.num_timesteps
        if not self._noted and steps >= self._return_steps:
            episodes = [episode["r"] for episode in self._model.ep_info_buffer]
            self._noted = {"steps": steps, "return": sum(episodes) / len(episodes) if episodes else None}
        return self._per_update

    def measure(self, seconds: float) -> dict[str, float]:
        """Iterations for so many seconds."""
        return measure_for(seconds, self.iterate)

    def reached(self) -> dict[str, float | None]:
        """Mean return of the last 100 training episodes once the stated number of steps is trained."""
        while not self._noted:
            self.iterate()
        return self._noted


def start(settings: dict[str, Any]) -> tuple[dict, dict]:
    """Builds the model and runs one iteration to warm up."""
    trainer = Trainer(settings)
    trainer.iterate()
    used = ("stable_baselines3", "torch", "gymnasium", "mujoco", "numpy")
    facts = {"versions": versions(used), "pytorch_threads": settings["threads"]}
    return facts, {"measure": trainer.measure, "return": trainer.reached}


if __name__ == "__main__":
    serve(start)
