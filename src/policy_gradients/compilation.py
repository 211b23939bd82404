"""Which of XLA's CPU options suit which of our programs. Accelerators, and versions not measured, get its defaults."""

import jax

Options = dict[str, str | bool] | None


def for_training() -> Options:
    """For the iteration, which runs all the time: 8–12 % faster than by default (benchmarks/README.md).

    XLA's library for fused reductions is slow on rows as short as an action, and its concurrent schedule costs more
    than it gains in gradient steps of a tenth of a millisecond.
    """
    return _where_known(
        {
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
            "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        }
    )


def for_few_runs() -> Options:
    """For what runs once, or beside a simulator that takes all the time: compiled in half the time and memory."""
    return _where_known({"xla_cpu_use_fusion_emitters": False})


def _where_known(options: Options) -> Options:
    """XLA refuses options that it does not know, so only versions in which these were seen to work are given any."""
    measured = (0, 10) <= jax.__version_info__[:2] <= (0, 12)
    return options if measured and jax.default_backend() == "cpu" else None
