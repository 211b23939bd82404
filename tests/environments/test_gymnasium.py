"""The Gymnasium adapter against an environment that does what it is told."""

import functools
import importlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.base import EnvironmentFailure
from policy_gradients.environments.gymnasium import make_gymnasium, worker
from policy_gradients.environments.gymnasium.simulator import GymnasiumSimulator
from policy_gradients.errors import UserError

HERE = str(Path(__file__).parent)
SOURCE = str(Path(__file__).parents[2] / "src")
if HERE not in sys.path:  # workers import by the parent's path
    sys.path.insert(0, HERE)
scripted = importlib.import_module("scripted_environments")
GO, TERMINATE, TRUNCATE, BOTH = scripted.GO, scripted.TERMINATE, scripted.TRUNCATE, scripted.BOTH


@pytest.fixture
def simulator():
    made = []

    def make(what=scripted.Scripted, num_envs=2, num_workers=0, max_episode_steps=None, **kwargs):
        made.append(GymnasiumSimulator(what, num_envs, num_workers, max_episode_steps, kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def actions(*codes):
    return np.array(codes, np.int32)


def play(simulator, *codes):
    """A step whose arrays the next one does not overwrite."""
    return jax.tree.map(np.copy, simulator.step(actions(*codes)))


def pids(simulator):
    return [one.process.pid for one in simulator._runner._workers]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z" if sys.platform == "linux" else True


def wait_until_gone(processes, seconds=20):
    end = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, processes))


def run_script(tmp_path, code):
    """Exit code, output and errors of a script; they go to files, since a pipe would wait for the workers too."""
    script, out, err = (tmp_path / name for name in ("script.py", "out.txt", "err.txt"))
    script.write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, HERE])}
    with out.open("w") as stdout, err.open("w") as stderr:
        command = [sys.executable, str(script)]
        done = subprocess.run(command, env=environment, stdout=stdout, stderr=stderr, timeout=120, check=False)
    return subprocess.CompletedProcess(command, done.returncode, out.read_text(), err.read_text())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_final_obs_is_the_last_of_the_old_episode_and_obs_the_first_of_the_new(simulator, num_workers):
    envs = simulator(num_envs=5, num_workers=num_workers)
    first = envs.reset(3)
    np.testing.assert_array_equal(first[:, :2], [[1, 0]] * 5)
    envs.step(actions(GO, GO, GO, GO, TERMINATE))
    step = envs.step(actions(GO, TERMINATE, TRUNCATE, BOTH, GO))
    np.testing.assert_array_equal(step.final_obs[:, :2], [[1, 2], [1, 2], [1, 2], [1, 2], [2, 1]])
    np.testing.assert_array_equal(step.obs[:, :2], [[1, 2], [2, 0], [2, 0], [2, 0], [2, 1]])
    np.testing.assert_array_equal(step.reward, np.float32([12, 12, 12, 12, 21]))
    np.testing.assert_array_equal(step.terminated, [False, True, False, True, False])
    np.testing.assert_array_equal(step.truncated, [False, False, True, True, False])
    assert step.valid.all()


def test_obs_and_final_obs_agree_where_nothing_ended(simulator):
    envs = simulator(num_envs=2)
    envs.reset(0)
    envs.step(actions(TERMINATE, GO))
    step = envs.step(actions(GO, GO))
    np.testing.assert_array_equal(step.obs, step.final_obs)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_each_environment_has_its_own_seed_whatever_the_number_of_environments(simulator, num_workers):
    seeds = simulator(num_envs=6, num_workers=num_workers).reset(2**40 + 5)[:, 2]
    assert len(set(seeds.tolist())) == 6
    np.testing.assert_array_equal(seeds[:2], simulator(num_envs=2).reset(2**40 + 5)[:, 2])
    assert not np.isin(seeds, simulator(num_envs=6).reset(2**40 + 6)[:, 2]).any()


def test_only_the_first_reset_is_seeded(simulator):
    envs = simulator(num_envs=1)
    seed = envs.reset(1)[0, 2]
    assert envs.step(actions(TERMINATE)).obs[0].tolist() == [2, 0, seed]


def test_the_registered_time_limit_truncates_and_does_not_terminate(simulator):
    envs = simulator("scripted_environments:Scripted-v0", num_envs=2)
    assert envs.spec.max_episode_steps == 4
    envs.reset(0)
    steps = [play(envs, GO, TERMINATE if t == 3 else GO) for t in range(4)]
    assert not steps[2].truncated.any()
    np.testing.assert_array_equal(steps[3].truncated, [True, True])
    np.testing.assert_array_equal(steps[3].terminated, [False, True])
    assert steps[3].final_obs[0, 1] == 4


@pytest.mark.parametrize("what", ["scripted_environments:Scripted-v0", scripted.make_scripted])
def test_a_given_time_limit_replaces_the_registered_one(simulator, what):
    envs = simulator(what, num_envs=1, max_episode_steps=2)
    assert envs.spec.max_episode_steps == 2
    envs.reset(0)
    assert [bool(envs.step(actions(GO)).truncated[0]) for _ in range(4)] == [False, True, False, True]


def test_a_module_id_is_imported_in_the_workers_only(tmp_path, simulator, monkeypatch):
    (tmp_path / "lone_module.py").write_text(
        "from scripted_environments import *\ngymnasium.register('Lone-v0', Scripted)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    envs = simulator("lone_module:Lone-v0", num_envs=1, num_workers=1)
    assert envs.reset(0).shape == (1, 3)
    assert "lone_module" not in sys.modules


@pytest.mark.parametrize("what", [scripted.make_scripted, functools.partial(scripted.Scripted)])
def test_a_module_level_callable_travels_to_the_workers(simulator, what):
    envs = simulator(what, num_envs=2, num_workers=1, reset_raises_in_episode=0)
    assert envs.reset(0)[0, 0] == 1
    assert envs.spec.id in ("make_scripted", "Scripted")


def test_a_callable_that_no_other_process_can_import_is_refused(simulator):
    with pytest.raises(UserError, match=r"top of a module, or num_workers=0"):
        simulator(lambda: scripted.Scripted(), num_workers=1)
    assert simulator(lambda: scripted.Scripted(), num_workers=0).reset(0).shape == (2, 3)


SCRIPT = """
import numpy as np
from scripted_environments import Scripted
from policy_gradients.environments.gymnasium.simulator import GymnasiumSimulator

class Mine(Scripted):
    pass

def main():
    envs = GymnasiumSimulator(Mine, 2, 1, None, {})
    envs.reset(0)
    print("reward", envs.step(np.zeros(2, np.int32)).reward[0])
"""


def test_a_class_in_the_running_script_works_and_workers_end_with_the_interpreter(tmp_path):
    done = run_script(tmp_path, SCRIPT + "\nif __name__ == '__main__':\n    main()\n")
    assert done.stdout == "reward 11.0\n", done.stderr
    assert done.returncode == 0 and done.stderr == ""


def test_a_script_that_trains_when_it_is_imported_is_told_about_the_guard(tmp_path):
    done = run_script(tmp_path, SCRIPT + "\nmain()\n")
    assert done.returncode != 0
    assert "__name__ == '__main__'" in done.stderr


@pytest.mark.parametrize(("code", "cause"), [("RAISE", "ZeroDivisionError"), ("WRONG_SHAPE", r"shape \(1,\).*\(3,\)")])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_step_names_environment_index_seed_and_traceback(simulator, num_workers, code, cause):
    envs = simulator(num_envs=4, num_workers=num_workers)
    seed = int(envs.reset(9)[2, 2])
    with pytest.raises(EnvironmentFailure, match=rf"(?s)Scripted: step of environment 2 of 4 .*{cause}") as failure:
        envs.step(actions(GO, GO, getattr(scripted, code), GO))
    assert f"(seed {seed // 1000}" in str(failure.value), "float32 holds the seed's first digits"
    assert ("Traceback" in str(failure.value)) == (code == "RAISE"), "of an error of the environment's own alone"
    with pytest.raises(EnvironmentFailure, match="closed or had failed"):
        envs.step(actions(GO, GO, GO, GO))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_reset_within_a_step_is_reported(simulator, num_workers):
    envs = simulator(num_workers=num_workers, reset_raises_in_episode=2)
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match=r"(?s)environment 1 of 2.*RuntimeError: the reset went wrong"):
        envs.step(actions(GO, TERMINATE))


def test_an_error_in_the_first_reset_is_reported(simulator):
    envs = simulator(num_workers=1, reset_raises_in_episode=1)
    with pytest.raises(
        EnvironmentFailure, match=r"(?s)reset of environment 0 of 2.*RuntimeError: the reset went wrong"
    ):
        envs.reset(0)


def test_an_error_in_the_constructor_is_reported_with_its_traceback(simulator):
    for num_workers in (0, 1):
        with pytest.raises(EnvironmentFailure, match=r"(?s)making the environment raised.*RuntimeError: no such robot"):
            simulator(scripted.raise_in_constructor, num_workers=num_workers)


@pytest.mark.parametrize(
    ("code", "cause"), [("NAN_OBS", r"observation nan \(coordinate 1\)"), ("INF_REWARD", "reward inf")]
)
def test_numbers_that_are_not_finite_are_refused(simulator, code, cause):
    envs = simulator(num_envs=3)
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match=rf"step of environment 1 of 3 \(seed \d+\) returned the {cause}"):
        envs.step(actions(GO, getattr(scripted, code), GO))


def test_a_nan_in_the_last_observation_of_an_episode_is_refused(simulator):
    envs = simulator(functools.partial(_nan_at_the_end), num_envs=1)
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match="observation nan"):
        envs.step(actions(TERMINATE))


def _nan_at_the_end():
    class NanAtTheEnd(scripted.Scripted):
        def observe(self):
            return np.array([np.nan if self.t else 0.0, 0, 0])

    return NanAtTheEnd()


@pytest.mark.parametrize(
    ("code", "cause"),
    [("KILL", "killed by SIGKILL"), ("EXIT", "exit code 7"), ("SEGFAULT", r"SIGSEGV.*Segmentation fault.*in step")],
)
def test_a_worker_that_dies_in_a_step_is_reported_with_its_environment(simulator, code, cause):
    envs = simulator(num_envs=4, num_workers=2)
    envs.reset(0)
    workers = pids(envs)
    with pytest.raises(EnvironmentFailure, match=rf"(?s)step of environment 3 of 4 \(seed \d+\).*{cause}"):
        envs.step(actions(GO, GO, GO, getattr(scripted, code)))
    assert wait_until_gone(workers)


def test_a_worker_killed_between_two_steps_is_blamed_on_no_environment(simulator):
    envs = simulator(num_envs=2, num_workers=2)
    envs.reset(0)
    os.kill(pids(envs)[1], signal.SIGKILL)
    with pytest.raises(EnvironmentFailure, match=r"before step, something outside the environments.*SIGKILL"):
        for _ in range(2):
            envs.step(actions(GO, GO))


def test_workers_ignore_interrupts_and_are_gone_after_close(simulator):
    envs = simulator(num_envs=2, num_workers=2)
    envs.reset(0)
    workers = pids(envs)
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert envs.step(actions(GO, GO)).valid.all()
    assert len({os.getpgid(pid) for pid in (*workers, os.getpid())}) == 3, "Ctrl-C at a terminal must not reach workers"
    envs.close()
    envs.close()
    assert wait_until_gone(workers, seconds=0)


@pytest.mark.parametrize("doing", ["GO", pytest.param("SLEEP", marks=pytest.mark.slow)])
def test_workers_leave_when_the_trainer_is_killed_even_from_a_step_that_hangs(tmp_path, doing):
    code = """
        import os, signal, time
        from scripted_environments import *
        from policy_gradients.environments.gymnasium.buffers import Layout
        from policy_gradients.environments.gymnasium.chunk import ChunkPlan
        from policy_gradients.environments.gymnasium.pool import WorkerPool

        pool = WorkerPool([ChunkPlan(Scripted, {}, None, w, w, 1) for w in range(2)])
        shared = pool.attach(Layout(2, 2, (3,), "float32", (), "int32"))
        pool.reset()
        shared.action[:] = DOING
        for worker in pool._workers:
            worker.command(b"s")
        time.sleep(0.1)
        print(*[worker.process.pid for worker in pool._workers], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_script(tmp_path, code.replace("DOING", doing))
    workers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(workers) == 2, done.stderr
    assert wait_until_gone(workers)


def test_an_interrupted_step_ends_the_workers(simulator, monkeypatch):
    monkeypatch.setattr(worker, "GRACE", 0.1)
    envs = simulator(num_envs=1, num_workers=1)
    envs.reset(0)
    workers = pids(envs)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            envs.step(actions(scripted.SLEEP))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert wait_until_gone(workers, seconds=0)


def test_a_worker_costs_no_jax(tmp_path):
    code = "import sys\nimport policy_gradients.environments.gymnasium.worker\nprint('jax' in sys.modules)"
    assert run_script(tmp_path, code).stdout == "False\n"


@pytest.mark.parametrize(
    ("spaces", "said"),
    [
        ({"obs": "dict"}, r"Dict\('position': Box.*FlattenObservation"),
        ({"obs": "discrete"}, r"Discrete\(2\).*FlattenObservation"),
        ({"obs": "text"}, r"Text.*TransformObservation"),
        ({"action": "multi_discrete"}, r"MultiDiscrete\(\[2 3\]\).*TransformAction"),
        ({"action": "integers"}, r"Box\(0, 5, \(2,\), int32\).*TransformAction"),
    ],
)
def test_other_spaces_are_refused_by_name_with_the_wrapper_that_helps(simulator, spaces, said):
    with pytest.raises(UserError, match=said):
        simulator(scripted.Spaces, **spaces)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("CartPol-v1", {}, "CartPol"),
        ("no_such_module:Task-v0", {}, "no_such_module"),
        ("CartPole-v1", {"gravity": 1.0}, "gravity"),
    ],
)
def test_a_request_that_cannot_be_met_is_the_users_error(simulator, num_workers, what, options, said):
    with pytest.raises(UserError, match=said):
        simulator(what, num_workers=num_workers, **options)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (
            "no observation_space",
            r"making the environment failed: the environment has no observation_space; .*spaces.Box in",
        ),
        ("no action_space", r"making the environment failed: the environment has no action_space; .* Discrete"),
        (
            "reset without seed",
            r"reset of environment 0 .* failed: Mistaken\.reset\(\) got an .*'seed'; .*seed=None, op",
        ),
        ("reset without info", r"reset of environment 0 .* failed: reset returned ndarray, expected \(obs, info\)"),
        ("4 values", r"step of environment 0 .* failed: step returned 4 values, expected \(obs, reward, term.* `done`"),
        ("no values", r"step of environment 0 .* failed: step returned NoneType, expected \(obs, reward"),
        ("no reward", r"step of environment 0 .* failed: step returned the reward None, expected a number"),
        (
            "short observation",
            r"reset of environment 0 .* failed: reset returned an observation of shape \(2,\), but .*3",
        ),
        ("two rewards", r"step of environment 0 .* failed: step returned the reward \[1.0, 2.0\], expected a number"),
    ],
)
def test_a_common_mistake_in_an_environment_is_one_sentence(simulator, num_workers, mistake, said):
    with pytest.raises(EnvironmentFailure, match=rf"^Mistaken: .*{said}") as failure:
        mistaken(simulator, mistake, num_workers=num_workers)
    assert len(str(failure.value).splitlines()) == 1


def mistaken(simulator, mistake, **options):
    envs = simulator(scripted.Mistaken, num_envs=1, mistake=mistake, **options)
    envs.reset(0)
    return envs.step(actions(GO))


def test_too_few_values_are_found_by_gymnasiums_own_wrapper_too(simulator):
    with pytest.raises(
        EnvironmentFailure, match=r"failed: step returned other than \(obs.* \(not enough values .*got 4\)\)"
    ):
        mistaken(simulator, "4 values", max_episode_steps=9)


def test_a_reward_may_be_an_array_of_one_number(simulator):
    np.testing.assert_array_equal(mistaken(simulator, "reward in an array").reward, [1.5])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
def test_observations_of_no_axis_or_no_number_are_refused(simulator, shape):
    with pytest.raises(UserError, match=rf"Shaped has observations of shape {re.escape(str(shape))}, .*one axis"):
        simulator(scripted.Shaped, shape=shape)


@pytest.mark.parametrize(
    "bad", [{"num_envs": 0}, {"num_workers": -1}, {"max_episode_steps": 0}, {"max_episode_steps": 2.5}]
)
def test_counts_below_their_least_or_between_integers_are_refused(simulator, bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        simulator(**bad)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_callable_that_makes_something_else_is_one_sentence(simulator, num_workers):
    with pytest.raises(EnvironmentFailure, match=r"failed: the callable returned dict, not a gymnasium\.Env\.$"):
        simulator(dict, num_workers=num_workers)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_box_actions_arrive_in_the_dtype_of_the_environment_and_may_be_kept(simulator, dtype):
    envs = simulator(scripted.Echo, dtype=dtype)
    envs.reset(0)
    envs.step(np.zeros((2, 2), np.float32))
    drawn = np.array([[-2, 0.5], [1, 2]], np.float32)
    np.testing.assert_array_equal(envs.step(drawn).obs, drawn)
    assert envs.spec.control_bounds.high.tolist() == [2, 2]


def test_an_action_at_a_bound_that_float32_cannot_hold_lies_within_the_environments_own(simulator):
    envs = simulator(scripted.Echo, bound=0.1)  # its `contains` refuses the float32 of 0.1, which is greater
    envs.reset(0)
    high = envs.spec.control_bounds.high
    assert (high.astype(np.float64) > 0.1).all()
    np.testing.assert_array_equal(envs.step(np.stack([-high, high])).obs, np.float32([[-0.1, -0.1], [0.1, 0.1]]))


def test_discrete_actions_are_shifted_to_their_start(simulator):
    envs = simulator(scripted.Echo, discrete=True)
    envs.reset(0)
    np.testing.assert_array_equal(envs.step(actions(0, 2)).obs[:, 0], [5, 7])


@pytest.mark.parametrize(
    ("shape", "seen", "dtype"),
    [
        ((4, 6, 8), (6, 8, 4), np.uint8),
        ((6, 8, 3), (6, 8, 3), np.uint8),
        ((6, 8), (6, 8, 1), np.uint8),
        ((5,), (5,), np.float32),
    ],
)
def test_images_come_with_the_channels_last_and_bytes_as_numbers(shape, seen, dtype):
    env = make_gymnasium(scripted.Camera, 2, 0, shape=shape)
    _, obs = env.reset(jax.random.key(0))
    assert obs.shape == (2, *seen) and obs.dtype == dtype
    assert env.spec.obs_space.shape == seen and env.spec.obs_space.dtype == dtype
    image = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(obs[1], np.moveaxis(image, 0, -1) if shape[0] == 4 else image.reshape(seen))
    env.close()


def test_restore_starts_new_episodes_and_says_so_with_a_dummy_step(simulator):
    envs = simulator(num_envs=2)
    first = envs.reset(7).copy()
    for _ in range(3):
        envs.step(actions(GO, TERMINATE))
    saved = envs.snapshot()
    assert saved["episodes"].tolist() == [0, 3] and not envs.spec.exact_resume

    other = simulator(num_envs=2)
    other.restore(saved)
    dummy = play(other, GO, TERMINATE)
    assert not dummy.valid.any() and not dummy.terminated.any() and dummy.reward.tolist() == [0, 0]
    np.testing.assert_array_equal(dummy.obs[:, :2], [[1, 0], [1, 0]])
    assert not np.isin(dummy.obs[:, 2], first[:, 2]).any(), "the seeds of the run's start must not come again"
    step = other.step(actions(GO, TERMINATE))
    assert step.valid.all() and step.reward.tolist() == [11, 11]
    assert other.snapshot()["num_steps"] == 4 and other.snapshot()["episodes"].tolist() == [0, 4]

    again = simulator(num_envs=2)
    again.restore(saved)
    np.testing.assert_array_equal(again.step(actions(GO, GO)).obs, dummy.obs)


def test_a_compiled_scan_steps_the_workers_in_order():
    env = make_gymnasium(scripted.Scripted, 2, 2)
    script = jnp.array([[GO, GO], [GO, TERMINATE], [TRUNCATE, GO]], jnp.int32)

    @jax.jit
    def run(key):
        state, _ = env.reset(key)
        state, steps = jax.lax.scan(env.step, state, script)
        return state, steps

    state, steps = run(jax.random.key(0))
    np.testing.assert_array_equal(steps.reward, [[11, 11], [12, 12], [13, 21]])
    np.testing.assert_array_equal(steps.obs[:, :, 1], [[1, 1], [2, 0], [0, 1]])
    assert env.snapshot(state)["step"] == 3
    env.close()


def test_a_failure_leaves_what_can_be_saved(simulator):
    envs = simulator(num_workers=1)
    envs.reset(5)
    envs.step(actions(TERMINATE, GO))
    with pytest.raises(EnvironmentFailure):
        envs.step(actions(scripted.RAISE, GO))
    saved = envs.snapshot()
    assert saved["seed"] == 5 and saved["episodes"].tolist() == [1, 0]
