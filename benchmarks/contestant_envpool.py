"""EnvPool alone as a contestant: random actions, its own observations, no learning.

Settings: {"env": id, "num_envs", "threads", "batch_size": environments that answer together}. With `batch_size` below
`num_envs` EnvPool is asynchronous: its threads never wait for the slowest environment.
"""

from typing import Any

import numpy as np
from contest import measure_for, serve
from report import versions

BLOCK = 64
"""Batched steps between two looks at the clock."""


def start(settings: dict[str, Any]) -> tuple[dict, dict]:
    """Makes the pool and steps it once through its actions to warm up."""
    import envpool

    n, batch = settings["num_envs"], settings["batch_size"]
    # Humanoid's contact forces, which Gymnasium computes in every step, are an option here
    options = {"post_constraint": True} if settings["env"].startswith("Humanoid-") else {}
    pool = envpool.make_gymnasium(
        settings["env"], num_envs=n, batch_size=batch, num_threads=settings["threads"], seed=0, **options
    )
    low, high = pool.action_space.low, pool.action_space.high
    drawn = np.random.default_rng(1).standard_normal((BLOCK, batch, len(low))).clip(-1, 1)
    actions = (low + (drawn + 1) / 2 * (high - low)).astype(pool.action_space.dtype)
    pool.async_reset()
    waiting = pool.recv()[-1]["env_id"]

    def work() -> int:
        nonlocal waiting
        steps = 0
        for action in actions:
            pool.send(action, waiting)
            info = pool.recv()[-1]
            waiting = info["env_id"]
            steps += np.count_nonzero(info["elapsed_step"])  # 0 in the row that only resets
        return int(steps)

    work()
    return {"versions": versions(("envpool", "numpy"))}, {"measure": lambda seconds: measure_for(seconds, work)}


if __name__ == "__main__":
    serve(start)
