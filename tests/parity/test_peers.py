"""Advantages, losses, gradients and steps beside Stable-Baselines3's, sb3-contrib's, PyTorch's and rlax's.

The peers' results on fixed random arrays are stored in `reference/`, with the versions that made them and the scripts
(`make_sb3.py`, `make_rlax.py`). All is in double precision and held to 1e-5. Where a peer computes something else on
purpose or by mistake, the test says what and that it explains the difference.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from linear_agents import linear_agent

from policy_gradients.algorithms import A2CConfig, PPOConfig, TRPOConfig, VMPOConfig
from policy_gradients.algorithms.a2c import rmsprop
from policy_gradients.algorithms.ppo import LOSS_METRICS, ppo_loss
from policy_gradients.algorithms.trpo import trust_region_step
from policy_gradients.algorithms.vmpo import VMPORows, vmpo_loss
from policy_gradients.distributions import Categorical, Normal
from policy_gradients.estimation.advantages import gae
from policy_gradients.estimation.batches import Batch, standardize
from policy_gradients.estimation.weights import best_half, exponential_weights, temperature_loss
from policy_gradients.types import ActorCritic

close = partial(np.testing.assert_allclose, rtol=1e-5)


@cache
def reference(library: str) -> dict[str, Any]:
    """What a peer made, as nested dicts by the names' parts."""
    tree: dict[str, Any] = {}
    with np.load(Path(__file__).parent / "reference" / f"{library}.npz", allow_pickle=False) as arrays:
        for name in arrays:
            *path, last = name.split("/")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[last] = arrays[name]
    return tree


def in_double(function, *arguments):
    """The jitted function of NumPy arrays in float64; our few float32 constants are promoted."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return jax.device_get(jax.jit(function)(*jax.tree.map(jnp.asarray, arguments)))


def one_layer(own, obs):
    hidden = jnp.tanh(obs @ own["torso"]["0"]["weight"] + own["torso"]["0"]["bias"][None])
    return hidden @ own["head"]["weight"] + own["head"]["bias"][None]


def policy(params, obs):
    """The peers' networks of one hidden layer, with our names."""
    out = one_layer(params["policy"], obs)
    if "log_std" not in params["policy"]:
        return Categorical(out)
    return Normal(out, jnp.broadcast_to(params["policy"]["log_std"][None], out.shape))


AGENT = ActorCritic(
    jax.ShapeDtypeStruct((3,), jnp.float32), lambda key: None, policy, lambda p, obs: one_layer(p["value"], obs)[..., 0]
)


def batch_of(stored):
    actions = stored["actions"]
    return Batch(
        obs=stored["observations"],
        action=actions[:, 0].astype(np.int32) if np.all(actions == np.round(actions)) else actions,
        log_prob=stored["old_log_prob"],
        advantage=stored["advantages"],
        target=stored["targets"],
        value=stored["old_values"],
        valid=np.ones(len(actions), bool),
    )


@pytest.mark.parametrize("library", ["sb3", "rlax"])
def test_every_reference_says_what_made_it(library):
    assert str(reference(library)["provenance"]).startswith(f"make_{library}.py with ")


def test_advantages_and_targets_are_those_of_stable_baselines3():
    """Its buffer has no V(s′) of its own: at a time limit γ V(s′) is added to the reward, as its rollout does."""
    case = reference("sb3")["gae"]
    assert case["terminated"].any() and case["truncated"].any()
    names = ("reward", "value", "next_value", "terminated", "truncated")
    estimate = partial(gae, gamma=float(case["gamma"]), gae_lambda=float(case["gae_lambda"]))
    advantage = in_double(estimate, *(case[name] for name in names), np.ones_like(case["terminated"]))
    close(advantage, case["advantage"], atol=1e-12)
    close(advantage + case["value"], case["returns"], atol=1e-12)


@pytest.mark.parametrize("name", ["ppo_box", "ppo_discrete"])
def test_ppos_loss_and_gradient_are_those_of_stable_baselines3(name):
    """Its value loss lacks the ½, so its coefficient of 0.25 is our 0.5."""
    case = reference("sb3")[name]
    config = PPOConfig(clip_eps=0.2, value_coef=0.5, entropy_coef=0.01)
    loss = jax.value_and_grad(partial(ppo_loss, AGENT, config), has_aux=True)
    (total, parts), gradient = in_double(loss, case["params"], batch_of(case["batch"]))
    theirs = case["plain"]["train"]
    parts = dict(zip(LOSS_METRICS, parts, strict=True))
    close(total, theirs["loss"])
    close(parts["train/value_loss"], theirs["value_loss"] / 2)
    for metric in ("policy_gradient_loss", "clip_fraction", "approx_kl"):
        close(parts[f"train/{metric}"], theirs[metric], err_msg=metric)
    assert 0.1 < theirs["clip_fraction"] < 0.9
    jax.tree.map(partial(close, atol=1e-9), gradient, case["gradient"])


@pytest.mark.parametrize("name", ["ppo_box", "ppo_discrete"])
def test_standardised_advantages_differ_from_stable_baselines3s_by_bessels_correction(name):
    """Theirs are divided by the sample deviation (B − 1), ours by the population's (B)."""
    case = reference("sb3")[name]
    batch = batch_of(case["batch"])
    standard = in_double(standardize, batch.advantage, batch.valid)
    config = PPOConfig(clip_eps=0.2, value_coef=0.0)
    _, parts = in_double(partial(ppo_loss, AGENT, config), case["params"], batch._replace(advantage=standard))
    bessel = np.sqrt(1 - 1 / len(standard))
    close(bessel * parts[0], case["normalized"]["train"]["policy_gradient_loss"])


def test_a2cs_optimiser_is_pytorchs_rmsprop():
    """On gradients from 1 to 1e-6: ε beside the root."""
    case, config = reference("sb3")["rmsprop"], A2CConfig(max_grad_norm=1e9)  # theirs does not clip
    optimizer = rmsprop(config)

    def run(start, gradients):
        def step(carry, gradient):
            theta, state = carry
            update, state = optimizer.update(gradient, state)
            theta = theta - config.learning_rate * update
            return (theta, state), theta

        return jax.lax.scan(step, (start, optimizer.init(start)), gradients)[1]

    close(in_double(run, case["start"], case["gradient"]), case["after"])


def flat_of(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unit(vector):
    return vector / np.linalg.norm(vector)


def trpo_step(case, dims):
    """Our step beside theirs; `dims` is what their KL, a mean over action coordinates, has to be multiplied by."""
    config = TRPOConfig(
        max_kl=float(case["target_kl"]) * dims,
        cg_damping=0.1 * dims,
        cg_iterations=10,
        line_search_steps=10,
        line_search_shrink=0.8,
    )
    params = {"policy": case["params"]["policy"]}
    unravel = ravel_pytree(params)[1]

    def step(flat, batch):
        return trust_region_step(lambda theta, obs: policy(unravel(theta), obs), config, flat, batch)

    flat, after = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(case[name]["policy"])]) for name in ("params", "after")
    )
    found, metrics = in_double(step, flat, batch_of(case["batch"]))
    return flat, found, after, metrics


@pytest.mark.parametrize(
    ("name", "dims"),
    [pytest.param("trpo_one_dim", 1, marks=pytest.mark.slow), ("trpo_discrete", 1), ("trpo_two_dims", 2)],
)
def test_trpos_direction_length_and_point_are_those_of_sb3_contrib(name, dims):
    """With more than one action coordinate theirs bounds (and damps) the mean over coordinates, ours the sum: δ and ζ
    times the number of coordinates make the two problems one."""
    case = reference("sb3")[name]
    before, found, theirs, metrics = trpo_step(case, dims)
    ours, step = found - before, theirs - before
    close(unit(ours), unit(step), atol=1e-7, err_msg="direction")
    shrunk = 0.8 ** (int(case["trials"]) - 1)
    close(metrics["train/line_search_step"], shrunk)
    close(metrics["train/step_scale"] * shrunk * case["direction_norm"] / dims, np.linalg.norm(step), err_msg="length")
    close(found, theirs, err_msg="accepted point")
    objective = metrics["train/policy_objective"] - metrics["train/policy_gradient_loss"]
    close(objective, case["train"]["policy_objective"])


def test_where_trpos_accepted_points_differ_it_is_by_the_direction_of_the_kl():
    """sb3-contrib's line search bounds KL(π ‖ π_old), the paper's and ours KL(π_old ‖ π): equal to second order, so
    only a step far beyond it shows. Each stops at the first trial that fulfils its own bound."""
    case = reference("sb3")["trpo_wide"]
    before, found, theirs, metrics = trpo_step(case, 1)
    close(
        (found - before) / np.linalg.norm(found - before),
        (theirs - before) / np.linalg.norm(theirs - before),
        atol=1e-7,
    )
    whole = metrics["train/step_scale"] * case["direction_norm"] * (theirs - before) / np.linalg.norm(theirs - before)
    unravel = ravel_pytree({"policy": case["params"]["policy"]})[1]
    obs = case["batch"]["observations"]

    def both_ways(theta):
        old, new = policy(unravel(before), obs), policy(unravel(theta), obs)
        return jnp.mean(old.kl(new)), jnp.mean(new.kl(old))

    kls = np.array([in_double(both_ways, before + 0.8**j * whole) for j in range(10)])
    ours, contribs = (np.argmax(kls[:, side] <= float(case["target_kl"])) for side in (0, 1))
    close(metrics["train/line_search_step"], 0.8**ours)
    assert int(case["trials"]) == contribs + 1
    assert ours != contribs


def vmpo_parts(case):
    """Our E-step and losses on rlax's arrays: α-weighted KL and policy loss by parameters, dual losses by duals."""
    selected = in_double(best_half, case["advantage"], case["valid"])
    eta = case["duals"]["eta"]
    weight = in_double(exponential_weights, eta, case["advantage"], selected)[0]
    size = len(weight)
    zeros = np.zeros(size)
    batch = Batch(case["obs"], case["action"], zeros, case["advantage"], zeros, zeros, case["valid"])
    old_std = np.broadcast_to(case["old"]["log_std"], (size, 2)).copy()
    rows = VMPORows(batch, weight * size, Normal(case["obs"] @ case["old"]["w"], old_std))
    params = {**case["params"], "v": np.zeros(3)}
    loss = partial(vmpo_loss, linear_agent(), VMPOConfig(value_coef=0.0))
    (total, parts), gradient = in_double(
        jax.value_and_grad(loss, argnums=1, has_aux=True), case["duals"]["alpha"], params, rows
    )
    eta_loss = in_double(
        jax.value_and_grad(lambda eta, a, chosen: temperature_loss(eta, a, chosen, 0.1)),
        eta,
        case["advantage"],
        selected,
    )
    return selected, weight, total, parts, gradient, eta_loss


@pytest.mark.parametrize("name", ["all_valid", "some_invalid"])
def test_vmpos_weights_losses_and_gradients_are_those_of_rlax(name):
    case = reference("rlax")[name]
    selected, weight, total, parts, gradient, (eta_loss, eta_gradient) = vmpo_parts(case)
    close(selected.sum(), case["selected"])
    close(weight, case["weight"], atol=1e-12)
    close(parts[0], case["policy_loss"])
    close(parts[2:], [case["kl_mean"], case["kl_std"]])
    close(total, case["policy_loss"] + case["kl_loss"])
    close(eta_loss, case["temperature_loss"])
    close(eta_gradient, case["gradient"]["eta"])
    bounds = np.array([0.01, 1e-4])
    close(case["duals"]["alpha"] @ (bounds - parts[2:]), case["alpha_loss"])
    close(bounds - parts[2:], case["gradient"]["alpha"])
    for leaf in ("w", "log_std"):
        close(gradient[leaf], case["gradient"][leaf], err_msg=leaf)


def test_under_ties_rlaxs_half_is_larger_than_a_half_and_ours_is_not():
    """Theirs takes every row at the threshold: of ten equal advantages all ten."""
    case = reference("rlax")["ties"]
    close(case["selected"], 10)
    assert in_double(best_half, case["advantage"], np.ones(10, bool)).sum() == 5
