"""Which of XLA's options suit which of our programs."""

from functools import cache

import jax

from policy_gradients import backend
from policy_gradients.errors import UserError

Options = dict[str, str | bool] | None


def check_allowed() -> None:
    """Refuses to train where JAX is told not to compile: a run is one program, compiled ahead.

    Raises:
        UserError: `jax_disable_jit` is on.
    """
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        raise UserError(
            "jax_disable_jit is on, but a run is one compiled program; turn it off (unset JAX_DISABLE_JIT). "
            "jax.debug.print and jax.debug.breakpoint show what goes on inside."
        )


def for_training(on_host: bool = False, spread: bool = False) -> Options:
    """For the iteration, which runs all the time: 8–12 % faster than by default (benchmarks/README.md).

    XLA's library for fused reductions is slow on rows as short as an action, and its concurrent schedule costs more
    than it gains in gradient steps of a tenth of a millisecond.

    On a GPU the kernels of a recorded gradient step that do not wait for each other run side by side, the policy's
    beside the critic's: an update of 96 steps takes 35 ms instead of 46 (Humanoid-v4, one H200), with the same bits.
    Where several devices wait for each other's sums, kernels keep XLA's order, which was measured there. Beside a
    simulator on the host, the dynamic-slice fusion is off: it can make such a call twice for a step
    (openxla/xla#45799).

    Args:
        on_host: The program calls a simulator on the host.
        spread: The program runs on several devices.
    """
    gpu: dict[str, str | bool] = {}
    if not spread:
        gpu["xla_gpu_command_buffer_scheduling_mode"] = "CONCURRENT"
    if on_host:
        gpu["xla_gpu_enable_dynamic_slice_fusion"] = False
    return _known(
        cpu={
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
            "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        },
        gpu=gpu,
    )


def for_few_runs() -> Options:
    """For what runs once, or beside a simulator that takes all the time: compiled in half the time and memory."""
    return _known(cpu={"xla_cpu_use_fusion_emitters": False})


def _known(**options: dict[str, str | bool]) -> Options:
    """The options of the platform that is computed on, without those that XLA does not know."""
    mine = options.get(backend.platform(), {})
    return {name: value for name, value in mine.items() if _is_known(name, value)} or None


@cache
def _is_known(name: str, value: str | bool) -> bool:
    """Options come and go with XLA's versions, and it refuses what it does not know: asked, not looked up."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True
