"""A Gymnasium environment of your own: a cart on a rail that has to stand at a random mark.

    python examples/custom_gymnasium.py
    cd examples && policy-gradients train ppo --env custom_gymnasium:Parking-v0 --total-steps 2e5

Worker processes import this module by its name and find the id registered.
"""

import math
from typing import Any

import gymnasium
import numpy as np

import policy_gradients as pg


class Parking(gymnasium.Env):
    """Position and velocity of the cart, and the mark; the action is a force. Leaving the rail ends the episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position, self.velocity = 0.0, 0.0
        self.mark = self.np_random.uniform(-1.0, 1.0)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.velocity += 0.1 * float(action[0])
        self.position += 0.1 * self.velocity
        reward = math.exp(-abs(self.position - self.mark))
        terminated = abs(self.position) > 2.0  # an end that belongs to the task; the time limit is registered below
        return self._observe(), reward, terminated, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.position, self.velocity, self.mark], np.float32)


gymnasium.register("Parking-v0", Parking, max_episode_steps=100)


def main(total_steps: int = 200_000, run_dir: str | None = None) -> float:
    """Trains; the return of the final policy, at most 100."""
    run = pg.train(
        "ppo",
        env="custom_gymnasium:Parking-v0",
        total_steps=total_steps,
        run_dir=run_dir,
        evaluation={"num_evaluations": 5},
        video=False,  # this environment cannot render
    )
    return run.result["eval/mean_reward"]


if __name__ == "__main__":
    print(f"return {main():.1f}")
