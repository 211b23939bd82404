"""From an id to an environment: which engine steps it, and with which wrappers.

An id chooses its engine by itself: a task of our own (JAX, or MuJoCo), else EnvPool where it is installed and knows the
id, else Gymnasium. A prefix forces the engine: `jax:`, `mujoco:` (MuJoCo's C engine), `warp:` (MuJoCo Warp on a GPU),
`envpool:` or `gymnasium:`. Suites written in JAX by others are reached by their prefix alone: `gymnax:`, `brax:`,
`playground:`, `jumanji:`. An id with any other prefix, `my_package:MyEnv-v0`, is Gymnasium's, and so is a callable.
Simulators are imported when they are asked for, never when this module is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from policy_gradients.environments.base import Environment
from policy_gradients.environments.suites import SUITES, make_suite, suite_ids
from policy_gradients.environments.wrappers import clip_obs, clip_rewards, rescale_actions
from policy_gradients.environments.wrappers import frame_stack as stack_frames
from policy_gradients.errors import UserError, suggest

if TYPE_CHECKING:
    from jax.sharding import Mesh

ENGINES = ("jax", "mujoco", "envpool", "gymnasium")
"""In the order in which an id is looked up; the first two share no id."""

ON_HOST = ("mujoco", "envpool", "gymnasium")
"""Those that step outside the compiled program."""

PREFIXES = (*ENGINES, "warp", *SUITES)
"""What may stand before an id; `warp` knows the ids of `mujoco`, and a suite's ids need its prefix."""


def make(
    id: str | Callable[..., Any],
    num_envs: int = 1,
    *,
    engine: str = "auto",
    action_map: str = "clip",
    num_threads: int = 0,
    max_episode_steps: int | None = None,
    stagger: bool = False,
    frame_stack: int = 1,
    obs_clip: float | None = None,
    reward_clip: float | tuple[float, float] | None = None,
    evaluation: bool = False,
    mesh: "Mesh | None" = None,
    **kwargs: Any,
) -> Environment:
    """`num_envs` copies of an environment, ready for a policy that draws its actions from all of ℝᴬ.

    Args:
        id: An id, with an engine's prefix or without, or a callable that returns a `gymnasium.Env`.
        num_envs: N, copies stepped together.
        engine: What steps a MuJoCo task: "batch" (the C engine), "warp" (a GPU), or "auto".
        action_map: How a drawn action reaches the simulator's bounds: "clip", "tanh" or "none"
            (`wrappers.rescale_actions`).
        num_threads: Threads, for Gymnasium worker processes; 0 for one per core.
        max_episode_steps: Environment steps after which an episode is truncated; None for the task's own limit.
        stagger: Cut first episodes short at different times, so that the ends by the time limit do not come all at
            once (`base.first_elapsed`). For MuJoCo tasks and environments in JAX; never in an evaluation.
        frame_stack: Observations joined into one. Atari through EnvPool stacks 4 by itself; a number above 1 replaces
            that 4.
        obs_clip: Bound on raw observations; None for no clipping.
        reward_clip: Bound c for rewards in [−c, c], or an interval; None for no clipping, except that Atari through
            EnvPool then clips to [−1, 1], as is usual in training.
        evaluation: True to play as scores are reported: rewards are not clipped, an Atari episode lasts until the
            game is over where in training it ends with each life, and MuJoCo's C engine steps the MuJoCo tasks.
        mesh: Devices among which an engine that has its own memory on each (Warp) shares out its worlds. Of several
            processes each steps its share of a simulator on the host. Environments in JAX need to know nothing of it.
        **kwargs: The task's own options.

    Raises:
        UserError: Unknown id or option, unsupported spaces, a simulator that is not installed, or bad numbers.
        EnvironmentFailure: The simulator's constructor failed.
    """
    num_envs, frame_stack = _count("num_envs", num_envs), _count("frame_stack", frame_stack)
    interval = None if reward_clip is None else _interval(reward_clip)
    steps_it, name = settle(id, engine, num_envs)[0], resolve(id)[1]
    if evaluation:
        interval = None
        if steps_it == "warp":
            steps_it, kwargs = "mujoco", without_device(kwargs)
    if steps_it == "envpool" and isinstance(name, str):
        kwargs, frame_stack = _atari_options(name, frame_stack, interval, evaluation, kwargs)
    if steps_it == "warp" and mesh is not None:
        kwargs = {**kwargs, "mesh": mesh}
    if stagger and steps_it in ("envpool", "gymnasium"):
        raise UserError(
            f"stagger is for MuJoCo tasks and environments in JAX, but {steps_it} steps {name!r}: leave it off."
        )
    if stagger and not evaluation:
        kwargs = {**kwargs, "stagger": True}
    shares = 1 if mesh is None or steps_it not in ON_HOST else mesh.size
    env = construct(steps_it, name, num_envs // shares, num_threads, max_episode_steps, kwargs)
    try:
        env = stack_frames(rescale_actions(env, action_map), frame_stack)
        if obs_clip is not None:
            env = clip_obs(env, obs_clip)
        if interval is not None:
            env = clip_rewards(env, *interval)
        if mesh is not None and shares > 1:
            from policy_gradients.environments.devices import over_processes

            env = over_processes(env, mesh)
    except BaseException:
        env.close()
        raise
    return env


def settle(id: str | Callable[..., Any], engine: str = "auto", num_envs: int | None = None) -> tuple[str, str]:
    """The engine that steps an id on this machine, one of `PREFIXES`, and why in half a sentence.

    Args:
        id: As for `make`; a prefix leaves nothing to choose.
        engine: As for `make`.
        num_envs: Copies, where that is known already.

    Raises:
        UserError: As `resolve`, or the engine does not step this id.
    """
    from policy_gradients.environments.mujoco.warp_device import ENGINES as MUJOCO_ENGINES
    from policy_gradients.environments.mujoco.warp_device import choose_engine

    found, _ = resolve(id)
    if engine not in MUJOCO_ENGINES:
        choose_engine(engine)
    named = {"mujoco": "batch", "warp": "warp"}.get(found)
    prefixed = isinstance(id, str) and id.partition(":")[0] in PREFIXES
    if engine != "auto" and (named is None or (prefixed and named != engine)):
        raise UserError(
            f"engine {engine!r} steps MuJoCo tasks without a prefix, but {id!r} is {found!r}'s; leave engine at auto."
        )
    if named is None or prefixed:
        return found, f"the id is {found}'s"
    choice = choose_engine(engine, num_envs)
    return "warp" if choice.engine == "warp" else "mujoco", choice.reason


def resolve(id: str | Callable[..., Any]) -> tuple[str, str | Callable[..., Any]]:
    """The engine of an id, and the id as that engine knows it.

    Raises:
        UserError: Nobody knows the id, or not the engine that its prefix forces; the message suggests a near one.
    """
    if callable(id):
        return "gymnasium", id
    if not isinstance(id, str):
        came = "None" if id is None else f"a {type(id).__name__}"
        raise UserError(
            f"make expects an id or a callable that returns a gymnasium.Env, got {came}; give the environment's class "
            "instead of an instance."
        )
    prefix, colon, rest = id.partition(":")
    if colon and prefix in PREFIXES:
        if ":" not in rest and rest not in (known := known_ids(prefix)):
            raise UserError(f"Engine {prefix!r} knows no environment {rest!r}.{suggest(rest, known)}")
        return prefix, rest
    if prefix and rest:
        return "gymnasium", id
    for engine in installed_engines():
        if id in known_ids(engine):
            return engine, id
    hint = "" if colon else suggest(id, {name for engine in installed_engines() for name in known_ids(engine)})
    raise UserError(
        f"Unknown environment {id!r}: expected one that `policy-gradients envs` lists, or your own as "
        f"module:Id-v0.{hint}"
    )


def construct(
    engine: str,
    id: Any,
    num_envs: int,
    num_threads: int,
    max_episode_steps: int | None,
    kwargs: dict[str, Any],
) -> Environment:
    """The bare environment of an engine, without wrappers."""
    limit = {"max_episode_steps": max_episode_steps, **kwargs}
    if engine == "mujoco":
        from policy_gradients.environments.mujoco import make_mujoco

        return make_mujoco(id, num_envs, num_threads=num_threads, **limit)
    if engine == "warp":
        from policy_gradients.environments.mujoco.warp import make_warp

        return make_warp(id, num_envs, **limit)
    if engine == "envpool":
        from policy_gradients.environments.envpool import make_envpool

        return make_envpool(id, num_envs, num_threads=num_threads, **limit)
    if engine == "gymnasium":
        from policy_gradients.environments.gymnasium import make_gymnasium

        return make_gymnasium(id, num_envs, **{"num_workers": num_threads or None, **limit})
    if engine in SUITES:
        return make_suite(engine, id, num_envs, **limit)
    from policy_gradients.environments.classic import CLASSIC_IDS, make_classic
    from policy_gradients.environments.probes import make_probe

    return (make_classic if id in CLASSIC_IDS else make_probe)(id, num_envs, **limit)


def without_device(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a MuJoCo task itself: Warp's `device` is none of the C engine's."""
    return {name: value for name, value in options.items() if name != "device"}


def known_ids(engine: str) -> Iterable[str]:
    """The ids that an engine knows, as a set or a dict."""
    if engine in ("mujoco", "warp"):
        from policy_gradients.environments.mujoco import MUJOCO_IDS

        return frozenset(MUJOCO_IDS)
    if engine == "jax":
        from policy_gradients.environments.classic import CLASSIC_IDS
        from policy_gradients.environments.probes import PROBE_IDS

        return frozenset((*CLASSIC_IDS, *PROBE_IDS))
    if engine == "envpool":
        from policy_gradients.environments.envpool import envpool_ids

        return envpool_ids()
    if engine in SUITES:
        return suite_ids(engine)
    import gymnasium

    return gymnasium.registry


def installed_engines() -> Iterator[str]:
    """The engines that an id may choose by itself, in their order; EnvPool is imported only when its turn comes."""
    return (engine for engine in ENGINES if engine != "envpool" or _has_envpool())


def _has_envpool() -> bool:
    """True where EnvPool is installed and its system libraries are there."""
    from policy_gradients.environments.envpool import envpool_ids, installed

    try:
        return installed() and bool(envpool_ids())
    except UserError:
        return False


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} must be an integer of 1 or more, not {value!r}.")
    return int(value)


def _interval(clip: Any) -> tuple[float, float]:
    pair = isinstance(clip, tuple | list) and len(clip) == 2
    bounds: list[Any] = list(clip) if pair else [clip]
    if not all(isinstance(bound, Real) and not isinstance(bound, bool) for bound in bounds):
        raise UserError(f"reward_clip must be a number or an interval (low, high), not {clip!r}.")
    return (bounds[0], bounds[1]) if pair else (-bounds[0], bounds[0])


def _atari_options(
    id: str, stack: int, reward_clip: Any, evaluation: bool, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """What the arguments of `make` mean as options of the task, where it has them; and the frames left to stack."""
    from policy_gradients.environments.envpool import task_options

    known = task_options(id)
    if "stack_num" in known and stack > 1:
        kwargs, stack = {"stack_num": stack, **kwargs}, 1
    if "reward_clip" in known and (evaluation or reward_clip is not None):
        kwargs = {**kwargs, "reward_clip": False}
    if "episodic_life" in known and evaluation:
        kwargs = {**kwargs, "episodic_life": False}
    return kwargs, stack
