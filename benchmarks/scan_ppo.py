"""PPO on CartPole-v1 beside a minimal PPO in PureJaxRL's scheme: same settings, one process, by turns.

    python benchmarks/scan_ppo.py --num-envs 2048 65536 262144 --out scan_ppo.jsonl      on a GPU, 3 min
    python benchmarks/scan_ppo.py --num-envs 64 256 --updates 100                        tries it on a CPU, 2 min

The scheme is in `scan_trainer.py`: the whole training is one `lax.scan` under one `jit`. It acts on gymnax's CartPole
where gymnax is installed, else on this library's, and takes a time limit for an end. This library runs the program that
`policy-gradients train` runs, on its own CartPole, with all metrics fetched after every call, and values the state at
which a time limit cut. Both have separate networks of tanh layers with orthogonal weights, Adam under a learning rate
that falls linearly, and advantages standardised per minibatch; neither clips values or normalises anything else.

Per number of environments each compiles once and trains once uncounted; then they train in turn, `--repeats` times.
`rate` is environment steps per second of a whole training, without compilation and evaluation. `compile_s` is from
nothing to the first update: tracing, compiling and the initial state. `return` is of 128 deterministic episodes on this
library's CartPole, `return_stochastic` of 128 sampled ones, by one evaluator. One JSON line per training and one with
the ratios of neighbours (this library's rate over the scheme's), to the screen and to --out.
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import scan_trainer
from report import paired_ratio
from scan_trainer import ADAM_EPS, MAX_GRAD_NORM, TASK
from settings import tell

from policy_gradients.distributions import Categorical
from policy_gradients.environments.classic import TASKS
from policy_gradients.environments.registry import make
from policy_gradients.estimation.normalization import NormalizationConfig, init_statistics
from policy_gradients.evaluation.evaluate import eval_metrics, make_evaluator
from policy_gradients.training.config import parse_experiment
from policy_gradients.training.program import Program
from policy_gradients.training.setup import build, initial_state, make_environment
from policy_gradients.types import ActorCritic

EPISODES = 128  # deterministic ones, and as many sampled ones
RAW = NormalizationConfig(obs=False, reward=False)
OBS = jax.ShapeDtypeStruct(TASKS[TASK].obs_space.shape, jnp.float32)


class Contestant(NamedTuple):
    """One that trains: `begin(seed)` gives a first state, `train(seed, state)` the parameters when all is done."""

    compile_s: float
    begin: Callable[[int], Any]
    train: Callable[[int, Any], Any]
    agent: ActorCritic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[2048, 65536, 262144])
    parser.add_argument("--steps", type=int, default=32, help="T, steps of an environment in an update")
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--learning-rate", type=float, default=2.5e-3, help="at the start")
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--clip-eps", type=float, default=0.2)
    parser.add_argument("--value-coef", type=float, default=0.5, help="of half the squared error")
    parser.add_argument("--entropy-coef", type=float, default=0.01)
    parser.add_argument(
        "--scan-env", choices=["auto", "gymnax", "classic"], default="auto", help="the scheme's CartPole"
    )
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.scan_env == "auto":
        options.scan_env = "gymnax" if importlib.util.find_spec("gymnax") else "classic"
    for num_envs in options.num_envs:
        at = argparse.Namespace(**{**vars(options), "num_envs": num_envs})
        try:
            compare(at)
        except Exception as failure:  # said in the file, so that the other sizes are not lost
            tell({**circumstances(at), "failure": f"{type(failure).__name__}: {failure}"}, options.out)


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "repeats")}
    device = jax.devices()[0].device_kind
    return {"task": TASK, "device": device, "cores": os.cpu_count(), "jax": jax.__version__, **settings}


def compare(options: argparse.Namespace) -> None:
    """Both at one number of environments."""
    make(TASK, 1)  # imports and the device's start count for nobody
    jax.block_until_ready(jnp.zeros(1) + 1)
    steps = options.num_envs * options.steps * options.updates
    contestants = {"scan": scan(options), "policy_gradients": ours(options)}
    judges = {who: judge(contestant.agent) for who, contestant in contestants.items()}
    rates: dict[str, list[float]] = {who: [] for who in contestants}
    for seed in range(-1, options.repeats):
        for who, contestant in contestants.items():
            state = jax.block_until_ready(contestant.begin(seed + 1))
            tick = time.perf_counter()
            params = jax.block_until_ready(contestant.train(seed + 1, state))
            seconds = time.perf_counter() - tick
            if seed < 0:
                continue
            rates[who].append(steps / seconds)
            line = {"who": who, "seed": seed, "env_steps": steps, "seconds": seconds, "rate": rates[who][-1]}
            line |= {"compile_s": contestant.compile_s, **judges[who](seed, params)}
            tell({**line, **circumstances(options)}, options.out)
    ratio = paired_ratio(rates["policy_gradients"], rates["scan"])
    tell({"who": "ratio", **ratio, **circumstances(options)}, options.out)


def judge(agent: ActorCritic) -> Callable[[int, Any], dict[str, float]]:
    """Mean returns of whole episodes under an agent's parameters."""
    evaluate = make_evaluator(agent, make(TASK, 2 * EPISODES), RAW, episodes=1)
    deterministic = jnp.arange(2 * EPISODES) < EPISODES
    statistics = init_statistics(RAW, OBS, 1)

    def returns(seed: int, params: Any) -> dict[str, float]:
        found = eval_metrics(evaluate(jax.random.key(1000 + seed), params, statistics, deterministic), deterministic)
        return {"return": found["eval/mean_reward"], "return_stochastic": found["eval/stochastic_mean_reward"]}

    return returns


def ours(options: argparse.Namespace) -> Contestant:
    """This library: the program that `policy-gradients train` runs."""
    began = time.perf_counter()
    per_update = options.num_envs * options.steps
    experiment = parse_experiment(
        {
            "algorithm": "ppo",
            "env": {"id": TASK, "num_envs": options.num_envs},
            "hyperparameters": {
                "num_steps": options.steps, "num_epochs": options.epochs, "num_minibatches": options.minibatches,
                "learning_rate": options.learning_rate, "lr_schedule": "linear", "gamma": options.gamma,
                "gae_lambda": options.gae_lambda, "clip_eps": options.clip_eps, "value_coef": options.value_coef,
                "entropy_coef": options.entropy_coef, "max_grad_norm": MAX_GRAD_NORM, "adam_eps": ADAM_EPS,
                "advantages": "minibatch", "normalization": {"obs": RAW.obs, "reward": RAW.reward},
            },
            "network": {"hidden": options.hidden, "activation": "tanh"},
            "total_steps": per_update * options.updates,
        }
    )  # fmt: skip
    parts = build(experiment, make_environment(experiment, options.num_envs))
    begin = lambda seed: initial_state(parts, jax.random.key(seed))  # noqa: E731
    program = Program(parts, per_update, jax.random.key(0), begin(0))
    compiled = time.perf_counter() - began

    def train(seed: int, state: Any) -> Any:
        update, end = seed * options.updates, (seed + 1) * options.updates  # every run draws from numbers of its own
        while update < end:
            count = min(program.suggested, end - update)
            state, _ = program(state, update, count)
            update += count
        return state.learner.params

    return Contestant(compiled, begin, train, parts.agent)


def scan(options: argparse.Namespace) -> Contestant:
    """The scheme, compiled."""
    copy = scan_trainer.gymnax_copy() if options.scan_env == "gymnax" else scan_trainer.classic_copy()
    began = time.perf_counter()
    start = jax.jit(partial(scan_trainer.begin, options, copy)).lower(jax.random.key(0)).compile()
    state = jax.block_until_ready(start(jax.random.key(0)))
    whole = jax.jit(partial(scan_trainer.train, options, copy)).lower(jax.random.key(0), state).compile()
    compiled = time.perf_counter() - began

    def begin(seed: int) -> Any:
        return start(jax.random.fold_in(jax.random.key(seed), 0))

    def train(seed: int, state: Any) -> Any:
        return whole(jax.random.fold_in(jax.random.key(seed), 1), state)[0]

    return Contestant(compiled, begin, train, scan_agent(options))


def scan_agent(options: argparse.Namespace) -> ActorCritic:
    """The scheme's networks for the evaluator."""
    return ActorCritic(
        OBS,
        partial(scan_trainer.init_networks, options.hidden),
        lambda params, obs: Categorical(scan_trainer.forward(params["actor"], obs)),
        scan_trainer.critic,
    )


if __name__ == "__main__":
    main()
