"""A policy and a critic of one matrix each, experience for them, and slow sums in NumPy float64 to compare with."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients.distributions import Categorical, Normal
from policy_gradients.estimation.batches import Batch
from policy_gradients.types import ActorCritic, Transition

OBS, ACTIONS = 3, 2


def linear_agent(discrete: bool = False) -> ActorCritic:
    """Means (or logits) s w with a free log σ, and V = s v; the parameters share nothing."""

    def init(key):
        w, v = jax.random.split(key)
        params = {"w": 0.5 * jax.random.normal(w, (OBS, ACTIONS)), "v": jax.random.normal(v, (OBS,))}
        return params if discrete else params | {"log_std": jnp.array([-0.5, 0.3], jnp.float32)}

    def policy(params, obs):
        out = obs @ params["w"]
        if discrete:
            return Categorical(out)
        return Normal(out, jnp.broadcast_to(params["log_std"].reshape((1,) * (out.ndim - 1) + (-1,)), out.shape))

    spec = jax.ShapeDtypeStruct((OBS,), jnp.float32)
    return ActorCritic(spec, init, policy, lambda params, obs: obs @ params["v"])


def numpy_params(seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters of a Gaussian `linear_agent` in float64."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(OBS, ACTIONS)),
        "log_std": np.array([-0.5, 0.3]),
        "v": rng.normal(size=OBS),
    }


def numpy_batch(params: dict[str, np.ndarray], size: int = 40) -> Batch:
    """Rows in float64; the numbers in rows that are not valid are nonsense."""
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(size, OBS))
    action = obs @ params["w"] + np.exp(params["log_std"]) * rng.normal(size=(size, ACTIONS))
    valid = rng.random(size) > 0.2
    real = lambda x: np.where(valid, x, 1e3)  # noqa: E731
    value = obs @ params["v"]
    return Batch(
        obs, action, log_probs(params, obs, action), real(rng.normal(size=size)), real(value + rng.normal(size=size)),
        value, valid,
    )  # fmt: skip


def log_probs(params: dict[str, np.ndarray], obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """log N(a; s w, σ), summed over action coordinates."""
    z = (action - obs @ params["w"]) / np.exp(params["log_std"])
    return np.sum(-0.5 * z**2 - params["log_std"] - 0.5 * np.log(2 * np.pi), axis=-1)


def slow_kl(old: dict[str, np.ndarray], new: dict[str, np.ndarray], obs: np.ndarray) -> np.ndarray:
    """KL(π_old ‖ π) of each row in closed form, summed over action coordinates."""
    shift = (obs @ (new["w"] - old["w"])) ** 2
    ratio = np.exp(2 * (old["log_std"] - new["log_std"]))
    by_dim = new["log_std"] - old["log_std"] + 0.5 * (ratio + shift * np.exp(-2 * new["log_std"]) - 1)
    return by_dim.sum(-1)


def float64(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same parameters in double precision."""
    return {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}


def gaussian_entropy(params: dict[str, np.ndarray]) -> float:
    return float(np.sum(params["log_std"] + 0.5 * (1 + np.log(2 * np.pi))))


@cache
def _compiled(loss: Callable[..., Any], agent: ActorCritic, config: Any) -> Callable[..., Any]:
    return jax.jit(jax.value_and_grad(partial(loss, agent, config), has_aux=True))


def float64_gradient(loss: Callable[..., Any], agent: ActorCritic, config: Any, *arguments: Any) -> tuple[Any, Any]:
    """loss(agent, config, *arguments), which has parts beside it, and its gradient, in double precision."""
    with jax.enable_x64(True):
        return jax.device_get(_compiled(loss, agent, config)(*jax.tree.map(jnp.asarray, arguments)))


def assert_neither_loss_reaches_the_others_parameters(policy_alone: dict[str, Any], both: dict[str, Any]) -> None:
    """Gradients of the policy's loss alone, and of it with the critic's."""
    assert not policy_alone["v"].any()
    assert both["v"].any()
    for name in ("w", "log_std"):
        np.testing.assert_array_equal(both[name], policy_alone[name])


def loss_by_terms(loss: Callable[..., Any], terms: dict[str, Any]) -> Callable[[str], Any]:
    """The function from a configuration's name to (loss, parts) and gradient of the same parameters and batch."""

    @cache
    def loss_and_gradient(name: str) -> Any:
        params = numpy_params()
        return float64_gradient(loss, linear_agent(), terms[name], params, numpy_batch(params))

    return loss_and_gradient


def assert_gradient_is_that_of_differences(gradient: dict, slow: Callable[[dict], float], params: dict) -> None:
    """Central differences of the slow loss in every coordinate; their own error is about 1e-9."""
    for name, leaf in params.items():
        for index in np.ndindex(leaf.shape):
            step = np.zeros_like(leaf)
            step[index] = 1e-5
            ahead, behind = slow(params | {name: leaf + step}), slow(params | {name: leaf - step})
            expected = (ahead - behind) / 2e-5
            np.testing.assert_allclose(gradient[name][index], expected, rtol=1e-6, atol=1e-7, err_msg=f"{name}{index}")


def experience(params: dict[str, Any], shape: tuple[int, int], seed: int = 0, noise: float = 1.0) -> Transition:
    """Random states and rewards with both kinds of end, and actions of the Gaussian `params`; float32."""
    rng = np.random.default_rng(seed)
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    obs, after = rng.normal(size=(2, *shape, OBS)).astype(np.float32)
    action = obs @ params["w"] + noise * np.exp(params["log_std"]) * rng.normal(size=(*shape, ACTIONS))
    action = action.astype(np.float32)
    ends = rng.random((2, *shape)) < 0.2
    return Transition(
        obs=obs,
        action=action,
        log_prob=log_probs(params, obs, action).astype(np.float32),
        reward=(action[..., 0] + rng.normal(size=shape)).astype(np.float32),
        next_obs=after,
        terminated=ends[0],
        truncated=ends[1],
        valid=np.ones(shape, bool),
    )


def slow_gae(v: np.ndarray, rows: Transition, gamma: float, gae_lambda: float) -> tuple[np.ndarray, np.ndarray]:
    """Â and R̂ by a plain loop over every environment."""
    value, after = rows.obs @ v, rows.next_obs @ v
    advantage = np.zeros(value.shape)
    for n in range(value.shape[1]):
        later = 0.0
        for t in reversed(range(value.shape[0])):
            follows = 0.0 if rows.terminated[t, n] else gamma * after[t, n]
            goes_on = not (rows.terminated[t, n] or rows.truncated[t, n])
            later = rows.reward[t, n] + follows - value[t, n] + gamma * gae_lambda * goes_on * later
            advantage[t, n] = later
    return advantage, advantage + value


def slow_returns(baseline: np.ndarray, rows: Transition, gamma: float) -> np.ndarray:
    """Returns-to-go that go on with `baseline`, b(s′), where a limit or the rollout's end cuts an episode."""
    returns = np.zeros(rows.reward.shape)
    for n in range(returns.shape[1]):
        for t in reversed(range(returns.shape[0])):
            cut = rows.truncated[t, n] or t == returns.shape[0] - 1
            follows = baseline[t, n] if cut else returns[min(t + 1, returns.shape[0] - 1), n]
            returns[t, n] = rows.reward[t, n] + (0.0 if rows.terminated[t, n] else gamma * follows)
    return returns
