"""Makes sb3.npz: what Stable-Baselines3, sb3-contrib and PyTorch compute on random arrays.

Run where they are installed (they are not needed by the tests):
    python tests/parity/reference/make_sb3.py
Everything is in double precision: the cast of observations to float32 is skipped. Random starting values of
sb3-contrib's conjugate gradients (1e-4 · N(0, 1)) are set to 0, so that its result is a function of its arguments.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import sb3_contrib
import sb3_contrib.trpo.trpo as contrib_trpo
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common import policies
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import RolloutBufferSamples

OBS, ROWS, HIDDEN = 3, 48, 6
LAYERS = {
    "policy/torso/0": "mlp_extractor.policy_net.0",
    "policy/head": "action_net",
    "value/torso/0": "mlp_extractor.value_net.0",
    "value/head": "value_net",
}


class World(gym.Env):
    """Only its spaces are used."""

    def __init__(self, action_space):
        self.observation_space = spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
        self.action_space = action_space


class StoredBatch(SimpleNamespace):
    """In place of a rollout buffer: one batch, whole."""

    def get(self, batch_size=None):
        yield RolloutBufferSamples(
            self.observations, self.actions, self.old_values, self.old_log_prob, self.advantages, self.targets
        )


def make_learner(algorithm, action_space, rng, **options):
    """Theirs, with weights in double precision that are neither small nor zero."""
    network = {"net_arch": {"pi": [HIDDEN], "vf": [HIDDEN]}}
    learner = algorithm("MlpPolicy", World(action_space), policy_kwargs=network, device="cpu", **options)
    learner.policy.double()
    for parameter in learner.policy.parameters():
        parameter.data = th.as_tensor(0.5 * rng.normal(size=parameter.shape))
    learner.set_logger(configure(None, []))
    return learner


def parameters(policy):
    """By our names, weights as [in, out]."""
    named = dict(policy.named_parameters())
    return _by_our_names({name: value.detach().numpy() for name, value in named.items()})


def gradients(policy):
    return _by_our_names({name: value.grad.numpy() for name, value in policy.named_parameters()})


def _by_our_names(theirs):
    ours = {}
    for name, layer in LAYERS.items():
        ours[f"{name}/weight"], ours[f"{name}/bias"] = theirs[f"{layer}.weight"].T, theirs[f"{layer}.bias"]
    if "log_std" in theirs:
        ours["policy/log_std"] = theirs["log_std"]
    return {name: np.array(value) for name, value in ours.items()}


def make_batch(policy, action_space, rng, stale):
    """Rows whose stored log-probabilities are those of the policy, or `stale` nats away from them."""
    obs = th.as_tensor(rng.normal(size=(ROWS, OBS)))
    if isinstance(action_space, spaces.Discrete):
        actions = th.as_tensor(rng.integers(action_space.n, size=(ROWS, 1)), dtype=th.float64)
        drawn = actions.long().flatten()
    else:
        actions = drawn = th.as_tensor(rng.normal(size=(ROWS, *action_space.shape)))
    with th.no_grad():
        values, log_prob, _ = policy.evaluate_actions(obs, drawn)
    noise = lambda scale: th.as_tensor(scale * rng.normal(size=ROWS))  # noqa: E731
    batch = StoredBatch(
        observations=obs,
        actions=actions,
        old_values=values.flatten() + noise(0.3),
        old_log_prob=log_prob + noise(stale),
        advantages=noise(1.0),
        targets=values.flatten() + noise(1.0),
    )
    batch.values, batch.returns = batch.old_values.numpy(), batch.targets.numpy()
    return batch


def arrays_of(batch):
    names = ("observations", "actions", "old_values", "old_log_prob", "advantages", "targets")
    return {name: getattr(batch, name).numpy() for name in names}


def logged(learner):
    return {
        name: np.float64(value) for name, value in learner.logger.name_to_value.items() if name.startswith("train/")
    }


def ppo_case(action_space, seed):
    rng = np.random.default_rng(seed)
    options = {"n_epochs": 1, "batch_size": ROWS, "clip_range": 0.2, "ent_coef": 0.01, "vf_coef": 0.25}
    learner = make_learner(stable_baselines3.PPO, action_space, rng, max_grad_norm=1e9, **options)
    learner.rollout_buffer = make_batch(learner.policy, action_space, rng, stale=0.3)
    found = {f"batch/{name}": value for name, value in arrays_of(learner.rollout_buffer).items()}
    found |= {f"params/{name}": value for name, value in parameters(learner.policy).items()}
    before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    for normalize in (True, False):  # the last one's gradient is kept
        learner.policy.load_state_dict(before)
        learner.normalize_advantage = normalize
        learner.train()
        found |= {f"{'normalized' if normalize else 'plain'}/{name}": value for name, value in logged(learner).items()}
    return found | {f"gradient/{name}": value for name, value in gradients(learner.policy).items()}


def trpo_case(action_space, seed, target_kl):
    rng = np.random.default_rng(seed)
    options = {"n_critic_updates": 0, "cg_max_steps": 10, "normalize_advantage": False, "sub_sampling_factor": 1}
    learner = make_learner(sb3_contrib.TRPO, action_space, rng, target_kl=target_kl, **options)
    learner.rollout_buffer = make_batch(learner.policy, action_space, rng, stale=0.0)
    found = {f"batch/{name}": value for name, value in arrays_of(learner.rollout_buffer).items()}
    found |= {f"params/{name}": value for name, value in parameters(learner.policy).items()}
    solve, tries, directions = contrib_trpo.conjugate_gradient_solver, [], []

    def watched_solver(*args, **kwargs):
        directions.append(solve(*args, **kwargs))
        policy_of = learner.policy.get_distribution

        def counted(obs):
            tries.append(1)
            return policy_of(obs)

        learner.policy.get_distribution = counted  # from here on only the line search asks for it
        return directions[-1]

    contrib_trpo.conjugate_gradient_solver, random_start = watched_solver, th.randn_like
    th.randn_like = th.zeros_like
    try:
        learner.train()
    finally:
        contrib_trpo.conjugate_gradient_solver, th.randn_like = solve, random_start
    found |= {f"after/{name}": value for name, value in parameters(learner.policy).items()}
    found |= logged(learner)
    norm = directions[0].norm().item()
    return found | {
        "direction_norm": np.float64(norm),
        "trials": np.int64(len(tries)),
        "target_kl": np.float64(target_kl),
    }


def gae_case(seed):
    """Their buffer's estimate, with their bootstrap at time limits (r + γ V(s′)) as in collect_rollouts."""
    rng, steps, envs, gamma, gae_lambda = np.random.default_rng(seed), 20, 4, 0.97, 0.9
    flags = rng.random((2, steps, envs)) < 0.15
    terminated, truncated = flags[0], flags[1] & ~flags[0]
    value, after, reward = rng.normal(size=(3, steps, envs))
    ends = terminated | truncated
    after[:-1] = np.where(ends[:-1], after[:-1], value[1:])
    box = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, box, box, device="cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=envs)
    buffer.rewards, buffer.values = reward + gamma * np.where(truncated, after, 0.0), value.copy()
    buffer.advantages = np.zeros((steps, envs))
    buffer.episode_starts = np.concatenate([np.zeros((1, envs)), ends[:-1]]).astype(np.float64)
    buffer.compute_returns_and_advantage(th.as_tensor(after[-1]), ends[-1])
    return {
        "reward": reward, "value": value, "next_value": after, "terminated": terminated, "truncated": truncated,
        "gamma": np.float64(gamma), "gae_lambda": np.float64(gae_lambda),
        "advantage": buffer.advantages, "returns": buffer.returns,
    }  # fmt: skip


def rmsprop_case(seed):
    """Five steps of the optimiser that Stable-Baselines3's A2C uses, with its settings."""
    rng = np.random.default_rng(seed)
    start, gradient = rng.normal(size=4), rng.normal(size=(5, 4)) * np.array([1.0, 1e-2, 1e-4, 1e-6])
    parameter = th.nn.Parameter(th.as_tensor(start.copy()))
    optimizer = th.optim.RMSprop([parameter], lr=7e-4, alpha=0.99, eps=1e-5, weight_decay=0)
    after = []
    for row in gradient:
        parameter.grad = th.as_tensor(row.copy())
        optimizer.step()
        after.append(parameter.detach().numpy().copy())
    return {"start": start, "gradient": gradient, "after": np.array(after)}


def main():
    policies.preprocess_obs = lambda obs, *args, **kwargs: obs
    box, discrete = (lambda dims: spaces.Box(-1, 1, (dims,), np.float64)), spaces.Discrete(3)
    cases = {
        "ppo_box": ppo_case(box(2), 0),
        "ppo_discrete": ppo_case(discrete, 1),
        "trpo_one_dim": trpo_case(box(1), 2, 0.01),
        "trpo_two_dims": trpo_case(box(2), 3, 0.01),
        "trpo_discrete": trpo_case(discrete, 4, 0.01),
        "trpo_wide": trpo_case(box(1), 10, 0.5),
        "gae": gae_case(6),
        "rmsprop": rmsprop_case(7),
    }
    arrays = {f"{case}/{name}": np.asarray(value) for case, found in cases.items() for name, value in found.items()}
    versions = f"stable-baselines3 {stable_baselines3.__version__}, sb3-contrib {sb3_contrib.__version__}"
    versions += f", torch {th.__version__}, numpy {np.__version__}, python {sys.version.split()[0]}"
    arrays["provenance"] = np.array(f"make_sb3.py with {versions}")
    np.savez_compressed(Path(__file__).with_name("sb3.npz"), **arrays)


if __name__ == "__main__":
    main()
