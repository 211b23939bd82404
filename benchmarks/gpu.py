"""How fast and how well the tasks are learnt on one GPU.

    python benchmarks/gpu.py bare     HalfCheetah-v4 --num-envs 8192      the engine alone, random actions, autoreset
    python benchmarks/gpu.py speed    HalfCheetah-v4 [SETTINGS]           whole iterations: acting, physics, learning
    python benchmarks/gpu.py split    HalfCheetah-v4 --seconds 30 [SETTINGS]   where an iteration's time goes
    python benchmarks/gpu.py learn    HalfCheetah-v4 --seconds 60 --marks 20 60 --seed 0 [SETTINGS]
    python benchmarks/gpu.py members  HalfCheetah-v4 --members '[{"seed": 0, "gamma": 0.98}, …]' --mark-steps 20e6
    python benchmarks/gpu.py both     HalfCheetah-v4 --policy FILE --num-envs 200   one policy on Warp and on C
    python benchmarks/gpu.py cartpole --num-envs 262144

Settings are `name=value` pairs of an experiment with dotted paths (`env.num_envs=8192`), laid over the preset for a
GPU. `split` trains for so many seconds and then times, on the states that the policy visits, whole iterations, the
rollout alone, the engine alone under the same actions, and the update alone. `learn` trains for so many seconds and
then plays the policy of each mark on MuJoCo's C engine, 20 deterministic episodes. Compilation and playing are timed
apart. `members` trains several learners in one program, which takes less time than one after another, and plays their
policies of each mark; members differ in their seed and in hyperparameters that are numbers. One JSON line each, to the
screen and to --out.
"""

import argparse
import contextlib
import fcntl
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from settings import read_pairs, tell

from policy_gradients import compilation
from policy_gradients.environments.registry import make
from policy_gradients.estimation.normalization import init_statistics, normalize_obs
from policy_gradients.evaluation.evaluate import make_evaluator
from policy_gradients.training.config import Experiment
from policy_gradients.training.population import Member, course
from policy_gradients.training.preset import compose, merge
from policy_gradients.training.rollout import rollout
from policy_gradients.training.setup import RunState, build, initial_state, make_agent, make_environment
from policy_gradients.types import ActorCritic

EPISODES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bare", "speed", "split", "learn", "members", "both", "cartpole"])
    parser.add_argument("task", nargs="?", default="CartPole-v1")
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--num-envs", type=int, nargs="*", default=[8192])
    parser.add_argument("--steps", type=int, default=32, help="steps in one timed program (bare, cartpole)")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--marks", type=float, nargs="*", default=[])
    parser.add_argument("--members", type=json.loads, default=[], help="JSON: a list of seeds and numbers by name")
    parser.add_argument("--mark-steps", type=float, nargs="*", default=[], help="environment steps of each (members)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None, help="Warp's; cpu tries the script without a GPU")
    parser.add_argument("--label", default="")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument(
        "--lock", type=Path, default=None,
        help="a file that several runs share: one trains at a time, while others compile before it or play after it",
    )  # fmt: skip
    parser.add_argument("--save", type=Path, default=None, help="folder for the last policy's arrays (learn)")
    parser.add_argument("--policy", type=Path, default=None, help="a file that --save wrote (both)")
    options = parser.parse_args()
    runs = [bare, speed, split, learn, members, both, cartpole]
    run = {each.__name__: each for each in runs}[options.what]
    for num_envs in options.num_envs:
        line = {"what": options.what, "task": options.task, "label": options.label, "settings": options.settings}
        line |= circumstances()
        try:
            line |= run(argparse.Namespace(**{**vars(options), "num_envs": num_envs}))
        except Exception as failure:  # said in the file, so that the other runs of a batch are not lost
            line["failure"] = f"{type(failure).__name__}: {failure}"
        tell(line, options.out, hidden=("curve",))


def circumstances() -> dict[str, Any]:
    device = jax.devices()[0]
    return {"device": device.device_kind, "cores": os.cpu_count(), "jax": jax.__version__}


def bare(options: argparse.Namespace) -> dict[str, Any]:
    """Random actions, every observation, reward and reset; nothing is learnt."""
    began = time.perf_counter()
    env = make(options.task, options.num_envs, engine="warp", **_device(options))
    made = time.perf_counter() - began
    shape = (options.num_envs, *env.spec.action_space.shape)

    def one(carry: Any, key: Any) -> Any:
        state, total = carry
        state, out = env.step(state, jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))
        return (state, total + jnp.sum(out.obs) + jnp.sum(out.reward)), jnp.sum(out.terminated)

    def many(key: Any, state: Any) -> Any:
        return jax.lax.scan(one, (state, jnp.float32(0)), jax.random.split(key, options.steps))[0][0]

    state, _ = jax.jit(env.reset)(jax.random.key(options.seed))
    program, compiled = compile_(jax.jit(many, donate_argnums=1), jax.random.key(0), state)
    rate = measure(program, state, options.num_envs * options.steps, options.seconds)
    state = rate.pop("state")
    counted = {name: float(value) for name, value in env.metrics(state).items()}
    return {"num_envs": options.num_envs, "make_s": made, "compile_s": compiled, **rate, **counted}


def cartpole(options: argparse.Namespace) -> dict[str, Any]:
    """The engine in JAX alone, random actions."""
    from policy_gradients.environments.base import Discrete

    env = make(options.task, options.num_envs)
    assert isinstance(env.spec.action_space, Discrete)

    def one(carry: Any, key: Any) -> Any:
        state, total = carry
        state, out = env.step(state, jax.random.randint(key, (options.num_envs,), 0, env.spec.action_space.n))
        return (state, total + jnp.sum(out.obs) + jnp.sum(out.reward)), None

    def many(key: Any, state: Any) -> Any:
        return jax.lax.scan(one, (state, jnp.float32(0)), jax.random.split(key, options.steps))[0][0]

    state, _ = jax.jit(env.reset)(jax.random.key(options.seed))
    program, compiled = compile_(jax.jit(many, donate_argnums=1), jax.random.key(0), state)
    rate = measure(program, state, options.num_envs * options.steps, options.seconds)
    rate.pop("state")
    return {"num_envs": options.num_envs, "compile_s": compiled, **rate}


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Whole iterations with the preset for a GPU."""
    experiment = settings(options)
    began = time.perf_counter()
    parts = build(experiment, make_environment(experiment, experiment.env.num_envs))
    state = initial_state(parts, jax.random.key(options.seed))
    made = time.perf_counter() - began
    program, compiled = compile_(parts.iteration, jax.random.key(0), *state)
    steps = experiment.env.num_envs * experiment.hyperparameters.num_steps
    rate = measure(lambda key, at: RunState(*program(key, *at)[:2]), state, steps, options.seconds)
    rate.pop("state")
    return {**described(experiment), "make_s": made, "compile_s": compiled, **rate}


def split(options: argparse.Namespace) -> dict[str, Any]:
    """The parts of an iteration, in milliseconds, and the share of the engine's own speed that is left of it."""
    experiment = settings(options)
    parts = build(experiment, make_environment(experiment, experiment.env.num_envs))
    state = initial_state(parts, jax.random.key(options.seed))
    program, _ = compile_(parts.iteration, jax.random.key(0), *state)
    config, env = experiment.hyperparameters, parts.env

    def act(key: Any, learner: Any, carry: Any) -> Any:
        return rollout(
            parts.agent, env, config.normalization, config.num_steps, key, learner.params, learner.statistics, carry
        )

    def engine(env_state: Any, actions: Any) -> Any:
        def one(carry: Any, action: Any) -> Any:
            env_state, out = env.step(carry[0], action)
            return (env_state, carry[1] + jnp.sum(out.obs) + jnp.sum(out.reward)), None

        return jax.lax.scan(one, (env_state, jnp.float32(0)), actions)[0]

    key = jax.random.key(1)
    with _alone(options.lock):
        spent, update, whole = 0.0, 0, []
        while spent < options.seconds or len(whole) < 8:
            tick = time.perf_counter()
            learner, carry, metrics = program(jax.random.fold_in(key, update), *state)
            jax.device_get(metrics)
            whole.append(time.perf_counter() - tick)
            state, update, spent = RunState(learner, carry), update + 1, spent + whole[-1]
        _, trajectory = jax.block_until_ready(jax.jit(act)(key, *state))
        times = {
            "engine": timed(engine, state.carry.env_state, trajectory.action),
            "rollout": timed(act, key, *state),
            "update": timed(parts.algorithm.update, key, state.learner, trajectory),
        }
    times["iteration"] = float(np.median(whole[len(whole) // 2 :]))
    steps = experiment.env.num_envs * config.num_steps
    return {
        **described(experiment), "updates": update, "env_steps": update * steps,
        "ms": {name: 1e3 * seconds for name, seconds in times.items()},
        "rate": steps / times["iteration"], "engine_rate": steps / times["engine"],
        "share_of_engine": times["engine"] / times["iteration"],
        "rollout/ep_rew_mean": float(metrics["rollout/ep_rew_mean"]),
    }  # fmt: skip


def timed(function: Callable[..., Any], *args: Any, calls: int = 12) -> float:
    """Median seconds of a call, compiled and run once before."""
    program = jax.jit(function, compiler_options=compilation.for_training())
    jax.block_until_ready(program(*args))
    times = []
    for _ in range(calls):
        tick = time.perf_counter()
        jax.block_until_ready(program(*args))
        times.append(time.perf_counter() - tick)
    return float(np.median(times))


def learn(options: argparse.Namespace) -> dict[str, Any]:
    """Trains for some seconds of wall clock, then plays the policies of the marks on C."""
    experiment = settings(options)
    began = time.perf_counter()
    parts = build(experiment, make_environment(experiment, experiment.env.num_envs))
    init_key, key = jax.random.split(jax.random.key(experiment.seed))
    state = initial_state(parts, init_key)
    made = time.perf_counter() - began
    program, compiled = compile_(parts.iteration, key, *state)
    curve, kept, seconds, update, first = [], [], 0.0, 0, float("nan")
    marks, early = sorted({*options.marks, options.seconds}), {}
    turn = contextlib.ExitStack()
    turn.enter_context(_alone(options.lock))
    while seconds < options.seconds:
        tick = time.perf_counter()
        learner, carry, metrics = program(jax.random.fold_in(key, update), *state)
        numbers = jax.device_get(metrics)
        seconds += time.perf_counter() - tick
        update, state = update + 1, RunState(learner, carry)
        if update == 1:
            first = time.time() - float(os.environ.get("PROCESS_START", "nan"))
        if update == 10:
            early = memory()
        if update % 8 == 0 or seconds >= options.seconds:
            curve.append([round(seconds, 3), int(learner.step), *(round(float(numbers[n]), 4) for n in SHOWN)])
        while marks and seconds >= marks[0]:
            kept.append((marks.pop(0), int(learner.step), jax.device_get((learner.params, learner.statistics))))
    turn.close()
    held = {"updates": update, "update_10": early, "last": memory()}
    played = []
    tick = time.perf_counter()
    for mark, steps, policy in kept:
        returns, lengths = play(experiment, parts.agent, policy, seed=1)
        played.append({"seconds": mark, "env_steps": steps, **summary(returns, lengths)})
    if options.save is not None:
        save(options.save / f"{options.task}-seed{options.seed}.npz", kept[-1][2])
    final = {name: float(value) for name, value in numbers.items() if name.startswith("env/")}
    rate = int(state.learner.step) / seconds
    return {
        **described(experiment), "seed": options.seed, "make_s": made, "compile_s": compiled, "rate": rate,
        "start_s": first, "on_c": played, "play_s": time.perf_counter() - tick, "memory": held, **final,
        "columns": ["seconds", "env_steps", *SHOWN],
        "curve": curve,
    }  # fmt: skip


def members(options: argparse.Namespace) -> dict[str, Any]:
    """Trains several learners in one program to the last mark, then plays the policies of the marks on C."""
    experiment = settings(options)
    env = make_environment(experiment, experiment.env.num_envs)
    agent, config = make_agent(experiment, env.spec), experiment.hyperparameters
    group = [Member({name: x for name, x in each.items() if name != "seed"}, each["seed"]) for each in options.members]
    steps = experiment.env.num_envs * config.num_steps
    marks = sorted({max(1, int(mark // steps)) for mark in options.mark_steps})
    curve, kept = [], []
    began = spent = time.perf_counter()
    with _alone(options.lock):
        for at in course(experiment, group, env, agent, marks[-1]):
            if at.update == 0:
                compiled, began = time.perf_counter() - began, time.perf_counter()
            elif at.update % 16 == 0 or at.update in marks:
                numbers = ([round(float(x), 4) for x in at.metrics[name]] for name in SHOWN)
                curve.append([at.update * steps, round(time.perf_counter() - began, 2), *numbers])
            if at.update in marks:
                kept.append((at.update, jax.device_get((at.learner.params, at.learner.statistics))))
        spent = time.perf_counter() - began
    played = []
    for update, policies in kept:
        for i, member in enumerate(options.members):
            policy = jax.tree.map(lambda x, i=i: x[i], policies)
            played.append({**member, "env_steps": update * steps, **summary(*play(experiment, agent, policy, seed=1))})
    return {
        **described(experiment), "members": options.members, "compile_s": compiled, "seconds": spent,
        "rate": len(group) * marks[-1] * steps / spent, "on_c": played,
        "columns": ["env_steps", "seconds", *SHOWN], "curve": curve,
    }  # fmt: skip


@contextlib.contextmanager
def _alone(lock: Path | None) -> Iterator[None]:
    """No other run that names this lock is here at the same time."""
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def both(options: argparse.Namespace) -> dict[str, Any]:
    """One deterministic episode of a trained policy in each of N worlds, on Warp and on C."""
    experiment = settings(options)
    env = make_environment(experiment, options.num_envs)
    agent, config = make_agent(experiment, env.spec), experiment.hyperparameters.normalization
    blank = (agent.init(jax.random.key(0)), init_statistics(config, agent.obs, options.num_envs))
    saved = np.load(options.policy)
    policy = jax.tree_util.tree_map_with_path(lambda at, leaf: saved.get(jax.tree_util.keystr(at), leaf), blank)
    episodes = make_evaluator(agent, env, config, episodes=1)(jax.random.key(options.seed), *policy, True)
    warp = np.asarray(episodes.returns[:, 0], np.float64)
    c, lengths = play(experiment, agent, policy, options.seed, options.num_envs)
    error = float(np.sqrt(warp.var(ddof=1) / len(warp) + c.var(ddof=1) / len(c)))
    return {
        "episodes": options.num_envs, "warp": summary(warp, episodes.lengths[:, 0]), "c": summary(c, lengths),
        "difference": float(warp.mean() - c.mean()), "interval_95": 1.96 * error,
        "difference_share": float((warp.mean() - c.mean()) / c.mean()),
    }  # fmt: skip


SHOWN = ("rollout/ep_rew_mean", "rollout/ep_len_mean", "train/learning_rate", "train/kl", "train/std")


def settings(options: argparse.Namespace) -> Experiment:
    """The preset for a GPU with the given settings over it."""
    layers = [{"env": {"id": options.task, "engine": "warp", "kwargs": _device(options)}, "seed": options.seed}]
    layers.append(read_pairs(options.settings))
    if options.task.endswith("CartPole-v1"):
        layers[0]["env"] = {"id": options.task}
    return compose(merge(*layers))[0]


def _device(options: argparse.Namespace) -> dict[str, str]:
    return {} if options.device is None else {"device": options.device}


def described(experiment: Experiment) -> dict[str, Any]:
    config = experiment.hyperparameters
    return {
        "num_envs": experiment.env.num_envs, "num_steps": config.num_steps, "num_minibatches": config.num_minibatches,
        "num_epochs": config.num_epochs, "target_kl": config.target_kl, "hidden": list(experiment.network.hidden),
        "log_std_init": experiment.network.log_std_init, "normalization": vars(config.normalization),
    }  # fmt: skip


def compile_(program: Any, *args: Any) -> tuple[Callable[..., Any], float]:
    began = time.perf_counter()
    compiled = program.lower(*args).compile(compiler_options=compilation.for_training())
    return compiled, time.perf_counter() - began


def measure(program: Callable[..., Any], state: Any, steps: int, seconds: float) -> dict[str, Any]:
    """Environment steps per second over about `seconds`, after two calls that are not counted."""
    for i in range(2):
        state = jax.block_until_ready(program(jax.random.key(i), state))
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        tick = time.perf_counter()
        state = jax.block_until_ready(program(jax.random.key(len(times) + 2), state))
        times.append(time.perf_counter() - tick)
    return {
        "state": state, "calls": len(times), "rate": steps * len(times) / sum(times),
        "rate_median": steps / float(np.median(times)), "rate_best": steps / min(times),
    }  # fmt: skip


def memory() -> dict[str, int]:
    """Bytes in use: JAX's and Warp's on the device, and the resident set on the host."""
    import warp

    held = {"host": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")}
    if jax.default_backend() == "gpu":
        gc.collect()
        held["device"] = int((jax.devices()[0].memory_stats() or {}).get("bytes_in_use", 0))
        held["device_warp"] = int(warp.get_mempool_used_mem_current(warp.device_from_jax(jax.devices()[0])))
    return held


def play(
    experiment: Experiment, agent: ActorCritic, policy: Any, seed: int, episodes: int = EPISODES
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of one deterministic episode in each world of MuJoCo's C engine."""
    from policy_gradients.environments.mujoco.batch import MujocoSimulator
    from policy_gradients.environments.mujoco.tasks import load_task

    simulator = MujocoSimulator(load_task(experiment.env.id), episodes)
    config, space = experiment.hyperparameters.normalization, simulator.spec.action_space
    mid, half = (space.low + space.high) / 2, (space.high - space.low) / 2
    squash = np.tanh if experiment.network.distribution == "tanh_normal" else partial(np.clip, a_min=-1.0, a_max=1.0)
    with jax.default_device(jax.devices("cpu")[0]):
        params, statistics = jax.tree.map(jnp.asarray, policy)
        mode = jax.jit(lambda obs: agent.policy(params, normalize_obs(config, statistics, obs)).mode())
        obs, alive = simulator.reset(seed), np.ones(episodes, bool)
        returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
        while alive.any():
            action = np.clip(mid + half * squash(np.asarray(mode(np.array(obs)))), space.low, space.high)
            out = simulator.step(action.astype(np.float32))
            returns += np.where(alive, out.reward, 0.0)
            lengths += alive
            alive &= ~np.asarray(out.terminated | out.truncated)
            obs = out.obs
    simulator.close()
    return returns, lengths


def summary(returns: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    return {
        "return_mean": float(returns.mean()), "return_std": float(returns.std()), "return_min": float(returns.min()),
        "length_mean": float(lengths.mean()), "fell": int((lengths < 1000).sum()),
    }  # fmt: skip


def save(path: Path, policy: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = jax.tree_util.tree_flatten_with_path(policy)[0]
    named = {
        jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves if "value" not in jax.tree_util.keystr(at)
    }
    np.savez(path, **named)


if __name__ == "__main__":
    main()
    os._exit(0)  # JAX 0.11 can hang in its destructors beside Warp
