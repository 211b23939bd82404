"""A trained policy without JAX: NumPy and safetensors only.

policy-gradients train ppo --env CartPole-v1 --run-dir runs/cartpole
python examples/deploy_numpy.py runs/cartpole
"""

import sys

import gymnasium

from policy_gradients import load_policy


def main(run: str, episodes: int = 5) -> list[float]:
    """Plays episodes in Gymnasium's own environment; their returns."""
    policy = load_policy(run)
    env = gymnasium.make(policy.description.environment.id)
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            action = policy(obs)  # in the simulator's own units; the policy normalises the observation
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: deploy_numpy.py RUN")
    print("returns", *main(sys.argv[1]))
    print("JAX in this process:", "jax" in sys.modules)
