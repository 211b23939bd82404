"""PPO of Brax and of this library on one Brax environment: same networks, batch, epochs and learning rate, one process.

    python benchmarks/brax_ppo.py --env ant --backend spring --steps 20000000 --out benchmarks/results/brax_ppo.json

The settings are those that Brax's own notebook has for ant; its critic's loss is ¼⟨(V − R̂)²⟩, value_coef 0.5 here, and
its noise starts at softplus(0). One is free: Brax collects a batch in pieces of `--piece` steps, five in its notebook,
and estimates advantages in each; this library's have the length of the batch, eighty. Steps per second are of whole
iterations, without compilation and evaluations; returns are of 128 deterministic episodes. The two train in turn,
`--repeats` times.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EPISODES = 128
LOG_STD = -0.366  # log of Brax's softplus(0) + 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="ant")
    parser.add_argument("--backend", default="spring")
    parser.add_argument("--num-envs", type=int, default=4096)
    parser.add_argument("--num-steps", type=int, default=80, help="steps of an environment in an update")
    parser.add_argument("--piece", type=int, default=80, help="Brax's unroll length; 5 in its notebook")
    parser.add_argument("--minibatches", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    device = jax.devices()[0].device_kind
    lines: list[dict[str, Any]] = []
    for seed in range(options.repeats):
        for who, train in (("brax", brax), ("policy_gradients", ours)):
            line = {"who": who, "seed": seed, "device": device, "jax": jax.__version__, **train(options, seed)}
            print(json.dumps(line), flush=True)
            lines.append(line)
    if options.out is not None:
        options.out.write_text(json.dumps({"options": {**vars(options), "out": None}, "runs": lines}, indent=1) + "\n")


def brax(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Brax's trainer; its steps per second are those that it reports of its last stretch between two evaluations."""
    from brax import envs
    from brax.training.agents.ppo import train

    if not hasattr(jax, "device_put_replicated"):  # which newer versions of JAX have dropped, and Brax 0.14 calls
        jax.device_put_replicated = lambda tree, devices: jax.tree.map(lambda x: jnp.stack([x] * len(devices)), tree)
    told: list[dict[str, Any]] = []
    pieces = options.num_envs * options.num_steps // options.piece
    train.train(
        environment=envs.get_environment(options.env, backend=options.backend),
        num_timesteps=options.steps, num_evals=3, num_eval_envs=EPISODES, deterministic_eval=True, reward_scaling=10,
        episode_length=1000, normalize_observations=True, unroll_length=options.piece,
        num_minibatches=options.minibatches, batch_size=pieces // options.minibatches, num_envs=options.num_envs,
        num_updates_per_batch=options.epochs, discounting=0.97, learning_rate=3e-4, entropy_cost=1e-2,
        seed=seed, progress_fn=lambda steps, metrics: told.append({"steps": int(steps), **metrics}),
    )  # fmt: skip
    last = told[-1]
    return {
        "rate": float(last["training/sps"]), "env_steps": last["steps"], "return": float(last["eval/episode_reward"]),
        "return_std": float(last["eval/episode_reward_std"]),
    }  # fmt: skip


def ours(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The program that `policy-gradients train` runs."""
    from policy_gradients.evaluation.evaluate import make_evaluator
    from policy_gradients.training.config import parse_experiment
    from policy_gradients.training.program import Program
    from policy_gradients.training.setup import build, initial_state, make_environment

    per_update = options.num_envs * options.num_steps
    experiment = parse_experiment(
        {
            "algorithm": "ppo",
            "env": {
                "id": f"brax:{options.env}", "num_envs": options.num_envs, "kwargs": {"backend": options.backend},
            },
            "hyperparameters": {
                "num_steps": options.num_steps, "num_epochs": options.epochs, "num_minibatches": options.minibatches,
                "learning_rate": 3e-4, "lr_schedule": "constant", "gamma": 0.97, "gae_lambda": 0.95, "clip_eps": 0.3,
                "entropy_coef": 1e-2, "value_coef": 0.5, "max_grad_norm": 1e9, "advantages": "minibatch",
                "normalization": {"reward": False, "reward_scale": 10.0},
            },
            "network": {
                "hidden": [32] * 4, "value_hidden": [256] * 5, "activation": "swish", "distribution": "tanh_normal",
                "state_dependent_std": True, "log_std_init": LOG_STD,
            },
            "total_steps": options.steps, "seed": seed,
        }
    )  # fmt: skip
    env = make_environment(experiment, options.num_envs)
    parts = build(experiment, env)
    state = initial_state(parts, jax.random.key(seed))
    program = Program(parts, per_update, jax.random.key(seed), state)
    times: list[float] = []
    updates = -(-options.steps // per_update)
    for update in range(updates):
        tick = time.perf_counter()
        state, _ = program(state, update, 1)
        times.append(time.perf_counter() - tick)
    judges = make_environment(experiment, EPISODES, evaluation=True)
    evaluate = make_evaluator(parts.agent, judges, experiment.hyperparameters.normalization, episodes=1)
    returns = np.asarray(evaluate(jax.random.key(seed + 1000), state.learner.params, state.learner.statistics, True)[0])
    half = times[len(times) // 2 :]  # as Brax: the second of two stretches
    return {
        "rate": per_update * len(half) / sum(half), "env_steps": int(state.learner.step),
        "compile_s": program.compile_seconds, "return": float(returns.mean()), "return_std": float(returns.std()),
    }  # fmt: skip


if __name__ == "__main__":
    main()
