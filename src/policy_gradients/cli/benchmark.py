"""`policy-gradients benchmark`: how fast the simulator, acting, and a whole iteration are here; or one action."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from policy_gradients.cli.runtime import check_back_end, start_jax
from policy_gradients.errors import UserError, suggest

if TYPE_CHECKING:
    from policy_gradients.training.config import Experiment
    from policy_gradients.training.setup import Parts

OPTIONS = ("--config", "--preset", "--seconds")
SECONDS = 5.0
"""How long each part is timed: enough for a median over tens of iterations of the usual sizes."""

KINDS = ("throughput", "latency")

USAGE = """usage: policy-gradients benchmark throughput [ALGORITHM] [--env ID] [--seconds S] [settings of `train`]

Times three compiled programs of num_steps × num_envs environment steps each: the simulator alone under random
actions, the rollout (simulator and policy), and a whole iteration (rollout and update). Compilation is told apart.

       policy-gradients benchmark latency RUN [--seconds S]

Times one action of a trained policy in every runtime, each in a process of its own."""


class Timing(NamedTuple):
    """How long one program takes."""

    name: str
    compile_seconds: float
    seconds: float  # median of one call
    steps: int  # environment steps in one call
    platform: str  # what computed: "cpu", "gpu"

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.seconds


def run(arguments: Sequence[str]) -> int:
    """Prints the table; the exit code."""
    kind, *rest = arguments or ["--help"]
    if kind in ("-h", "--help"):
        print(USAGE)
        return 0
    if kind not in KINDS:
        raise UserError(f"benchmark: expected {' or '.join(KINDS)}, got {kind!r}.{suggest(kind, KINDS)}")
    if kind == "latency":
        from policy_gradients.cli import latency

        return latency.run(rest)
    start_jax()
    check_back_end()
    from policy_gradients.cli.flags import read_request
    from policy_gradients.cli.train import introduce

    request = read_request(rest, OPTIONS)
    if request.help:
        print(USAGE)
        return 0
    if request.preset is not None:
        print(introduce(request.preset), flush=True)
    print(report(request.experiment, throughput(request.experiment, _seconds(request.options))))
    return 0


def throughput(experiment: "Experiment", seconds: float = SECONDS) -> list[Timing]:
    """Times the three programs of an experiment: the simulator's steps, the rollout, the whole iteration.

    Args:
        experiment: What would be trained.
        seconds: How long each is timed.

    Raises:
        UserError, EnvironmentFailure: As in training.
    """
    import jax

    from policy_gradients.backend import computing_on
    from policy_gradients.training.placement import settle_backend
    from policy_gradients.training.setup import build, initial_state, make_environment

    with ExitStack() as stack:
        stack.enter_context(computing_on(experiment.backend))
        env = make_environment(experiment, experiment.env.num_envs)
        stack.callback(env.close)
        chosen = settle_backend(experiment, env.spec)
        if chosen.line:
            print(chosen.line, flush=True)
        stack.enter_context(computing_on(chosen.backend))
        parts = build(experiment, env)
        state = initial_state(parts, jax.random.key(experiment.seed))
        steps = experiment.hyperparameters.num_steps * env.spec.num_envs
        key = jax.random.key(experiment.seed)
        timings = [
            _time(name, jax.jit(program), key, start, seconds, steps, parts.env.spec.on_host)
            for name, program, start in _programs(experiment, parts, state)
        ]
        return [*timings, _time_iteration(parts, key, state, seconds, steps)]


def report(experiment: "Experiment", timings: Sequence[Timing]) -> str:
    """The timings as a table, each as a share of the simulator's speed."""
    import jax

    from policy_gradients.cli.envs import table

    config, env = experiment.hyperparameters, experiment.env
    words = {"num_minibatches": "minibatches", "num_epochs": "epochs", "value_epochs": "epochs of the critic"}
    passes = [f", {getattr(config, name)} {word}" for name, word in words.items() if hasattr(config, name)]
    head = (
        f"{experiment.algorithm} on {env.id}: {env.num_envs} environments × {config.num_steps} steps"
        f"{''.join(passes)} · "
        f"{os.cpu_count()} CPU cores, {timings[0].platform}, JAX {jax.__version__}"
    )
    rows: list[Sequence[object]] = [("", "steps/s", "of simulator", "ms", "compile s")]
    for timing in timings:
        share = f"{timing.rate / timings[0].rate:.0%}"
        rows.append(
            (timing.name, f"{timing.rate:,.0f}", share, f"{timing.seconds * 1e3:.1f}", f"{timing.compile_seconds:.1f}")
        )
    return f"{head}\n{table(rows)}"


def _programs(experiment: "Experiment", parts: "Parts", state: Any) -> list[tuple[str, Callable[..., Any], Any]]:
    """Each program as `(key, carried) -> carried`, with what it starts from."""
    import jax
    import jax.numpy as jnp

    from policy_gradients.environments.base import Box
    from policy_gradients.training.rollout import rollout

    env, space, num_envs = parts.env, parts.env.spec.action_space, parts.env.spec.num_envs
    config, learner = experiment.hyperparameters, state.learner

    def simulate(key: jax.Array, env_state: Any) -> tuple[Any, jax.Array]:
        shape = (config.num_steps, num_envs, *space.shape)
        if isinstance(space, Box):
            actions = jax.random.normal(key, shape)
        else:
            actions = jax.random.randint(key, shape, 0, space.n)
        env_state, out = jax.lax.scan(env.step, env_state, actions)
        return env_state, jnp.sum(out.reward)  # which nothing may leave uncomputed

    def act(key: jax.Array, carry: Any) -> tuple[Any, jax.Array]:
        norm, params = config.normalization, learner.params
        carry, seen = rollout(parts.agent, env, norm, config.num_steps, key, params, learner.statistics, carry)
        return carry, jnp.sum(seen.log_prob) + jnp.sum(seen.reward)

    return [("simulator", simulate, state.carry.env_state), ("rollout", act, state.carry)]


def _time(name: str, program: Any, key: Any, carried: Any, seconds: float, steps: int, on_host: bool) -> Timing:
    """Median time of a call, over as many as fit into `seconds` after two to warm up."""
    import jax

    from policy_gradients import compilation
    from policy_gradients.backend import platform
    from policy_gradients.environments.host import with_cause

    tick = time.perf_counter()
    compiled = program.lower(key, carried).compile(compiler_options=compilation.for_training(on_host))
    compile_seconds = time.perf_counter() - tick

    def call() -> int:
        nonlocal carried
        carried, _ = jax.block_until_ready(with_cause(compiled, key, carried))
        return 1

    return Timing(name, compile_seconds, _median(call, seconds), steps, platform())


def _time_iteration(parts: "Parts", key: Any, state: Any, seconds: float, steps: int) -> Timing:
    """The same of the program that `train` runs: per update, where a call runs several."""
    from policy_gradients.backend import platform
    from policy_gradients.training.program import Program

    program = Program(parts, steps, key, state)

    def call() -> int:
        nonlocal state
        count = program.suggested
        state, _ = program(state, 0, count)
        return count

    return Timing("iteration", program.compile_seconds, _median(call, seconds), steps, platform())


def _median(call: Callable[[], int], seconds: float) -> float:
    """Seconds of one of the things that a call does, and tells the number of; two calls go before."""
    spent, each = 0.0, list[float]()
    while len(each) < 5 or spent < seconds:
        tick = time.perf_counter()
        count = call()
        seconds_of_call = time.perf_counter() - tick
        spent += seconds_of_call
        each.append(seconds_of_call / count)
    return statistics.median(each[2:])


def _seconds(options: dict[str, str]) -> float:
    text = options.get("--seconds", str(SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"--seconds: expected a number above 0, got {text!r}.")
    return seconds
