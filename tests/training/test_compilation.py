"""Options of the compiler that this version of XLA does not know are left out."""

import jax

from policy_gradients import compilation


def test_an_option_that_xla_does_not_know_is_left_out():
    known = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    assert compilation._known(cpu={**known, "xla_cpu_of_another_version": True}) == known
    assert compilation._known(cpu={"xla_cpu_of_another_version": True}) is None


def test_what_is_left_compiles():
    for options in (compilation.for_training(), compilation.for_training(on_host=True), compilation.for_few_runs()):
        assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2


def test_a_gpu_leaves_out_the_fusion_that_repeats_calls_beside_a_simulator_on_the_host(monkeypatch):
    monkeypatch.setattr(compilation.backend, "platform", lambda: "gpu")
    beside = {"xla_gpu_enable_dynamic_slice_fusion": False}
    assert {**compilation.for_training(), **beside} == compilation.for_training(on_host=True)
    assert beside.items() - compilation.for_training().items()


def test_kernels_run_side_by_side_on_one_gpu_and_in_order_on_several(monkeypatch):
    monkeypatch.setattr(compilation.backend, "platform", lambda: "gpu")
    side_by_side = ("xla_gpu_command_buffer_scheduling_mode", "CONCURRENT")
    assert side_by_side in compilation.for_training().items()
    assert compilation.for_training(spread=True) is None
