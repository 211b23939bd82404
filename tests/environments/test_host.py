"""The bridge: a simulator outside the compiled program behaves, inside it, like one that is part of it.

Every test also runs over the bridge of CUDA devices, with a driver that copies within the host's memory.
"""

import ctypes
import gc
import threading
import tracemalloc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments import host_call, xla_ffi
from policy_gradients.environments.base import Box, Discrete, EnvironmentFailure, EnvironmentSpec, Step, box
from policy_gradients.environments.host import host_environment, with_cause
from policy_gradients.environments.host_call import take_failure
from policy_gradients.errors import UserError

N = 3
REAL = box(-np.inf, np.inf, (2,))
PIXELS = box(0, 255, (2, 2, 1), np.uint8)
KEY = jax.random.key(0)


class MemoryOfTheHost:
    """What `cuda.Driver` does, where the "device" is the host itself."""

    def __init__(self):
        self.calls = []

    def pinned(self, shape, dtype):
        return np.zeros(shape, dtype)

    def enter(self, stream):
        if len(self.calls) > 100:
            self.calls.clear()  # of many steps none is looked at
        self.calls.append("enter")

    def leave(self):
        self.calls.append("leave")

    def read(self, host, device, stream):
        self.calls.append("read")
        ctypes.memmove(host.ctypes.data, device, host.nbytes)

    def write(self, device, host, stream):
        self.calls.append("write")
        ctypes.memmove(device, host.ctypes.data, host.nbytes)

    def repeat(self, device, source, size, stream):
        self.calls.append("repeat")
        ctypes.memmove(device, source, size)

    def wait(self, stream):
        self.calls.append(f"wait {stream}")


@pytest.fixture
def copying(monkeypatch):
    """Calls over the bridge of CUDA devices; what its driver is asked for."""
    driver = MemoryOfTheHost()
    monkeypatch.setattr(host_call, "_Views", lambda *args: host_call._Copies(*args, driver))
    monkeypatch.setattr(xla_ffi, "stream", lambda frame: 7)
    return driver


@pytest.fixture(params=["views", "copies"], autouse=True)
def bridge(request):
    if request.param == "copies":
        request.getfixturevalue("copying")
    return request.param


class Scripted:
    """A simulator that notes its calls and answers what it is told to, by default the count of steps."""

    def __init__(self, obs_space: Box = REAL, action_space=None, answer=None, name="Scripted-v0"):
        self.spec = EnvironmentSpec(name, "gymnasium", N, obs_space, action_space or Discrete(1000), on_host=True)
        self.answer = answer or (lambda simulator: simulator.plain())
        self.seeds, self.actions, self.closed = [], [], False

    def plain(self):
        """Observations that are the number of steps so far, in all coordinates."""
        count = np.full((N, *self.spec.obs_space.shape), len(self.actions), self.spec.obs_space.dtype)
        none = np.zeros(N, bool)
        return Step(count, count, np.full(N, len(self.actions), np.float32), none, none, ~none)

    def reset(self, seed):
        self.seeds.append(seed)
        self.actions.clear()
        return self.plain().obs

    def step(self, action):
        self.actions.append(action.copy())
        return self.answer(self)

    def snapshot(self):
        return {"calls": np.array(len(self.actions))}

    def restore(self, arrays):
        self.actions = [None] * int(arrays["calls"])

    def close(self):
        self.closed = True


def actions(num_steps):
    return jnp.arange(num_steps * N, dtype=jnp.int32).reshape(num_steps, N)


def scanned(env, state, rows):
    """The environment stepped through `rows` [T, N] inside one compiled scan."""
    return jax.jit(partial(jax.lax.scan, env.step))(state, rows)


def bits(x):
    x = np.asarray(x)
    return x.view(np.uint32) if x.dtype == np.float32 else x


@pytest.mark.parametrize(("space", "dtype"), [(REAL, np.float32), (PIXELS, np.uint8)])
def test_arrays_arrive_and_return_to_the_last_bit(space, dtype):
    odd = np.array([np.nan, -0.0, np.inf, 1e-42, 3.4e38, -1.5, 0.1, 7, 255, 254, 128, 1], np.float32)
    fill = lambda seed, *shape: np.resize(np.roll(odd if dtype == np.float32 else odd[-4:], seed), shape)  # noqa: E731
    obs, final_obs = (fill(seed, N, *space.shape).astype(dtype) for seed in (0, 1))
    flags = np.array([[True, False, True], [False, True, False], [True, True, False]])
    sent = Step(obs, final_obs, np.resize(odd, N).copy(), *flags)
    simulator = Scripted(space, box(-1, 1, (4,)), answer=lambda _: sent)
    env = host_environment(simulator)
    action = np.resize(odd, (N, 4)).copy()
    _, received = jax.jit(env.step)(jnp.int32(0), action)
    for name, a, b in zip(Step._fields, sent, received, strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(bits(a), bits(b), err_msg=name)
    np.testing.assert_array_equal(bits(simulator.actions[0]), bits(action))


def test_the_simulator_may_reuse_its_buffers():
    """Every step writes the same array; the rows already returned stay."""
    buffer = np.zeros((N, 2), np.float32)

    def answer(simulator):
        buffer[:] = len(simulator.actions)
        return simulator.plain()._replace(obs=buffer, final_obs=buffer)

    _, steps = scanned(host_environment(Scripted(answer=answer)), jnp.int32(0), actions(5))
    np.testing.assert_array_equal(steps.obs[:, 0, 0], [1, 2, 3, 4, 5])


def test_the_whole_key_is_the_seed():
    simulator = Scripted()
    reset = jax.jit(host_environment(simulator).reset)
    for key in (KEY, KEY, jax.random.key(2**40 + 3), jax.random.split(KEY)[0]):
        reset(key)
        high, low = np.asarray(jax.random.key_data(key), int).tolist()
        assert simulator.seeds[-1] == high * 2**32 + low
    assert len(set(simulator.seeds)) == 3


def test_steps_are_taken_in_order_and_once_inside_a_scan():
    simulator = Scripted()
    env = host_environment(simulator)
    state, steps = scanned(env, env.reset(KEY)[0], actions(50))
    np.testing.assert_array_equal(simulator.actions, actions(50))
    np.testing.assert_array_equal(steps.reward[:, 0], 1 + np.arange(50))
    assert state == 50


def test_a_step_that_the_program_repeats_is_taken_once():
    simulator = Scripted()
    env = host_environment(simulator)

    @jax.jit
    def twice(state, row):
        return env.step(state, row), env.step(state, row)

    for _ in range(2):  # a reset begins anew, though its first step looks like the one before
        one, other = twice(env.reset(KEY)[0], actions(1)[0])
        jax.tree.map(np.testing.assert_array_equal, one, other)
        assert len(simulator.actions) == 1  # of this life: the reset before cleared them
    env.step(jnp.int32(0), actions(2)[1])
    assert len(simulator.actions) == 2


def test_a_step_whose_results_nobody_reads_is_taken_all_the_same():
    simulator = Scripted()
    env = host_environment(simulator)

    @jax.jit
    def blind(state, action):
        env.step(state, action)
        return state

    blind(jnp.int32(0), actions(1)[0])
    assert len(simulator.actions) == 1


def test_two_simulators_in_one_program_do_not_mix():
    one, other = Scripted(name="One-v0"), Scripted(PIXELS, name="Other-v0")
    envs = host_environment(one), host_environment(other)

    @jax.jit
    def both(states, rows):
        def step(states, action):
            first, out = envs[0].step(states[0], action)
            second, seen = envs[1].step(states[1], action + 1)
            return (first, second), (out.reward, seen.obs)

        return jax.lax.scan(step, states, rows)

    states = tuple(env.reset(KEY)[0] for env in envs)
    states, (reward, pixels) = both(states, actions(10))
    np.testing.assert_array_equal(one.actions, actions(10))
    np.testing.assert_array_equal(other.actions, actions(10) + 1)
    np.testing.assert_array_equal(reward[:, 0], 1 + np.arange(10))
    np.testing.assert_array_equal(pixels[:, 0, 0, 0, 0], 1 + np.arange(10))


def test_two_programs_run_at_once_in_two_threads():
    simulators = [Scripted(name=f"Thread-v{i}") for i in range(2)]
    programs = [jax.jit(partial(jax.lax.scan, host_environment(simulator).step)) for simulator in simulators]
    rewards = {}

    def run(i):
        rewards[i] = np.asarray(programs[i](jnp.int32(0), actions(200) + i)[1].reward)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for i, simulator in enumerate(simulators):
        np.testing.assert_array_equal(simulator.actions, actions(200) + i)
        np.testing.assert_array_equal(rewards[i][:, 0], 1 + np.arange(200))


class Broken(Exception):
    """An error of the simulator's own."""


@pytest.mark.parametrize("error", [Broken("the motor came off"), KeyboardInterrupt()])
def test_an_exception_of_a_step_is_raised_as_itself_and_ends_the_scan(error):
    def answer(simulator):
        if len(simulator.actions) == 5:
            raise error
        return simulator.plain()

    simulator = Scripted(answer=answer)
    env = host_environment(simulator)
    state, _ = env.reset(KEY)
    with pytest.raises(type(error)) as caught:
        with_cause(scanned, env, state, actions(20))
    assert caught.value is error
    assert any(entry.name == "answer" for entry in caught.traceback), "the traceback leads into the simulator"
    assert len(simulator.actions) == 5, "no step follows the failure"
    assert take_failure() is None

    state, _ = env.reset(KEY)
    _, steps = with_cause(scanned, env, state, actions(4))
    assert steps.reward[-1, 0] == 4, "the bridge works as before"


def test_an_exception_of_a_reset_is_raised_as_itself():
    simulator = Scripted()
    error = Broken("no power")

    def fail(seed):
        raise error

    simulator.reset = fail
    with pytest.raises(Broken) as caught:
        with_cause(jax.jit(host_environment(simulator).reset), KEY)
    assert caught.value is error


def test_an_error_of_the_program_itself_is_not_blamed_on_a_simulator_that_failed_before():
    """A failure that nobody took must not be raised as the cause of a later, unrelated one."""

    def answer(simulator):
        raise Broken("long ago")

    env = host_environment(Scripted(answer=answer))
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(jax.jit(env.step)(jnp.int32(0), actions(1)[0]))

    def unrelated():
        raise jax.errors.JaxRuntimeError("out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        with_cause(unrelated)


WRONG_STEPS = {
    "obs with another shape": ("obs", np.zeros((N, 5), np.float32)),
    "obs of one environment": ("obs", np.zeros(2, np.float32)),
    "final_obs of one environment": ("final_obs", np.zeros((1, 2), np.float32)),
    "obs of complex numbers": ("obs", np.zeros((N, 2), np.complex64)),
    "one reward for all": ("reward", np.float32(1)),
    "rewards in a column": ("reward", np.zeros((N, 1), np.float32)),
    "one flag for all": ("terminated", np.bool_(True)),
    "flags that are numbers": ("truncated", np.zeros(N, np.float32)),
}


@pytest.mark.parametrize("wrong", WRONG_STEPS)
def test_a_step_of_the_wrong_shape_or_dtype_is_refused_by_name(wrong):
    """NumPy would broadcast one reward, or one environment's observation, to all rows without a word."""
    field, value = WRONG_STEPS[wrong]
    env = host_environment(Scripted(answer=lambda simulator: simulator.plain()._replace(**{field: value})))
    with pytest.raises(EnvironmentFailure, match=f"Scripted-v0.*step.*{field}"):
        with_cause(jax.jit(env.step), jnp.int32(0), actions(1)[0])


@pytest.mark.parametrize("value", [np.zeros((N, 5), np.float32), np.zeros(2, np.float32), (np.zeros((N, 2)), {})])
def test_a_reset_of_the_wrong_shape_is_refused_by_name(value):
    simulator = Scripted()
    simulator.reset = lambda seed: value
    with pytest.raises(EnvironmentFailure, match=r"Scripted-v0.*reset"):
        with_cause(jax.jit(host_environment(simulator).reset), KEY)


def test_a_step_with_too_few_fields_is_refused_by_name():
    env = host_environment(Scripted(answer=lambda simulator: simulator.plain()[:5]))
    with pytest.raises(EnvironmentFailure, match=r"Scripted-v0.*step"):
        with_cause(jax.jit(env.step), jnp.int32(0), actions(1)[0])


def test_float64_of_a_simulator_becomes_float32():
    tenth = np.full(N, 0.1)
    env = host_environment(Scripted(answer=lambda simulator: simulator.plain()._replace(reward=tenth)))
    np.testing.assert_array_equal(jax.jit(env.step)(jnp.int32(0), actions(1)[0])[1].reward, np.float32(0.1))


@pytest.mark.parametrize("call", ["reset", "step"])
def test_vmap_is_refused_in_a_sentence(call):
    """One simulator cannot live several lives: `num_envs` is its batch axis."""
    simulator = Scripted()
    env = host_environment(simulator)
    with pytest.raises(UserError, match="num_envs"):
        if call == "reset":
            jax.vmap(env.reset)(jax.random.split(KEY, 2))
        else:
            jax.vmap(env.step)(jnp.zeros(2, jnp.int32), actions(2))
    assert not simulator.seeds and not simulator.actions


def test_snapshot_and_restore_carry_the_count_and_the_simulators_own_state():
    env = host_environment(simulator := Scripted())
    state, _ = scanned(env, env.reset(KEY)[0], actions(7))
    saved = env.snapshot(state)
    assert {name: int(array) for name, array in saved.items()} == {"step": 7, "calls": 7}
    state, _ = scanned(env, state, actions(3))
    state = env.restore(saved, state)
    assert (int(state), state.dtype, len(simulator.actions)) == (7, jnp.int32, 7)
    env.close()
    assert simulator.closed


def test_discrete_actions_arrive_as_int32_whatever_the_policy_draws():
    env = host_environment(simulator := Scripted())
    jax.jit(env.step)(jnp.int32(0), jnp.arange(N, dtype=jnp.uint8))
    assert simulator.actions[0].dtype == np.int32
    np.testing.assert_array_equal(simulator.actions[0], np.arange(N))


def test_the_views_that_are_remembered_stay_few(monkeypatch, bridge):
    """Outputs that are kept lie at ever new addresses; the table of their views must not grow with them."""
    if bridge == "copies":
        pytest.skip("there are no views")
    tables = []
    views = host_call._views

    def watched(buffers, kinds, known):
        tables.append(known)
        return views(buffers, kinds, known)

    monkeypatch.setattr(host_call, "_views", watched)
    step = jax.jit(host_environment(Scripted()).step)
    kept, largest = [], 0
    for i in range(300):
        kept.append(step(jnp.int32(i), actions(1)[0]))
        largest = max(largest, *(len(table) for table in tables[-2:]))
    addresses = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(kept)}
    assert len(addresses) > 1000, "the outputs do lie at different addresses"
    assert 0 < largest <= 300
    np.testing.assert_array_equal([out.reward[0] for _, out in kept], 1 + np.arange(300))


def test_ten_thousand_steps_leave_no_memory_behind():
    """Trap 42: nothing is kept of a step once it is over."""
    silent = Scripted()
    answer = silent.plain()
    silent.step = lambda action: answer
    run = jax.jit(partial(jax.lax.scan, host_environment(silent).step))
    run(jnp.int32(0), actions(5000))
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2):
            jax.block_until_ready(run(jnp.int32(0), actions(5000)))
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 100_000, f"{grown} bytes; one forgotten view per step would be some 2 MB"


def sent_of_a_step(driver, answer):
    """The driver's calls in one step."""
    step = jax.jit(host_environment(Scripted(answer=answer)).step)
    driver.calls.clear()
    jax.block_until_ready(step(jnp.int32(0), actions(1)[0]))
    return driver.calls


def test_an_array_that_is_returned_twice_is_sent_to_the_device_once(copying):
    both = sent_of_a_step(copying, lambda simulator: simulator.plain())
    assert both.count("write") == 5 and both.count("repeat") == 2  # of 7: final_obs is obs, and two flags are one
    other = sent_of_a_step(copying, lambda s: s.plain()._replace(final_obs=s.plain().obs.copy()))
    assert other.count("write") == 6 and other.count("repeat") == 1


def test_arguments_are_waited_for_before_they_are_read_and_the_context_is_left(copying):
    calls = sent_of_a_step(copying, lambda simulator: simulator.plain())
    assert calls[:4] == ["enter", "read", "read", "wait 7"] and calls[4] == "write" and calls[-1] == "leave"


def test_a_step_on_another_stream_waits_for_the_one_before(copying, monkeypatch):
    """The copies of the step before still read the memory that this step writes to."""
    step = jax.jit(host_environment(Scripted()).step)
    jax.block_until_ready(step(jnp.int32(0), actions(1)[0]))
    monkeypatch.setattr(xla_ffi, "stream", lambda frame: 8)
    copying.calls.clear()
    jax.block_until_ready(step(jnp.int32(1), actions(1)[0]))
    assert copying.calls[:2] == ["enter", "wait 7"]


def test_the_context_is_left_where_a_simulator_fails(copying):
    def answer(simulator):
        raise Broken("no power")

    with pytest.raises(Broken):
        with_cause(jax.jit(host_environment(Scripted(answer=answer)).step), jnp.int32(0), actions(1)[0])
    assert copying.calls[-1] == "leave"


def failed(*_):
    raise RuntimeError("The CUDA driver's cuMemcpyHtoDAsync_v2 failed: invalid argument.")


@pytest.mark.parametrize(
    ("write", "reason"),
    [(failed, "invalid argument"), (lambda *_: None, "other arrays")],
    ids=["fails", "does nothing"],
)
def test_a_driver_that_does_not_copy_is_not_used(copying, monkeypatch, write, reason):
    """JAX's own callback then serves, and that is said."""
    driver = MemoryOfTheHost()
    driver.write = write
    monkeypatch.setattr(host_call, "_ffi_call", partial(on_the_cpu, host_call._ffi_call))
    with pytest.warns(UserWarning, match=reason):
        assert not host_call._bridges(driver)
    assert take_failure() is None


def on_the_cpu(ffi_call, platform, execute, results):
    return ffi_call("cpu", execute, results)


@pytest.mark.parametrize("asked", ["0", "1"])
def test_where_the_bridge_is_not_wanted_or_has_no_driver_jaxs_own_callback_serves(monkeypatch, asked):
    monkeypatch.setenv(host_call.CUDA_BRIDGE, asked)
    monkeypatch.setattr(host_call, "load_driver", lambda: None if asked == "1" else pytest.fail("not wanted"))
    monkeypatch.setattr(host_call.backend, "platform", lambda: "gpu")
    simulator = Scripted()
    _, steps = scanned(host_environment(simulator), jnp.int32(0), actions(5))
    np.testing.assert_array_equal(simulator.actions, actions(5))
    np.testing.assert_array_equal(steps.reward[:, 0], 1 + np.arange(5))


def test_on_a_gpu_a_driver_that_copies_serves(copying, monkeypatch):
    monkeypatch.delenv(host_call.CUDA_BRIDGE, raising=False)
    monkeypatch.setattr(host_call, "_ffi_call", partial(on_the_cpu, host_call._ffi_call))
    monkeypatch.setattr(host_call, "load_driver", lambda: copying)
    monkeypatch.setattr(host_call.backend, "platform", lambda: "gpu")
    _, steps = scanned(host_environment(Scripted()), jnp.int32(0), actions(5))
    np.testing.assert_array_equal(steps.reward[:, 0], 1 + np.arange(5))
    assert "write" in copying.calls
