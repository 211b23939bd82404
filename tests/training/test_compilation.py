"""Options of the compiler that this version of XLA does not know are left out."""

import jax

from policy_gradients import compilation


def test_an_option_that_xla_does_not_know_is_left_out():
    known = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    assert compilation._known({**known, "xla_cpu_of_another_version": True}) == known
    assert compilation._known({"xla_cpu_of_another_version": True}) is None


def test_what_is_left_compiles():
    for options in (compilation.for_training(), compilation.for_few_runs()):
        assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
