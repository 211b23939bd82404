"""What every algorithm promises, whatever kind of action its policy draws: one table, one suite."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from policy_gradients.algorithms import (
    A2CConfig,
    PPOConfig,
    REINFORCEConfig,
    TRPOConfig,
    VMPOConfig,
    a2c,
    ppo,
    reinforce,
    trpo,
    vmpo,
)
from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import Discrete, Environment, EnvironmentSpec, box
from policy_gradients.estimation.normalization import normalize_obs
from policy_gradients.networks import NetworkConfig, actor_critic
from policy_gradients.training.rollout import Carry, init_carry, rollout
from policy_gradients.types import ActorCritic, Algorithm, LearnerState, Transition

T, N = 8, 4
KEY = jax.random.key(7)

QUICK = {"num_steps": T, "lr_schedule": "constant", "learning_rate": 1e-3}
CONFIGS = {
    "reinforce": REINFORCEConfig(**QUICK),
    "reinforce-value": REINFORCEConfig(**QUICK, baseline="value"),
    "a2c": A2CConfig(**QUICK),
    "trpo": TRPOConfig(**QUICK, value_epochs=2, num_minibatches=2),
    "ppo": PPOConfig(**QUICK, num_epochs=2, num_minibatches=2),
    "vmpo": VMPOConfig(**QUICK, num_epochs=2, num_minibatches=2),
}
CONSTRUCTORS = {
    "reinforce": reinforce,
    "reinforce-value": reinforce,
    "a2c": a2c,
    "trpo": trpo,
    "ppo": ppo,
    "vmpo": vmpo,
}
KINDS = {
    "normal": NetworkConfig(hidden=(8,), distribution="normal"),
    "tanh_normal": NetworkConfig(hidden=(8,), distribution="tanh_normal", state_dependent_std=True),
    "categorical": NetworkConfig(hidden=(8,), distribution="categorical", shared_torso=True),
}
FAST = {
    ("ppo", "normal"),
    ("ppo", "categorical"),
    ("reinforce", "categorical"),
    ("reinforce-value", "normal"),
    ("a2c", "tanh_normal"),
    ("trpo", "normal"),
    ("vmpo", "normal"),
}
"""What the fast tests cover; the slow ones cover every algorithm with every kind of action."""


class Subject(NamedTuple):
    """An algorithm with networks in a world, and its programs."""

    agent: ActorCritic
    algorithm: Algorithm
    config: Any
    rollout: Callable[..., tuple[Carry, Transition]]  # (key, params, statistics, carry)
    update: Callable[..., tuple[LearnerState, Any]]  # (key, learner, trajectory)
    begin: Callable[[int], tuple[LearnerState, Carry]]  # (seed)
    traces: list[str]  # one entry per time that a program was traced

    def iterate(self, seed: int, updates: int) -> tuple[LearnerState, list[tuple[LearnerState, Transition, Any]]]:
        """The learner after so many updates, and for each the learner before it, its trajectory and its metrics."""
        learner, carry = self.begin(seed)
        history = []
        for i in range(updates):
            act_key, learn_key = jax.random.split(jax.random.fold_in(jax.random.key(100 + seed), i))
            carry, trajectory = self.rollout(act_key, learner.params, learner.statistics, carry)
            after, metrics = self.update(learn_key, learner, trajectory)
            history.append((learner, trajectory, metrics))
            learner = after
        return learner, history


def drifting_world(discrete: bool) -> Environment:
    """Observations far from mean 0 and std 1 that drift; episodes end at random or after 5 steps."""

    def reset(key):
        obs = jnp.array([5.0, -30.0, 0.2]) + 2.0 * jax.random.normal(key, (3,))
        return obs, obs

    def step(key, state, action):
        obs = state + 0.3 * jax.random.normal(key, (3,))
        push = action.astype(jnp.float32) - 1.0 if discrete else jnp.sum(action)
        return obs, obs, push * obs[2] + obs[0], obs[0] > 7.0

    space = Discrete(3) if discrete else box(-1, 1, (2,))
    spec = EnvironmentSpec("Drift-v0", "jax", N, box(-np.inf, np.inf, (3,)), space)
    return autoreset(spec, reset, step, max_episode_steps=5)


@cache
def make_subject(algorithm_name: str, kind: str) -> Subject:
    """The same object, with its compiled programs, for every test that asks for it."""
    config, env = CONFIGS[algorithm_name], drifting_world(kind == "categorical")
    network = replace(KINDS[kind], shared_torso=False) if algorithm_name == "trpo" else KINDS[kind]
    num_actions = 3 if kind == "categorical" else None
    agent = actor_critic(jax.ShapeDtypeStruct((3,), jnp.float32), (2,), num_actions, network)
    algorithm = CONSTRUCTORS[algorithm_name](agent, config, num_envs=N, total_steps=100 * T * N)
    traces: list[str] = []

    def counted(name, function):
        def traced(*args):
            traces.append(name)
            return function(*args)

        return jax.jit(traced)

    @jax.jit
    def start(key):
        learner_key, env_key = jax.random.split(key)
        return algorithm.init(learner_key), init_carry(env, env_key)

    acting = partial(rollout, agent, env, config.normalization, T)
    begin = lambda seed: start(jax.random.key(seed))  # noqa: E731
    programs = counted("rollout", acting), counted("update", algorithm.update)
    return Subject(agent, algorithm, config, *programs, begin, traces)


def subjects(*fast: tuple[str, str]) -> list[Any]:
    """Parameters of `subject`: every algorithm with every kind of action, all but `fast` in the slow tests."""
    marks = lambda case: () if case in fast else pytest.mark.slow  # noqa: E731
    cases = [(algorithm, kind) for algorithm in CONFIGS for kind in KINDS]
    return [pytest.param(case, marks=marks(case), id="-".join(case)) for case in cases]


@pytest.fixture(scope="session", params=subjects(*FAST))
def subject(request: pytest.FixtureRequest) -> Subject:
    return make_subject(*request.param)


@pytest.fixture(scope="module")
def history(subject):
    """Fifty updates: of each the learner before it, the trajectory and the metrics."""
    return subject.iterate(seed=0, updates=50)[1]


@pytest.fixture(scope="module")
def masked(history):
    """A trajectory in which some rows are dummies: the first, the last, and many of the first two environments."""
    trajectory = history[3][1]
    rng = np.random.default_rng(0)
    share = np.array([0.7, 0.6, 0.1, 0.0])
    valid = rng.random(trajectory.valid.shape) >= share
    valid[0, 0], valid[-1, -1] = False, False
    return trajectory._replace(valid=jnp.asarray(valid))


def assert_same_bits(one, other):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert np.array_equal(a, b, equal_nan=True), f"{jax.tree_util.keystr(path)}: {a} != {b}"


def assert_close(one, other, rtol, atol):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("update", [1, 2, 50])
def test_the_ratio_is_one_before_the_first_step(history, update):
    """Trap 7: a normaliser that advances between rollout and loss changes what the policy sees."""
    learner, _, metrics = history[update - 1]
    assert metrics["train/ratio_max_deviation_start"] < 1e-5
    if update > 1:
        assert np.abs(np.asarray(learner.statistics.obs.mean)).max() > 1, "the statistics have moved"


@pytest.mark.parametrize("update", [1, 50])
def test_the_kl_is_zero_while_the_parameters_stay(subject, history, update):
    """Trap 7, seen from the loss itself: with a learning rate of 0 every minibatch is the first."""
    learner, trajectory, _ = history[update - 1]
    if isinstance(subject.config, TRPOConfig):  # its step has no learning rate: it needs advantages of 0 to stay
        learner, trajectory = nothing_to_learn(learner, trajectory)
    _, metrics = subject.update(KEY, learner._replace(learning_rate=jnp.float32(0)), trajectory)
    assert metrics["train/update_norm"] == 0
    divergences = [name for name in metrics if "kl" in name and name != "train/weight_kl"]
    assert "train/kl" in divergences
    for name in divergences:
        assert abs(metrics[name]) < 1e-6, name
    assert metrics["train/kl"] == 0
    assert metrics.get("train/clip_fraction", 0) == 0


def nothing_to_learn(learner, trajectory):
    """The same experience without a reward, judged by a critic that says 0 everywhere."""
    value = learner.params["value"]
    value = value | {"head": jax.tree.map(jnp.zeros_like, value["head"])}
    learner = learner._replace(params=learner.params | {"value": value})
    return learner, trajectory._replace(reward=jnp.zeros_like(trajectory.reward))


def test_the_log_prob_of_the_stored_action_is_the_stored_one(subject, history):
    """Trap 8: actions are stored as drawn, before any clip or squash."""
    learner, trajectory, _ = history[9]

    @jax.jit
    def recompute(learner, trajectory):
        obs = normalize_obs(subject.config.normalization, learner.statistics, trajectory.obs)
        return subject.agent.policy(learner.params, obs).log_prob(trajectory.action)

    if jnp.issubdtype(trajectory.action.dtype, jnp.floating):
        assert (jnp.abs(trajectory.action) > 1).any(), "some actions lie beyond the bounds"
    np.testing.assert_allclose(recompute(learner, trajectory), trajectory.log_prob, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["reinforce", "a2c", "ppo"])
def test_a_linear_entropy_bonus_falls_to_0_with_the_run(name):
    """Counted in environment steps at the update's start, so that an update is one with what is left of c_H."""
    plain, total_steps = make_subject(name, "normal"), 100 * T * N
    begun, carry = plain.begin(3)
    _, trajectory = plain.rollout(KEY, begun.params, begun.statistics, carry)

    @partial(jax.jit, static_argnums=1)
    def learnt(entropy_coef, schedule, done):
        config = replace(plain.config, entropy_coef=entropy_coef, entropy_schedule=schedule)
        learner = begun._replace(step=begun.step.add(done))
        update = CONSTRUCTORS[name](plain.agent, config, num_envs=N, total_steps=total_steps).update
        return update(KEY, learner, trajectory)[0].opt_state  # a first step of Adam has the gradient's signs alone

    full = learnt(0.4, "constant", 0)
    for done, left in ((0, 1.0), (75 * T * N, 0.25), (101 * T * N, 0.0)):
        falling = learnt(0.4, "linear", done)
        assert_close(falling, learnt(0.4 * left, "constant", done), rtol=1e-5, atol=1e-8)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), falling, full)
        assert (max(jax.tree.leaves(moved)) > 1e-6) == (left < 1), "the bonus shows in the gradient"


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_discount_that_rises_is_on_a_line_from_its_start_to_the_runs_end(name):
    """γ is that of the update's start, wherever it is used: in advantages and in the scale of rewards."""
    plain, total_steps = make_subject(name, "normal"), 100 * T * N
    scaled = replace(plain.config.normalization, reward=not plain.config.normalization.value)
    config = replace(plain.config, normalization=scaled, gamma=0.9)
    init = CONSTRUCTORS[name](plain.agent, config, num_envs=N, total_steps=total_steps).init
    begun, (_, carry) = init(KEY), plain.begin(3)
    _, trajectory = plain.rollout(KEY, begun.params, begun.statistics, carry)

    @partial(jax.jit, static_argnames="rises")
    def learnt(done, gamma, rises=False):
        chosen = {"gamma": 0.9, "gamma_start": gamma} if rises else {"gamma": gamma}
        learner = begun._replace(step=begun.step.add(done))
        update = CONSTRUCTORS[name](plain.agent, replace(config, **chosen), num_envs=N, total_steps=total_steps).update
        after, metrics = update(KEY, learner, trajectory)
        return after.params, after.statistics, metrics["train/return_mean"]

    constant = learnt(0, 0.9)
    for done, gamma in ((0, 0.5), (75 * T * N, 0.8), (101 * T * N, 0.9)):
        rising = learnt(done, 0.5, rises=True)
        assert_close(rising, learnt(done, gamma), rtol=1e-4, atol=1e-5)
        assert (abs(rising[2] - constant[2]) > 1e-3) == (gamma < 0.9), "the discount shows in the returns"


def test_an_update_keeps_the_structure_shapes_and_dtypes_of_the_state(history):
    """Trap 40: a leaf that changes its dtype, or becomes weakly typed, recompiles the program."""
    describe = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]  # noqa: E731
    before, after = history[0][0], history[1][0]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert describe(before) == describe(after)
    assert not any(weak for _, _, weak in describe(before))


def test_metrics_are_float32_scalars_with_a_group(history):
    for name, value in history[0][2].items():
        assert (value.shape, value.dtype) == ((), jnp.float32), name
        assert name.count("/") == 1


def test_rollout_and_update_are_traced_once(subject, history):
    """Trap 40: fifty updates, one program each."""
    assert sorted(set(subject.traces)) == ["rollout", "update"]
    assert subject.traces.count("update") == 1
    assert subject.traces.count("rollout") == 1


def test_an_update_is_a_function_of_its_arguments(subject, history):
    learner, trajectory, _ = history[5]
    assert_same_bits(subject.update(KEY, learner, trajectory), subject.update(KEY, learner, trajectory))


@pytest.mark.parametrize("subject", subjects(("ppo", "categorical")), indirect=True)
def test_a_seed_alone_learns_as_among_many(subject):
    """Trap 44: nothing couples the seeds of a vectorised program."""
    runs = [subject.iterate(seed, 2)[1][-1][:2] for seed in range(3)]
    keys = jax.random.split(KEY, 3)
    learners, trajectories = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    together = jax.jit(jax.vmap(subject.algorithm.update))(keys, learners, trajectories)
    for i, run in enumerate(runs):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        # batched products add in another order, and Adam divides small gradients by their own size
        assert_close(one, subject.update(keys[i], *run), rtol=1e-4, atol=1e-5)


def test_dummy_rows_change_nothing_whatever_stands_in_them(subject, history, masked):
    """Trap 5: NaN in the rows of a simulator's reset step, and flags that mean nothing there."""
    learner = history[3][0]

    def garbage(x):
        hole = masked.valid.reshape(masked.valid.shape + (1,) * (x.ndim - 2))
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.where(hole, x, jnp.nan)
        return jnp.where(hole, x, ~x if x.dtype == jnp.bool_ else 2 - x)

    spoilt = jax.tree.map(garbage, masked)._replace(valid=masked.valid)
    assert not jnp.isfinite(spoilt.obs).all()
    assert_same_bits(subject.update(KEY, learner, masked), subject.update(KEY, learner, spoilt))


def test_steps_are_counted_by_their_valid_rows(subject, history, masked):
    """Trap 43: the counter is Σ w."""
    learner = history[3][0]
    after, metrics = subject.update(KEY, learner, masked)
    taken = int(masked.valid.sum())
    assert 0 < taken < masked.valid.size
    assert int(after.step) - int(learner.step) == taken
    assert int(history[-1][0].step) == 49 * masked.valid.size
    assert metrics["normalizer/obs_count"] == int(learner.step) + taken


def test_statistics_advance_once_and_by_the_valid_rows(subject, history, masked):
    """Trap 7 and 11: two epochs over the rollout count it once."""
    learner = history[0][0]
    after, _ = subject.update(KEY, learner, masked)
    rows = np.asarray(masked.obs, np.float64)[np.asarray(masked.valid)]
    assert int(after.statistics.obs.count) == len(rows)
    np.testing.assert_allclose(after.statistics.obs.mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(after.statistics.obs.var, rows.var(axis=0), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_rewards_leave_everything_finite(subject, history, scale):
    """Numbers of any size may come from a simulator, also before the reward scale has seen any."""
    learner, trajectory, _ = history[0]
    trajectory = trajectory._replace(reward=jnp.full_like(trajectory.reward, scale).at[::2].multiply(-0.5))
    for i in range(5):
        learner, metrics = subject.update(jax.random.fold_in(KEY, i), learner, trajectory)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(learner))
        assert metrics["train/nonfinite"] == 0
        assert all(jnp.isfinite(value) for value in metrics.values()), metrics


@pytest.mark.parametrize("subject", subjects(("ppo", "normal")), indirect=True)
def test_two_devices_learn_what_one_learns(subject, history, masked):
    """Trap 20: environments spread over devices with unlike numbers of valid rows, one mean over all of them."""
    learner = history[3][0]
    mesh = Mesh(np.array(jax.devices()[:2]), ("env",))
    spread = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))  # noqa: E731
    per_device = np.asarray(masked.valid).reshape(len(masked.valid), 2, -1).sum(axis=(0, 2))
    assert per_device[0] < per_device[1] / 2

    learner_spread = jax.tree.map(spread, learner)
    scale = learner.statistics.reward
    if scale is not None:
        scale = jax.tree.map(spread, scale)._replace(running_return=spread(scale.running_return, "env"))
        learner_spread = learner_spread._replace(statistics=learner_spread.statistics._replace(reward=scale))
    trajectory = jax.tree.map(lambda x: spread(x, None, "env"), masked)
    assert len(trajectory.obs.sharding.device_set) == 2

    one = subject.update(KEY, learner, masked)
    two = jax.jit(subject.algorithm.update)(KEY, learner_spread, trajectory)
    assert_close(one[0], jax.device_get(two[0]), rtol=1e-5, atol=2e-6)
    metrics = [dict(jax.device_get(each[1])) for each in (one, two)]
    residuals = [each.pop("train/cg_residual", 0.0) for each in metrics]  # of nearly equal vectors, as a share of ‖g‖
    np.testing.assert_allclose(*residuals, atol=1e-5)
    counts = [each.pop("train/cg_iterations", 0.0) for each in metrics]  # the residual may pass its bound one later
    np.testing.assert_allclose(*counts, atol=1)
    assert_close(*metrics, rtol=1e-4, atol=2e-6)


class Laplace(NamedTuple):
    """A distribution of a user's own, with no more than docs/howto/network.md asks for."""

    location: jax.Array

    def sample(self, key):
        return self.location + jax.random.laplace(key, self.location.shape)

    def log_prob(self, action):
        return -jnp.sum(jnp.abs(action - self.location) + jnp.log(2.0), axis=-1)

    def entropy(self):
        return jnp.full(self.location.shape[:-1], self.location.shape[-1] * (1.0 + jnp.log(2.0)))

    def kl(self, other):
        gap = jnp.abs(self.location - other.location)
        return jnp.sum(gap + jnp.exp(-gap) - 1.0, axis=-1)

    def kl_parts(self, other):
        return {"kl": self.kl(other)}

    def mode(self):
        return self.location


@pytest.mark.parametrize("name", CONFIGS)
def test_a_distribution_of_ones_own_needs_no_more_than_is_documented(name):
    agent = ActorCritic(
        jax.ShapeDtypeStruct((3,), jnp.float32),
        lambda key: {"policy": jnp.zeros((3, 2)), "value": jnp.zeros(3)},
        lambda params, obs: Laplace(obs @ params["policy"]),
        lambda params, obs: obs @ params["value"],
    )
    algorithm = CONSTRUCTORS[name](agent, CONFIGS[name], num_envs=N, total_steps=T * N)
    obs, number, flag = jnp.zeros((T, N, 3)), jnp.zeros((T, N)), jnp.zeros((T, N), bool)
    rows = Transition(obs, jnp.zeros((T, N, 2)), number, number, obs, flag, flag, ~flag)
    _, metrics = jax.eval_shape(algorithm.update, KEY, jax.eval_shape(algorithm.init, KEY), rows)
    assert "train/entropy" in metrics and "train/std" not in metrics
