"""How far our MuJoCo tasks are from Gymnasium's: greatest absolute difference over 200 steps from the same state.

Uses the steppers of tests/parity, so it needs the extra `dev`. Differences are in float64, before observations and
rewards are rounded to float32; half of the actions lie within the bounds, half up to three times beyond them.

    python benchmarks/parity.py
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from contest import ROOT
from report import Report, table, versions

sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "parity")]

STEPS = 200


def differences(env_id: str, seed: int) -> dict[str, float]:
    """Greatest differences in observation and reward, and the number of steps whose termination differs."""
    from test_mujoco_gymnasium import Stepper, gymnasium_env

    from policy_gradients.environments.mujoco.tasks import load_task

    stepper, env = Stepper(load_task(env_id), seed), gymnasium_env(env_id).unwrapped
    env.reset(seed=0)
    env.set_state(stepper.start[0][1], stepper.start[1][1])
    worst = {"obs": float(np.abs(env._get_obs() - stepper.observe()).max()), "reward": 0.0, "terminations": 0}
    rng, space = np.random.default_rng(seed + 1), env.action_space
    for i in range(STEPS):
        scale = 1.0 if i < STEPS // 2 else 3.0
        action = scale * rng.uniform(space.low, space.high, (2, *space.shape)).astype(np.float32)
        obs, reward, terminated, _, _ = env.step(action[1])
        our_obs, our_reward, our_terminated = stepper.step(action)
        worst["obs"] = max(worst["obs"], float(np.abs(obs - our_obs).max()))
        worst["reward"] = max(worst["reward"], abs(float(reward) - float(our_reward)))
        worst["terminations"] += bool(terminated) != our_terminated
    stepper.physics.close()
    env.close()
    return worst


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of first states and actions")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/parity.json"))
    options = parser.parse_args()
    from policy_gradients.environments.mujoco import MUJOCO_IDS

    found = {env_id: differences(env_id, options.seed) for env_id in MUJOCO_IDS}
    settings = {"seed": options.seed, "steps": STEPS}
    Report(options.out, fresh=True).add("parity", settings, {"versions": versions(), "differences": found})
    rows = [(name, f"{w['obs']:.1e}", f"{w['reward']:.1e}", w["terminations"]) for name, w in found.items()]
    print(table((f"over {STEPS} steps", "|Δ observation|", "|Δ reward|", "terminations that differ"), rows))


if __name__ == "__main__":
    main()
