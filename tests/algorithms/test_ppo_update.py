"""What an update of PPO does with epochs, minibatches, learning rates and gradients."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from policy_gradients.algorithms import PPOConfig, ppo
from policy_gradients.algorithms.ppo import ppo_loss
from policy_gradients.distributions import Normal
from policy_gradients.estimation.batches import Batch, flatten
from policy_gradients.estimation.normalization import NormalizationConfig
from policy_gradients.optimization.schedules import KL_ADAPTIVE_RANGE
from policy_gradients.types import ActorCritic, LearnerState, Transition

T, N = 4, 4
TOTAL = 5 * T * N
KEY = jax.random.key(5)
ONE_STEP = PPOConfig(
    num_steps=T,
    num_epochs=1,
    num_minibatches=1,
    learning_rate=0.05,
    lr_schedule="constant",
    advantages="none",
    max_grad_norm=1e9,
    normalization=NormalizationConfig(obs=False, reward=False),
)
TWO_EPOCHS = replace(ONE_STEP, num_epochs=2)
LINEAR = replace(ONE_STEP, lr_schedule="linear", max_grad_norm=0.1)
MANY_STEPS = replace(ONE_STEP, lr_schedule="linear", num_epochs=3, num_minibatches=4)
POLICY_ALONE = replace(ONE_STEP, num_minibatches=2, value_coef=0.0, target_kl=0.01)
EARLY_STOP = replace(POLICY_ALONE, num_epochs=6, advantages="minibatch")
ADAPTIVE = replace(POLICY_ALONE, num_epochs=2, advantages="batch", lr_schedule="kl_adaptive")


def linear_agent(seen: list | None = None) -> ActorCritic:
    """μ = s w, state-independent log σ, V = s v; `seen` gets the states of every minibatch."""

    def init(key):
        w, v = jax.random.split(key)
        return {"w": jax.random.normal(w, (2, 1)), "log_std": jnp.zeros(1), "v": jax.random.normal(v, (2,))}

    def policy(params, obs):
        if seen is not None and obs.ndim == 2:
            jax.debug.callback(lambda states: seen.append(np.array(states)), obs)
        mean = obs @ params["w"]
        return Normal(mean, jnp.broadcast_to(params["log_std"].reshape((1,) * mean.ndim), mean.shape))

    return ActorCritic(jax.ShapeDtypeStruct((2,), jnp.float32), init, policy, lambda params, obs: obs @ params["v"])


AGENT = linear_agent()
SEEN: list[np.ndarray] = []  # by MANY_STEPS alone


@cache
def updater(config):
    agent = linear_agent(SEEN) if config == MANY_STEPS else AGENT
    return jax.jit(ppo(agent, config, num_envs=N, total_steps=TOTAL).update)


@cache
def beginning() -> LearnerState:
    return jax.jit(ppo(AGENT, ONE_STEP, num_envs=N, total_steps=TOTAL).init)(jax.random.key(0))


@cache
def rollout() -> Transition:
    """Random states and rewards, actions of the first policy with their log-probabilities, both kinds of end."""
    rng = np.random.default_rng(0)
    params = jax.device_get(beginning().params)
    obs, after = rng.normal(size=(2, T, N, 2)).astype(np.float32)
    noise = rng.normal(size=(T, N, 1)).astype(np.float32)
    log_prob = -0.5 * (noise[..., 0] ** 2 + np.log(2 * np.pi))
    flags = rng.random((2, T, N)) < 0.2
    return Transition(
        obs=obs,
        action=obs @ params["w"] + noise,
        log_prob=log_prob.astype(np.float32),
        reward=rng.normal(size=(T, N)).astype(np.float32),
        next_obs=after,
        terminated=flags[0],
        truncated=flags[1],
        valid=np.ones((T, N), bool),
    )


def slow_advantages(config, params, rows):
    """Σ_k (γλ)^k δ_{t+k} up to the end of the episode, in float64."""
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    value, after = rows.obs @ params["v"], rows.next_obs @ params["v"]
    delta = rows.reward + config.gamma * np.where(rows.terminated, 0, after) - value
    advantage = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            weight = 1.0
            for k in range(t, T):
                advantage[t, n] += weight * delta[k, n]
                weight *= config.gamma * config.gae_lambda
                if rows.terminated[k, n] or rows.truncated[k, n]:
                    break
    return advantage, value


def test_the_first_step_is_adams_on_the_gradient_of_the_whole_rollout():
    """With m̂ = g and v̂ = g² Adam moves each parameter by −η g / (|g| + ε)."""
    rows, start = rollout(), beginning()
    advantage, value = (x.astype(np.float32) for x in slow_advantages(ONE_STEP, start.params, rows))
    batch = Batch(rows.obs, rows.action, rows.log_prob, advantage, advantage + value, value, rows.valid)
    batch = jax.tree.map(jnp.asarray, flatten(batch))
    gradient = jax.jit(jax.grad(lambda params: ppo_loss(AGENT, ONE_STEP, params, batch)[0]))(start.params)
    after, metrics = updater(ONE_STEP)(KEY, start, rows)
    for name, g in gradient.items():
        expected = start.params[name] - ONE_STEP.learning_rate * g / (np.abs(g) + ONE_STEP.adam_eps)
        np.testing.assert_allclose(after.params[name], expected, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(metrics["train/grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["train/advantage_mean"], advantage.mean(), rtol=1e-4)
    assert metrics["train/grad_clipped_fraction"] == 0


def first_moment(learner):
    """Adam's, of all parameters [P]."""
    return ravel_pytree(optax.tree.get(learner.opt_state, "mu"))[0]


def test_the_gradient_is_clipped_by_its_norm_and_keeps_its_direction():
    """Trap 16: element by element (3, 4) clipped to 1 would become (1, 1), not (0.6, 0.8)."""
    free, _ = updater(ONE_STEP)(KEY, beginning(), rollout())
    clipped, metrics = updater(LINEAR)(KEY, beginning(), rollout())
    gradient = 10 * first_moment(free)  # after one step it is (1 − 0.9) g
    norm = np.linalg.norm(gradient)
    np.testing.assert_allclose(10 * first_moment(clipped), gradient * 0.1 / norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=1e-5, err_msg="reported before the clip")
    assert metrics["train/grad_clipped_fraction"] == 1


def test_the_policys_loss_moves_no_critic():
    """Trap 37: with no weight on its own loss the critic keeps every bit."""
    after, _ = updater(EARLY_STOP)(KEY, beginning(), rollout())
    np.testing.assert_array_equal(after.params["v"], beginning().params["v"])
    assert (after.params["w"] != beginning().params["w"]).any()


def test_recomputed_advantages_are_those_of_the_critic_of_each_epoch():
    """Two epochs with recomputation are two updates of one epoch on the same rollout; without it they are not."""
    twice, _ = updater(ONE_STEP)(KEY, beginning(), rollout())
    twice, _ = updater(ONE_STEP)(KEY, twice, rollout())
    anew, _ = updater(replace(TWO_EPOCHS, recompute_advantages=True))(KEY, beginning(), rollout())
    kept, _ = updater(TWO_EPOCHS)(KEY, beginning(), rollout())
    moments = [first_moment(learner) for learner in (twice, anew, kept)]
    np.testing.assert_allclose(moments[1], moments[0], rtol=1e-4, atol=1e-6)
    assert np.abs(moments[2] - moments[0]).max() > 1e-3


@pytest.mark.parametrize(("config", "mean", "scales"), [(ONE_STEP, 5, 3), (ADAPTIVE, 0, 1), (EARLY_STOP, 0, 1)])
def test_advantages_are_standardised_where_asked(config, mean, scales):
    """Episodes of one step and V = 0 make rewards of advantages; the first step's L_π is −⟨Â⟩, its gradient ∝ Â."""
    reward = np.where(np.arange(T * N).reshape(T, N) % 2 == 0, 5 - 2, 5 + 2).astype(np.float32)
    rows = rollout()._replace(reward=reward, terminated=np.ones((T, N), bool))
    learner = beginning()._replace(params=beginning().params | {"v": jnp.zeros(2)}, learning_rate=jnp.float32(0))
    _, metrics = updater(config)(KEY, learner, rows)
    _, larger = updater(config)(KEY, learner, rows._replace(reward=3 * reward))
    np.testing.assert_allclose(metrics["train/policy_gradient_loss"], -mean, atol=1e-4)
    np.testing.assert_allclose(larger["train/grad_norm"] / metrics["train/grad_norm"], scales, rtol=1e-3)
    np.testing.assert_allclose([metrics["train/advantage_mean"], metrics["train/advantage_std"]], [5, 2], rtol=1e-5)


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    """Trap 19: the same permutation each epoch, or minibatches of one environment's contiguous steps."""
    number = np.arange(T * N, dtype=np.float32).reshape(T, N)
    SEEN.clear()
    jax.block_until_ready(
        updater(MANY_STEPS)(KEY, beginning(), rollout()._replace(obs=np.stack([number, -number], -1)))
    )
    epochs = np.array(SEEN, int)[..., 0].reshape(3, 4, T)
    for epoch in epochs:
        assert sorted(epoch.reshape(-1)) == list(range(T * N))
        assert max(len(set(minibatch % N)) for minibatch in epoch) > 1, "minibatches mix environments"
        assert max(len(set(minibatch // N)) for minibatch in epoch) > 1, "and steps"
    assert len({tuple(epoch.reshape(-1)) for epoch in epochs}) == 3


def shifted(shift):
    """The rollout of a policy whose log-probabilities lie `shift` nats lower: ρ = e^shift from the start."""
    return rollout()._replace(log_prob=rollout().log_prob - np.float32(shift))


@pytest.mark.parametrize(("rate", "shift", "epochs"), [(1e-6, 0.0, 6), (1e-6, 1.0, 1), (1.0, 0.0, 1)])
def test_epochs_end_after_the_one_whose_kl_is_too_large(rate, shift, epochs):
    learner = beginning()._replace(learning_rate=jnp.float32(rate))
    after, metrics = updater(EARLY_STOP)(KEY, learner, shifted(shift))
    assert metrics["train/epochs_run"] == epochs
    assert after.n_updates == 2 * epochs
    assert optax.tree.get(after.opt_state, "count") == 2 * epochs


def test_metrics_are_means_over_the_epochs_that_ran():
    """kl₃ of ρ = e everywhere is e − 2, whether one epoch ran or six would have."""
    learner = beginning()._replace(learning_rate=jnp.float32(0))
    _, metrics = updater(EARLY_STOP)(KEY, learner, shifted(1.0))
    np.testing.assert_allclose(metrics["train/approx_kl"], np.e - 2, rtol=1e-5)
    assert metrics["train/clip_fraction"] == 1


@pytest.mark.parametrize(("shift", "steps_up"), [(1.0, -4), (0.0, 4)])
def test_a_kl_adaptive_rate_moves_against_the_kl(shift, steps_up):
    """By a factor of 1.5 at each of the four gradient steps: down while the KL is large, up while it is small."""
    learner = beginning()._replace(learning_rate=jnp.float32(1e-4))
    after, metrics = updater(ADAPTIVE)(KEY, learner, shifted(shift))
    np.testing.assert_allclose(after.learning_rate, 1e-4 * 1.5**steps_up, rtol=1e-5)
    assert metrics["train/learning_rate"] == after.learning_rate
    assert metrics["train/epochs_run"] == 2, "the rate follows the KL; epochs do not stop"


@pytest.mark.parametrize(("shift", "steps_up"), [(1.0, -1), (0.0, 1)])
def test_a_kl_update_rate_moves_once_after_all_gradient_steps(shift, steps_up):
    learner = beginning()._replace(learning_rate=jnp.float32(1e-4))
    after, metrics = updater(replace(ADAPTIVE, lr_schedule="kl_update"))(KEY, learner, shifted(shift))
    np.testing.assert_allclose(after.learning_rate, 1e-4 * 1.5**steps_up, rtol=1e-5)
    assert metrics["train/epochs_run"] == 2, "the rate follows the KL; epochs do not stop"


@pytest.mark.parametrize(("shift", "bound"), [(1.0, 0), (0.0, 1)])
def test_a_kl_adaptive_rate_stays_within_its_bounds(shift, bound):
    """Rewards of 0 and a critic of 0 move nothing, so that the KL stays what the shift makes it."""
    learner = beginning()
    learner = learner._replace(params=learner.params | {"v": jnp.zeros(2)}, learning_rate=jnp.float32(1e-3))
    rows = shifted(shift)._replace(reward=np.zeros((T, N), np.float32))
    for _ in range(8):
        learner, _ = updater(ADAPTIVE)(KEY, learner, rows)
    np.testing.assert_allclose(learner.learning_rate, KL_ADAPTIVE_RANGE[bound], rtol=1e-6)


@pytest.mark.parametrize("config", [LINEAR, MANY_STEPS])
def test_a_linear_rate_ends_with_the_run_for_any_number_of_gradient_steps(config):
    """Trap 18: counted in environment steps, so five updates use 1, 4/5, … 1/5 of the rate."""
    learner, rates = beginning(), []
    for _ in range(6):
        learner, metrics = updater(config)(KEY, learner, rollout())
        rates.append(float(metrics["train/learning_rate"]))
    np.testing.assert_allclose(rates, config.learning_rate * np.array([1, 0.8, 0.6, 0.4, 0.2, 0]), rtol=1e-5, atol=1e-9)
    assert metrics["train/update_norm"] == 0, "nothing is learnt past the end"
    assert learner.n_updates == 6 * config.num_epochs * config.num_minibatches
