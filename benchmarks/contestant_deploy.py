"""Stable-Baselines3's `predict`, and its network in plain PyTorch, one observation at a time. Run by deploy.py.

Needs torch and stable-baselines3, not this library: `python contestant_deploy.py '{"obs": [376], ...}'`.
"""

import time

BEGAN = time.time()

import json  # noqa: E402, the clock runs before anything is imported
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402


def percentiles(function: Callable[[], Any], seconds: float) -> list[float]:
    """p50, p99 and p99.9 of one call, in seconds, after a tenth to warm up."""
    import numpy as np

    clock, times = time.perf_counter, []
    start = clock()
    while clock() - start < 1.1 * seconds:
        tick = clock()
        function()
        times.append(clock() - tick)
    return [float(value) for value in np.percentile(times[len(times) // 11 :], (50, 99, 99.9))]


def build(settings: dict[str, Any]) -> Any:
    """An untrained PPO policy of the same shape; its weights do not matter for its speed."""
    import gymnasium
    import numpy as np
    import stable_baselines3
    import torch

    torch.set_num_threads(1)
    pixels = len(settings["obs"]) == 3

    class Nothing(gymnasium.Env):
        if pixels:
            observation_space = gymnasium.spaces.Box(0, 255, settings["obs"], np.uint8)
        else:
            observation_space = gymnasium.spaces.Box(-np.inf, np.inf, settings["obs"], np.float32)
        if settings["discrete"]:
            action_space = gymnasium.spaces.Discrete(settings["actions"])
        else:
            action_space = gymnasium.spaces.Box(-1, 1, (settings["actions"],), np.float32)

        def reset(self, **_: Any) -> Any:
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample(), 0.0, False, False, {}

    options: dict[str, Any] = {"net_arch": settings["hidden"], "activation_fn": torch.nn.Tanh}
    kind = "CnnPolicy" if pixels else "MlpPolicy"
    options = {} if pixels else options
    return stable_baselines3.PPO(kind, Nothing(), policy_kwargs=options, device="cpu")


def main(settings: dict[str, Any]) -> None:
    """Measures and prints JSON."""
    model = build(settings)
    import torch

    obs = model.observation_space.sample()
    model.predict(obs, deterministic=True)
    first_action = time.time() - BEGAN
    status = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
    policy = model.policy
    batch = torch.as_tensor(obs)[None].float()

    def actor() -> Any:
        with torch.no_grad():
            features = policy.extract_features(batch)
            features = features[0] if isinstance(features, tuple) else features
            return policy.action_net(policy.mlp_extractor.forward_actor(features)).numpy()

    seconds = settings["seconds"]
    print(json.dumps({
        "Stable-Baselines3 predict": {
            "latency": percentiles(lambda: model.predict(obs, deterministic=True), seconds),
            "memory": int(status) * 1024, "startup": first_action,
        },
        "PyTorch, the bare network": {"latency": percentiles(actor, seconds)},
    }))  # fmt: skip


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
