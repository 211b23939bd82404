"""What the presets learn on classic control in JAX: every algorithm, five seeds in one compiled program each.

The seeds of a setting learn side by side (`jax.vmap` over the whole run), so that all of this takes minutes. Each seed
is judged by 100 deterministic episodes with a frozen normaliser.

    python benchmarks/classic.py
    python benchmarks/classic.py --only a2c:CartPole-v1 ppo:Pendulum-v1
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contest import ROOT, end_cleanly_on_sigterm
from report import Report, table, versions

sys.path.insert(0, str(ROOT / "src"))

SEEDS, EPISODES = (0, 1, 2, 3, 4), 100
FIRST_EVALUATION_SEED = 1_000_000
FOUR = ("a2c", "trpo", "ppo", "vmpo")
BASELINES = ("mean", "value")  # of REINFORCE
RUNS: list[tuple[str, str, int, str | None]] = [
    *((name, env, 300_000, None) for env in ("CartPole-v1", "Acrobot-v1") for name in FOUR),
    *(("reinforce", env, 500_000, baseline) for env in ("CartPole-v1", "Acrobot-v1") for baseline in BASELINES),
    ("ppo", "Pendulum-v1", 100_000, None),
    ("ppo", "MountainCarContinuous-v0", 300_000, None),
    ("ppo", "MountainCar-v0", 1_000_000, None),
]
"""Algorithm, environment, steps, and REINFORCE's baseline."""
SETTINGS = {
    f"{name}{'+' + baseline if baseline else ''}:{env}": (name, env, steps, baseline)
    for name, env, steps, baseline in RUNS
}


def learn(algorithm: str, env_id: str, steps: int, baseline: str | None) -> dict[str, Any]:
    """Scores of every seed, and the training return along the run."""
    from policy_gradients.evaluation.evaluate import make_evaluator
    from policy_gradients.training.config import config_hash
    from policy_gradients.training.preset import compose
    from policy_gradients.training.rollout import init_carry
    from policy_gradients.training.setup import build, make_environment

    changes = {"hyperparameters": {"baseline": baseline}} if baseline else {}
    experiment, preset = compose({"algorithm": algorithm, "env": {"id": env_id}, "total_steps": steps}, changes)
    env = make_environment(experiment, experiment.env.num_envs)
    parts = build(experiment, env)
    updates = -(-steps // (experiment.env.num_envs * experiment.hyperparameters.num_steps))

    def run(key: jax.Array) -> tuple[Any, jax.Array]:
        learner_key, env_key, update_key = jax.random.split(key, 3)

        def update(state: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            learner, carry, metrics = parts.iteration(jax.random.fold_in(update_key, index), *state)
            return (learner, carry), metrics["rollout/ep_rew_mean"]

        start = parts.algorithm.init(learner_key), init_carry(env, env_key)
        (learner, _), curve = jax.lax.scan(update, start, jnp.arange(updates))
        return learner, curve

    tick = time.perf_counter()
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    learners, curves = jax.block_until_ready(jax.jit(jax.vmap(run))(keys))
    seconds = time.perf_counter() - tick
    judge = make_evaluator(
        parts.agent, make_environment(experiment, EPISODES, evaluation=True),
        experiment.hyperparameters.normalization, episodes=1,
    )  # fmt: skip
    scores = []
    for index, seed in enumerate(SEEDS):
        learner = jax.tree.map(lambda leaf, index=index: leaf[index], learners)
        episodes = judge(
            jax.random.key(FIRST_EVALUATION_SEED + seed), learner.params, learner.statistics, deterministic=True
        )
        scores.append(float(np.mean(episodes.returns)))
    thinned = np.asarray(curves)[:, np.linspace(0, updates - 1, min(updates, 50)).astype(int)]
    return {
        "scores": scores,
        "median": statistics.median(scores),
        "training_return": [[None if np.isnan(x) else round(float(x), 2) for x in curve] for curve in thinned],
        "wall_seconds_with_compilation": seconds,
        "preset": preset and preset.name,
        "config_hash": config_hash(experiment),
        "versions": versions(),
    }


def main(options: argparse.Namespace) -> int:
    """Measures what is not measured yet, and prints the table."""
    report, rows = Report(options.out, options.fresh), []
    for name in options.only:
        algorithm, env_id, steps, baseline = SETTINGS[name]
        settings = {"algorithm": algorithm, "env": env_id, "steps": steps, "baseline": baseline, "seeds": SEEDS}
        found = report.find(name, settings) or report.add(name, settings, learn(algorithm, env_id, steps, baseline))
        scores = " ".join(f"{score:.0f}" for score in found["scores"])
        rows.append((name.replace(":", ", "), f"{steps:,}", f"{found['median']:.0f}", scores))
        print(rows[-1], file=sys.stderr, flush=True)
    print(table(("", "steps", "median", "seeds 0–4"), rows))
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/classic.json"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the file holds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main(parse()))
