"""A 1 kHz control loop: MuJoCo in real time, the policy as C, and how late each action is (picture: jitter.png).

policy-gradients train ppo --env HalfCheetah-v4 --run-dir runs/cheetah
python examples/control_loop.py runs/cheetah
"""

import contextlib
import gc
import os
import sys
import time
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import mujoco
import numpy as np

from policy_gradients.deployment.c99 import load_c_policy

PERIOD = 1e-3  # seconds per tick; MuJoCo's own step is made as long


def main(run: str, seconds: float = 20.0, priority: int = 0) -> np.ndarray:
    """Runs the loop; microseconds from each tick's deadline until its action was there and the physics had stepped."""
    policy = load_c_policy(run)
    model = mujoco.MjModel.from_xml_path(str(Path(gymnasium.__file__).parent / "envs/mujoco/assets/half_cheetah.xml"))
    model.opt.timestep, data = PERIOD, mujoco.MjData(model)
    late = np.empty(int(seconds / PERIOD))
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if priority:  # needs the right to it: root, or `ulimit -r`
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    gc.disable()
    deadline = time.perf_counter() + PERIOD
    for tick in range(late.size):
        time.sleep(max(0.0, deadline - time.perf_counter()))
        data.ctrl[:] = policy(np.concatenate([data.qpos[1:], data.qvel]))
        mujoco.mj_step(model, data)
        late[tick] = 1e6 * (time.perf_counter() - deadline)
        deadline += PERIOD
    gc.enable()
    os.sched_setscheduler(0, *before)
    return late


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: control_loop.py RUN")
    for name, level in (("ordinary scheduling", 0), ("SCHED_FIFO", 80)):
        with contextlib.suppress(PermissionError):
            ticks = main(sys.argv[1], priority=level)
            p50, p99, p999 = np.percentile(ticks, (50, 99, 99.9))
            label = f"{name}: p50 {p50:.0f}, p99 {p99:.0f}, p99.9 {p999:.0f}, most {ticks.max():.0f} µs"
            print(label)
            plt.hist(ticks, np.geomspace(10, 1e5, 200), histtype="step", label=label)
    plt.gca().set(xscale="log", yscale="log", xlabel="µs from deadline to action and step", ylabel="ticks")
    plt.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    plt.savefig("jitter.png", dpi=120, bbox_inches="tight")
