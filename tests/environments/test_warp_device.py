"""Which engine steps the MuJoCo tasks, and what is said where Warp cannot."""

from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import jax
import pytest

from policy_gradients.environments import registry
from policy_gradients.environments.mujoco import warp_device
from policy_gradients.environments.mujoco.tasks import load_task
from policy_gradients.environments.mujoco.warp_device import (
    FEW_WORLDS,
    check_room,
    choose_engine,
    compile_together,
    import_warp,
    pick_device,
    pick_devices,
)
from policy_gradients.errors import UserError
from policy_gradients.training.devices import make_mesh


@pytest.fixture
def a_gpu(monkeypatch):
    """JAX that says it runs on a GPU, and Warp that is there."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [SimpleNamespace(device_kind="Testing GPU")])
    monkeypatch.setattr(warp_device, "_installed", lambda: True)


def test_auto_takes_the_processor_where_warp_is_missing(monkeypatch):
    monkeypatch.setattr(warp_device, "_installed", lambda: False)
    assert choose_engine("auto", 10_000) == ("batch", "MuJoCo Warp is not installed")


def test_auto_takes_the_processor_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(warp_device, "_installed", lambda: True)
    assert choose_engine("auto", 10_000) == ("batch", "JAX sees no CUDA device")


def test_auto_takes_warp_on_a_gpu_and_says_on_which(a_gpu):
    assert choose_engine("auto") == ("warp", "JAX runs on Testing GPU")
    assert choose_engine("auto", FEW_WORLDS).engine == "warp"


def test_auto_leaves_few_worlds_to_the_processor(a_gpu):
    engine, reason = choose_engine("auto", FEW_WORLDS - 1)
    assert engine == "batch" and str(FEW_WORLDS) in reason


def test_an_unknown_engine_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match=r"engine is one of auto, batch, warp, but 'wrap' came.*Did you mean 'warp'"):
        choose_engine("wrap")


def test_a_missing_warp_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(warp_device, "_installed", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'policy-gradients\[gpu\]', or choose --engine batch"):
        import_warp()


def test_a_machine_without_a_gpu_is_told_so():
    with pytest.raises(UserError, match="needs a CUDA device, but JAX computes on cpu"):
        pick_device(SimpleNamespace(), None)


def test_a_driver_too_old_for_warp_is_told_so(a_gpu):
    with pytest.raises(UserError, match="driver of version 580 or newer"):
        pick_device(SimpleNamespace(get_cuda_device_count=lambda: 0), None)


def test_a_device_that_nobody_has_is_refused_with_those_that_are_there():
    with pytest.raises(UserError, match=r"'cuda:7' needs that device.*JAX computes on cpu and Warp knows cpu"):
        pick_device(SimpleNamespace(get_devices=lambda: ["cpu"]), "cuda:7")


def test_a_mesh_has_warps_device_of_each_of_its_devices_once():
    alike = SimpleNamespace(get_devices=lambda: ["cpu"], get_device=str, device_from_jax=lambda device: device.platform)
    assert pick_devices(alike, "cpu", make_mesh(4, 4)) == ["cpu"]
    apart = SimpleNamespace(get_devices=lambda: ["cpu"], get_device=str, device_from_jax=lambda device: device.id)
    assert pick_devices(apart, "cpu", make_mesh(2, 4)) == [device.id for device in jax.devices()[:2]]


def test_one_device_named_where_there_are_several_is_refused():
    with pytest.raises(UserError, match="names one device, 'cuda:1'; leave it out, or give --devices 1"):
        pick_devices(SimpleNamespace(), "cuda:1", make_mesh(2, 4))


def test_too_many_worlds_are_refused_with_how_many_fit():
    warp = pytest.importorskip("warp")
    pytest.importorskip("mujoco_warp")
    device = SimpleNamespace(is_cuda=True, free_memory=2**30, name="Testing GPU")
    with pytest.raises(UserError, match=r"1,000,000 worlds of Hopper-v4 need .* GiB are free: at most [\d,]+ fit"):
        check_room(warp, load_task("Hopper-v4"), 1_000_000, device)


def test_a_prefix_and_an_engine_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="engine 'warp' steps MuJoCo tasks without a prefix"):
        registry.settle("mujoco:HalfCheetah-v4", "warp")


def test_an_engine_for_a_task_that_is_not_mujocos_is_refused():
    with pytest.raises(UserError, match="'CartPole-v1' is 'jax''s; leave engine at auto"):
        registry.settle("CartPole-v1", "batch")


def test_the_prefix_forces_warp_and_nothing_is_looked_up(monkeypatch):
    monkeypatch.setattr(warp_device, "_installed", lambda: False)
    assert registry.settle("warp:HalfCheetah-v4")[0] == "warp"


def test_scores_are_played_on_the_c_engine_wherever_a_policy_was_trained():
    env = registry.make("warp:Swimmer-v4", 1, evaluation=True, device="cpu")
    assert env.spec.engine == "mujoco"
    env.close()


class Kernels:
    """Stands in for Warp's modules: knows what was loaded, and answers a launch as Warp does."""

    loaded: ClassVar[list] = []

    def load(self, device, block_dim=None):
        self.loaded.append((device, block_dim))
        return "code"


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(Kernels, "loaded", [])
    return SimpleNamespace(get_module=lambda name: Kernels())


def test_kernels_are_loaded_together_after_all_launches_asked_for_them_and_none_ran(kernels):
    two = Kernels(), Kernels()
    answers = []

    def launches():
        for module in (*two, two[0]):
            answers.append(module.load("cuda:0", 64))
        answers.append(two[0].load("cuda:0", 128))
        assert Kernels.loaded == []

    compile_together(kernels, launches)
    assert answers == [None] * 4, "what a launch takes for: do not run"
    assert sorted(Kernels.loaded) == [("cuda:0", 64), ("cuda:0", 64), ("cuda:0", 128)]
    assert two[0].load("cuda:0") == "code", "as before"


def test_a_kernels_occupancy_is_told_while_launches_are_noted(kernels):
    compile_together(kernels, lambda: Kernels.loaded.append(Kernels().load("cuda:0")))
    assert Kernels.loaded == [("cuda:0", None), "code"]


def test_launches_that_fail_leave_warp_as_it_was(kernels):
    def fails():
        raise ValueError("no such array")

    with pytest.raises(ValueError, match="no such array"):
        compile_together(kernels, fails)
    assert Kernels().load("cpu") == "code"


def test_a_real_kernel_is_loaded_and_not_launched():
    warp = pytest.importorskip("warp")

    @warp.kernel
    def raise_by_one(x: warp.array(dtype=float)):
        i = warp.tid()
        x[i] = x[i] + 1.0

    x = warp.zeros(3, dtype=float, device="cpu")
    launch = partial(warp.launch, raise_by_one, dim=3, outputs=[x], device="cpu")
    compile_together(warp, launch)
    assert raise_by_one.module.execs and (x.numpy() == 0).all()
    launch()
    assert (x.numpy() == 1).all()
