"""PPO and A2C of Stable-Baselines3, or TRPO of sb3-contrib, as a contestant; needs nothing of ours where it runs.

Settings: {"setting": fields of a Setting, "threads": of PyTorch, "processes": step environments in processes}.
"""

import warnings
from typing import Any

from contest import measure_for, serve
from report import versions


class Trainer:
    """`learn`, some iterations at a time."""

    def __init__(self, settings: dict[str, Any]) -> None:
        warnings.simplefilter("ignore")  # Gymnasium calls v4 outdated
        import torch
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
        self._model = _model(setting, env)
        batch = setting["num_envs"] * setting["num_steps"]
        self._per_call = batch * max(1, 2048 // batch)  # a call of `learn` sets up more than a small batch takes
        self._return_steps = setting["return_steps"]
        self._noted: dict[str, float | None] = {}

    def iterate(self) -> int:
        """A call of `learn`; returns the environment steps it took."""
        self._model.learn(self._per_call, reset_num_timesteps=False)
        steps = self._model.num_timesteps
        if not self._noted and steps >= self._return_steps:
            episodes = [episode["r"] for episode in self._model.ep_info_buffer]
            self._noted = {"steps": steps, "return": sum(episodes) / len(episodes) if episodes else None}
        return self._per_call

    def measure(self, seconds: float) -> dict[str, float]:
        """Iterations for so many seconds."""
        return measure_for(seconds, self.iterate)

    def reached(self) -> dict[str, float | None]:
        """Mean return of the last 100 training episodes once the stated number of steps is trained."""
        while not self._noted:
            self.iterate()
        return self._noted


def _model(setting: dict[str, Any], env: Any) -> Any:
    import torch

    hidden = list(setting["hidden"])
    common = {
        "learning_rate": setting["learning_rate"], "n_steps": setting["num_steps"], "gamma": setting["gamma"],
        "gae_lambda": setting["gae_lambda"], "seed": 0, "device": "cpu",
        "policy_kwargs": {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": torch.nn.Tanh},
    }  # fmt: skip
    if setting["algorithm"] == "a2c":
        from stable_baselines3 import A2C

        return A2C("MlpPolicy", env, **common)
    if setting["algorithm"] == "trpo":
        from sb3_contrib import TRPO

        epochs, batch = setting["num_epochs"], setting["minibatch"]
        return TRPO("MlpPolicy", env, n_critic_updates=epochs, batch_size=batch, **common)
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", env, n_epochs=setting["num_epochs"], batch_size=setting["minibatch"], **common)


def start(settings: dict[str, Any]) -> tuple[dict, dict]:
    """Builds the model and runs one iteration to warm up."""
    trainer = Trainer(settings)
    trainer.iterate()
    used = ("stable_baselines3", "torch", "gymnasium", "mujoco", "numpy")
    facts = {"versions": versions(used), "pytorch_threads": settings["threads"]}
    return facts, {"measure": trainer.measure, "return": trainer.reached}


if __name__ == "__main__":
    serve(start)
