"""A minimal PPO on CartPole-v1 in PureJaxRL's scheme, written from its description (Lu et al., arXiv 2210.05639).

Every environment is one copy under `vmap` that resets itself; the whole training is one `lax.scan` over updates for one
`jit`; Adam works on the parameters as they are; each epoch draws a new permutation of the batch. A time limit counts as
an end of the decision process, as it does there. Settings are the flags of `scan_ppo.py`.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from policy_gradients.environments.classic import TASKS
from policy_gradients.types import Array, Key

TASK = "CartPole-v1"
MAX_GRAD_NORM, ADAM_EPS = 0.5, 1e-5  # the scheme's, and this library's defaults


class Copy(NamedTuple):
    """One environment that resets itself."""

    reset: Callable[[Key], tuple[Array, Any]]  # key -> obs, state
    step: Callable[[Key, Any, Array], tuple[Array, Any, Array, Array]]  # key, state, action -> obs, state, reward, done


def gymnax_copy() -> Copy:
    """gymnax's CartPole, by its own reset within `step`."""
    import gymnax

    env, params = gymnax.make(TASK)

    def step(key: Key, state: Any, action: Array) -> tuple[Array, Any, Array, Array]:
        obs, state, reward, *ends, _ = env.step(key, state, action, params)  # one end, or since 1.0 two
        return obs, state, jnp.asarray(reward, jnp.float32), jnp.any(jnp.stack(ends))

    return Copy(lambda key: env.reset(key, params), step)


def classic_copy() -> Copy:
    """This library's CartPole, with the reset that gymnax has: a first state is drawn at every step."""
    task = TASKS[TASK]

    def reset(key: Key) -> tuple[Array, Any]:
        raw, obs = task.reset(key)
        return obs, (raw, jnp.int32(0))

    def step(key: Key, state: Any, action: Array) -> tuple[Array, Any, Array, Array]:
        step_key, reset_key = jax.random.split(key)
        raw, obs, reward, terminated = task.step(step_key, state[0], action, **task.options)
        after = obs, (raw, state[1] + 1)
        done = terminated | (after[1][1] >= task.max_episode_steps)
        obs, state = jax.tree.map(lambda new, old: jnp.where(done, new, old), reset(reset_key), after)
        return obs, state, reward, done

    return Copy(reset, step)


class Row(NamedTuple):
    """What a step leaves to learn from; [T, N]."""

    obs: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array


def init_networks(hidden: Sequence[int], key: Key) -> dict[str, Any]:
    """Actor and critic: lists of (weight, bias), orthogonal with gain √2, and 0.01 and 1 at their ends."""

    def network(key: Key, gain: float, outputs: int) -> list[tuple[Array, Array]]:
        sizes = [*TASKS[TASK].obs_space.shape, *hidden, outputs]
        gains = [*[math.sqrt(2.0)] * len(hidden), gain]
        draw = lambda key, gain, shape: jax.nn.initializers.orthogonal(gain)(key, shape)  # noqa: E731
        layers = zip(jax.random.split(key, len(gains)), gains, pairwise(sizes), strict=True)
        return [(draw(key, gain, shape), jnp.zeros(shape[1])) for key, gain, shape in layers]

    actor_key, critic_key = jax.random.split(key)
    return {"actor": network(actor_key, 0.01, 2), "critic": network(critic_key, 1.0, 1)}


def forward(layers: list[tuple[Array, Array]], x: Array) -> Array:
    """Dense layers with tanh between them."""
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def critic(params: Any, obs: Array) -> Array:
    """V(s)."""
    return forward(params["critic"], obs)[..., 0]


def adam(options: argparse.Namespace) -> optax.GradientTransformation:
    """Adam behind a bound on the gradient's norm, under a rate that falls by an equal amount after every update."""

    def rate(count: Any) -> Any:
        done = count // (options.epochs * options.minibatches)  # updates
        return options.learning_rate * (1.0 - done / options.updates)

    return optax.chain(optax.clip_by_global_norm(MAX_GRAD_NORM), optax.adam(rate, eps=ADAM_EPS))


def begin(options: argparse.Namespace, copy: Copy, key: Key) -> Any:
    """Parameters, Adam's state, environments, observations, and returns of the running and the last episodes."""
    init_key, reset_key = jax.random.split(key)
    params = init_networks(options.hidden, init_key)
    obs, env_state = jax.vmap(copy.reset)(jax.random.split(reset_key, options.num_envs))
    none = jnp.zeros(options.num_envs)
    return params, adam(options).init(params), env_state, obs, (none, none)


def train(options: argparse.Namespace, copy: Copy, key: Key, state: Any) -> tuple[Any, Array]:
    """The whole training: the parameters, and the mean return of the environments' last episodes after each update."""

    def act(at: Any, key: Key) -> tuple[Any, Row]:
        params, env_state, obs, (running, last) = at
        draw_key, step_key = jax.random.split(key)
        logits, value = forward(params["actor"], obs), critic(params, obs)
        action = jax.random.categorical(draw_key, logits)
        keys = jax.random.split(step_key, options.num_envs)
        after, env_state, reward, done = jax.vmap(copy.step)(keys, env_state, action)
        running = running + reward
        returns = jnp.where(done, 0.0, running), jnp.where(done, running, last)
        row = Row(obs, action, log_prob_of(logits, action), value, reward, done)
        return (params, env_state, after, returns), row

    def update(state: Any, key: Key) -> tuple[Any, Array]:
        params, opt_state, env_state, obs, returns = state
        act_key, learn_key = jax.random.split(key)
        at = params, env_state, obs, returns
        (_, env_state, obs, returns), rows = jax.lax.scan(act, at, jax.random.split(act_key, options.steps))
        advantage = estimate(options, rows, critic(params, obs))
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (rows, advantage, advantage + rows.value))
        keys = jax.random.split(learn_key, options.epochs)
        (params, opt_state), _ = jax.lax.scan(partial(epoch, options, batch), (params, opt_state), keys)
        return (params, opt_state, env_state, obs, returns), jnp.mean(returns[1])

    state, curve = jax.lax.scan(update, state, jax.random.split(key, options.updates))
    return state[0], curve


def estimate(options: argparse.Namespace, rows: Row, last_value: Array) -> Array:
    """Â_t = δ_t + γ λ (1 − done_t) Â_{t+1}, δ_t = r_t + γ (1 − done_t) V(s_{t+1}) − V(s_t); [T, N]."""

    def back(later: tuple[Array, Array], row: Row) -> tuple[tuple[Array, Array], Array]:
        advantage, value = later
        goes_on = 1.0 - row.done.astype(jnp.float32)
        delta = row.reward + options.gamma * value * goes_on - row.value
        advantage = delta + options.gamma * options.gae_lambda * goes_on * advantage
        return (advantage, row.value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), rows, reverse=True, unroll=16)[1]


def epoch(options: argparse.Namespace, batch: Any, learner: Any, key: Key) -> tuple[Any, None]:
    """One pass over a batch (rows, advantages, targets) in a new order."""
    order = jax.random.permutation(key, batch[1].shape[0])
    cut = lambda x: jnp.take(x, order, axis=0).reshape(options.minibatches, -1, *x.shape[1:])  # noqa: E731

    def descend(learner: Any, minibatch: Any) -> tuple[Any, None]:
        params, opt_state = learner
        gradient = jax.grad(partial(loss, options))(params, *minibatch)
        change, opt_state = adam(options).update(gradient, opt_state)
        return (optax.apply_updates(params, change), opt_state), None

    return jax.lax.scan(descend, learner, jax.tree.map(cut, batch))


def loss(options: argparse.Namespace, params: Any, rows: Row, advantage: Array, target: Array) -> Array:
    """The clipped surrogate, half the critic's squared error, and the entropy bonus; [B] rows."""
    logits = forward(params["actor"], rows.obs)
    ratio = jnp.exp(log_prob_of(logits, rows.action) - rows.log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1.0 - options.clip_eps, 1.0 + options.clip_eps)
    surrogate = jnp.minimum(ratio * advantage, clipped * advantage).mean()
    error = 0.5 * jnp.mean((critic(params, rows.obs) - target) ** 2)
    log_probs = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1).mean()
    return -surrogate + options.value_coef * error - options.entropy_coef * entropy


def log_prob_of(logits: Array, action: Array) -> Array:
    """log π(a|s), nats."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]
