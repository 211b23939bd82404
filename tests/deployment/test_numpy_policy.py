"""The NumPy runtime against the JAX policy, and what it refuses."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.deployment import load_policy, numpy_single
from policy_gradients.deployment.observations import RefusedObservation
from policy_gradients.environments.base import box
from policy_gradients.errors import UserError
from policy_gradients.estimation.normalization import normalize_obs
from policy_gradients.networks import NetworkConfig

Agent: TypeAlias = Any  # of conftest.py
Make: TypeAlias = Callable[..., Agent]
PIXELS = box(0, 255, (44, 40, 3), np.uint8)  # not square: height and width must not be mixed up


def jax_distribution(agent: Agent, obs: np.ndarray) -> dict[str, np.ndarray]:
    @jax.jit
    def evaluate(obs: jax.Array) -> Any:
        return agent.networks.policy(agent.params, normalize_obs(agent.normalization, agent.statistics, obs))

    return jax.device_get(evaluate(obs))._asdict()


def defined_action(agent: Agent, distribution: dict[str, np.ndarray]) -> np.ndarray:
    """The deterministic action, by the definition of the action map."""
    if "logits" in distribution:
        return np.argmax(distribution["logits"], axis=-1) + agent.spec.action_space.start
    u = distribution["mean"].astype(np.float64)
    low, high = (np.float64(bound) for bound in (agent.spec.control_bounds.low, agent.spec.control_bounds.high))
    if agent.spec.action_map == "none":
        return np.clip(u, low, high)
    a = np.tanh(u) if agent.spec.action_map == "tanh" else np.clip(u, -1, 1)
    return low + (a + 1) * (high - low) / 2


def observations(agent: Agent, count: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    if agent.spec.obs_space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *agent.spec.obs_space.shape), np.uint8)
    return (3 + 30 * rng.standard_normal((count, *agent.spec.obs_space.shape))).astype(np.float32)


def assert_equals_jax(agent: Agent, folder: Path, count: int = 1000) -> None:
    policy = load_policy(agent.write(folder))
    obs = observations(agent, count)
    expected = jax_distribution(agent, obs)
    found = policy.distribution(obs)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
    np.testing.assert_allclose(policy(obs), defined_action(agent, expected), rtol=0, atol=1e-5)
    one_by_one = np.stack([policy(row) for row in obs[:20]])
    np.testing.assert_allclose(one_by_one, policy(obs[:20]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("features", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("distribution", "action_map"),
    [("normal", "clip"), ("normal", "none"), ("tanh_normal", "tanh"), ("categorical", "")],
)
def test_the_numpy_policy_equals_the_jax_policy(
    make_agent: Make, features: str, distribution: str, action_map: str, tmp_path: Path
) -> None:
    network = NetworkConfig(hidden=(64, 64) if features == "mlp" else (), distribution=distribution)  # type: ignore[arg-type]
    obs = PIXELS if features == "cnn" else None
    agent = make_agent(network, obs, distribution == "categorical", action_map)
    assert_equals_jax(agent, tmp_path / "policy", 1000 if features == "mlp" else 100)


@pytest.mark.slow
def test_the_numpy_policy_equals_the_jax_policy_on_a_thousand_frames(make_agent: Make, tmp_path: Path) -> None:
    frames = box(0, 255, (84, 84, 4), np.uint8)
    agent = make_agent(NetworkConfig(hidden=()), frames, discrete=True)
    assert_equals_jax(agent, tmp_path / "policy")


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "gelu", "silu", "swish", "leaky_relu", "softplus"])
def test_every_activation_is_that_of_the_networks(make_agent: Make, activation: str, tmp_path: Path) -> None:
    network = NetworkConfig(hidden=(7,), activation=activation)  # type: ignore[arg-type]
    assert_equals_jax(make_agent(network), tmp_path / "policy", 20)


@pytest.mark.parametrize("activation", ["gelu", "silu", "softplus", "elu"])
def test_activations_neither_overflow_nor_warn_at_extreme_inputs(
    make_agent: Make, activation: str, tmp_path: Path
) -> None:
    network = NetworkConfig(hidden=(7,), activation=activation)  # type: ignore[arg-type]
    agent = make_agent(network, obs_clip=1e4)
    policy = load_policy(agent.write(tmp_path / "policy"))
    obs = np.array([[1e6] * 5, [-1e6] * 5, [1e6, -1e6, 0, 1e30, -1e30]], np.float32)
    expected = jax_distribution(agent, obs)["mean"]
    np.testing.assert_allclose(policy.distribution(obs)["mean"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distribution", ["normal", "tanh_normal"])
def test_layer_norm_a_shared_torso_and_a_state_dependent_std(
    make_agent: Make, distribution: str, tmp_path: Path
) -> None:
    network = NetworkConfig(
        hidden=(8, 6),
        layer_norm=True,
        shared_torso=True,
        state_dependent_std=True,
        distribution=distribution,  # type: ignore[arg-type]
        log_std_init=-0.5,
        log_std_range=(-0.6, -0.3),
    )
    agent = make_agent(network, action_map="tanh")
    assert_equals_jax(agent, tmp_path / "policy", 50)
    log_std = load_policy(tmp_path / "policy").distribution(observations(agent, 500))["log_std"]
    assert log_std.min() == np.float32(-0.6) and log_std.max() == np.float32(-0.3)


def test_a_policy_without_a_normaliser_and_without_hidden_layers(make_agent: Make, tmp_path: Path) -> None:
    network = NetworkConfig(hidden=(), log_std_range=(-0.1, 0.1))
    agent = make_agent(network)
    bare = agent._replace(statistics=agent.statistics._replace(obs=None))
    assert_equals_jax(bare, tmp_path / "policy", 20)


def test_a_normaliser_far_from_zero_keeps_its_digits(toy: Agent, tmp_path: Path) -> None:
    moments = toy.statistics.obs
    assert moments is not None
    far = moments._replace(mean=jnp.full(5, 1000.0), var=jnp.full(5, 1e-4))
    agent = toy._replace(statistics=toy.statistics._replace(obs=far))
    policy = load_policy(agent.write(tmp_path / "policy"))
    obs = np.float32(1000) + np.float32(0.01) * np.random.default_rng(0).standard_normal((50, 5)).astype(np.float32)
    np.testing.assert_allclose(policy.distribution(obs)["mean"], jax_distribution(agent, obs)["mean"], atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 1), (28, 28, 1), (2, 3, 2, 2)])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_pixels_flattened_into_a_perceptron_are_divided_as_in_training(
    make_agent: Make, shape: tuple[int, ...], hidden: tuple[int, ...], tmp_path: Path
) -> None:
    agent = make_agent(NetworkConfig(hidden=hidden, activation="softplus"), box(0, 255, shape, np.uint8))
    assert_equals_jax(agent, tmp_path / "policy", 50)
    white = np.full(shape, 255, np.uint8)
    assert np.abs(load_policy(tmp_path / "policy").distribution(white)["mean"]).max() < 10  # weights are of size 1


def test_large_pixels_flattened_on_request_are_divided_as_in_training(make_agent: Make, tmp_path: Path) -> None:
    assert_equals_jax(make_agent(NetworkConfig(hidden=(4,), features="mlp"), PIXELS), tmp_path / "policy", 50)


def test_float_images_are_normalised_and_flattened(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(NetworkConfig(hidden=(4,)), box(-1, 1, (40, 36, 3)))
    assert_equals_jax(agent, tmp_path / "policy", 20)
    assert load_policy(tmp_path / "policy").description.network.features == "mlp"


def test_actions_never_leave_the_bounds(toy: Agent, toy_bundle: Path) -> None:
    obs = 1e4 * np.random.default_rng(0).standard_normal((1000, 5))
    action = load_policy(toy_bundle)(obs, deterministic=False)
    low, high = toy.spec.control_bounds.low, toy.spec.control_bounds.high
    assert (action >= low).all() and (action <= high).all()
    assert (action == low).any() and (action == high).any()


def test_sampled_actions_follow_the_distribution(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(NetworkConfig(hidden=(4,)), action_map="none")
    agent = agent._replace(spec=replace(agent.spec, control_bounds=box(-np.inf, [np.inf, 9.0, np.inf])))
    policy = load_policy(agent.write(tmp_path / "policy"), seed=0)
    obs = np.full(5, 3.0, np.float32)
    draws = policy(np.tile(obs, (20_000, 1)), deterministic=False)
    expected = policy.distribution(obs)
    np.testing.assert_allclose(draws.mean(0), expected["mean"], atol=0.05)  # 6 standard errors at σ = 1.1
    np.testing.assert_allclose(draws.std(0), np.exp(expected["log_std"]), rtol=0.03)


def test_sampled_discrete_actions_follow_the_probabilities(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(NetworkConfig(hidden=(4,)), discrete=True)
    policy = load_policy(agent.write(tmp_path / "policy"), seed=0)
    obs = np.full(5, 3.0, np.float32)
    draws = policy(np.tile(obs, (20_000, 1)), deterministic=False)
    logits = policy.distribution(obs)["logits"]
    frequencies = np.bincount(draws + 1, minlength=4) / len(draws)
    np.testing.assert_allclose(frequencies, np.exp(logits) / np.exp(logits).sum(), atol=0.02)


def test_the_same_seed_draws_the_same_actions(toy_bundle: Path) -> None:
    obs = np.zeros(5)
    first, second = (load_policy(toy_bundle, seed=4)(obs, deterministic=False) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    passed = load_policy(toy_bundle)(obs, deterministic=False, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(first, passed)
    assert (first != load_policy(toy_bundle, seed=5)(obs, deterministic=False)).any()


def test_threads_may_act_with_one_policy(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(toy_bundle)
    obs, other = np.random.default_rng(0).standard_normal((2, 5))
    expected, halfway, resumed = policy(obs), threading.Event(), threading.Event()

    def pause(out: np.ndarray) -> None:
        if threading.current_thread() is not threading.main_thread():
            halfway.set()
            assert resumed.wait(10)

    monkeypatch.setattr(numpy_single, "check_output", pause)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(policy, obs)
        assert halfway.wait(10)
        policy(other)  # while the other thread has its outputs, but not yet its action
        resumed.set()
        np.testing.assert_array_equal(found.result(), expected)


def test_the_observation_is_left_as_it_was(toy_bundle: Path) -> None:
    obs = np.linspace(-1, 1, 5, dtype=np.float32)
    before = obs.copy()
    load_policy(toy_bundle)(obs, deterministic=False)
    np.testing.assert_array_equal(obs, before)


def test_batch_axes_are_kept(toy_bundle: Path) -> None:
    policy = load_policy(toy_bundle)
    obs = np.random.default_rng(0).standard_normal((2, 4, 5))
    assert policy(obs).shape == (2, 4, 3)
    np.testing.assert_allclose(policy(obs)[1, 2], policy(obs[1, 2]), atol=1e-6)
    assert policy(np.zeros((0, 5))).shape == (0, 3)


def test_an_empty_batch_of_images_has_no_actions(make_agent: Make, tmp_path: Path) -> None:
    policy = load_policy(make_agent(NetworkConfig(hidden=(4,)), PIXELS).write(tmp_path / "policy"))
    assert policy(np.zeros((0, *PIXELS.shape), np.uint8)).shape == (0, 3)
    assert policy(np.zeros((2, 0, *PIXELS.shape), np.uint8)).shape == (2, 0, 3)


@pytest.mark.parametrize("coordinate", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_non_finite_observation_is_refused(toy_bundle: Path, coordinate: int, value: float) -> None:
    policy = load_policy(toy_bundle)
    obs = np.zeros(5)
    obs[coordinate] = value
    for wrong in (obs, np.stack([np.zeros(5), obs])):
        with pytest.raises(UserError, match="NaN or an infinity"):
            policy(wrong)


def test_a_large_but_finite_observation_is_accepted(toy_bundle: Path) -> None:
    assert np.isfinite(load_policy(toy_bundle)(np.full(5, 1e25, np.float32))).all()


def test_a_batch_of_the_largest_numbers_gives_no_warning(toy: Agent, tmp_path: Path) -> None:
    moments = toy.statistics.obs._replace(var=jnp.full(5, 0.01))
    policy = load_policy(toy._replace(statistics=toy.statistics._replace(obs=moments)).write(tmp_path / "policy"))
    obs = np.full((1, 5), 3e38)
    np.testing.assert_allclose(policy(obs)[0], policy(obs[0]), rtol=0, atol=1e-5)
    assert np.isfinite(policy.diagnose(obs)["mean"]).all()


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
def test_an_output_that_overflows_is_refused(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(NetworkConfig(hidden=(4,), activation="relu"), obs_clip=3e38)
    agent = agent._replace(params=jax.tree.map(lambda leaf: 100 * jnp.abs(leaf), agent.params))
    policy = load_policy(agent.write(tmp_path / "policy"))
    with pytest.raises(UserError, match="output is not finite"):
        policy(np.full(5, 3e38, np.float32))


@pytest.mark.parametrize("shape", [(), (4,), (6,), (5, 1), (3, 4)])
def test_an_ill_shaped_observation_is_refused(toy_bundle: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expects observations of shape \(5,\)"):
        load_policy(toy_bundle)(np.zeros(shape))


@pytest.mark.parametrize("obs", [np.zeros(5, complex), np.array(["a"] * 5), [None] * 5])
def test_an_observation_that_is_no_number_is_refused(toy_bundle: Path, obs: object) -> None:
    with pytest.raises(UserError, match="expects observations of float32"):
        load_policy(toy_bundle)(obs)  # type: ignore[arg-type]


@pytest.mark.parametrize("obs", [[1, [2, 3]], [[1.0] * 5, [1.0] * 4], object()])
def test_an_observation_that_is_no_array_is_refused(toy_bundle: Path, obs: object) -> None:
    policy = load_policy(toy_bundle)
    for act in (policy, policy.distribution, policy.diagnose):
        with pytest.raises(RefusedObservation) as caught:
            act(obs)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_masked_entry_is_not_acted_upon(toy_bundle: Path) -> None:
    policy, obs = load_policy(toy_bundle), np.ma.masked_array(np.ones(5), mask=np.arange(5) == 2)
    with pytest.raises(RefusedObservation, match="masked"):
        policy(obs)
    obs.mask = False
    np.testing.assert_array_equal(policy(obs), policy(np.ones(5)))


@pytest.mark.parametrize("options", [{"rng": 3}, {"rng": np.random.RandomState(3)}])
def test_a_draw_needs_a_generator(toy_bundle: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"rng should be a generator such as numpy\.random\.default_rng\(3\)"):
        load_policy(toy_bundle)(np.zeros(5), deterministic=False, **options)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_a_seed_that_is_none_is_a_sentence(toy_bundle: Path, seed: Any) -> None:
    with pytest.raises(UserError, match="seed should be an integer from 0 on"):
        load_policy(toy_bundle, seed=seed)


def test_pixels_scaled_to_one_are_refused(make_agent: Make, tmp_path: Path) -> None:
    policy = load_policy(make_agent(NetworkConfig(hidden=()), PIXELS).write(tmp_path / "policy"))
    with pytest.raises(UserError, match="expects observations of uint8, not of float32"):
        policy(np.zeros(PIXELS.shape, np.float32))
    with pytest.raises(UserError, match="uint8"):
        policy(np.full(PIXELS.shape, 300))
    assert policy(np.full(PIXELS.shape, 255)).shape == (3,)


def test_a_process_that_acts_loads_neither_jax_nor_half_the_library(toy_bundle: Path) -> None:
    program = f"""
import sys, time
start = time.perf_counter()
from policy_gradients.deployment import load_policy, numpy_single
load_policy({str(toy_bundle)!r})([0.0] * 5)
seconds = time.perf_counter() - start
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(*loaded & {{"jax", "optax", "gymnasium", "mujoco", "jaxtyping", "pydantic", "yaml", "matplotlib"}})
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    unwanted, measured = done.stdout.splitlines()
    seconds, megabytes = map(float, measured.split())
    assert unwanted == ""
    assert seconds < 3 and megabytes < 70  # 0.15–0.3 s and 39 MB where measured
