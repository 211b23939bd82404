"""Makes rlax.npz: what rlax's `vmpo_loss` computes on random arrays, in double precision.

Run where rlax is installed (the tests do not need it):
    JAX_ENABLE_X64=1 python tests/parity/reference/make_rlax.py

rlax chooses the top fraction of all rows, ours half of the valid ones; it is therefore given the fraction that makes
as many rows. The KL by mean and by deviation come from rlax's KL of two Gaussians that differ in one alone.
"""

import importlib.metadata
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import rlax

warnings.simplefilter("ignore", PendingDeprecationWarning)
OBS, ACTIONS, ROWS = 3, 2, 40
EPS_ETA, EPS_ALPHA = 0.1, (0.01, 1e-4)


def random_case(seed, invalid):
    """A linear Gaussian policy, the one it came from, rows with advantages, and duals."""
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(OBS, ACTIONS)), "log_std": np.array([-0.5, 0.3])}
    old = {name: leaf + 0.2 * rng.normal(size=leaf.shape) for name, leaf in params.items()}
    obs = rng.normal(size=(ROWS, OBS))
    action = obs @ old["w"] + np.exp(old["log_std"]) * rng.normal(size=(ROWS, ACTIONS))
    valid = np.arange(ROWS) >= invalid
    advantage = np.where(valid, rng.normal(size=ROWS), 0.0)
    return params, old, {"obs": obs, "action": action, "advantage": advantage, "valid": valid}


def losses(params, duals, old, rows):
    """rlax's loss as one mean over valid rows, and its outputs."""
    mean, std = rows["obs"] @ params["w"], jnp.exp(params["log_std"])
    old_mean, old_std = rows["obs"] @ old["w"], jnp.exp(old["log_std"])
    wide = lambda x: jnp.broadcast_to(x, mean.shape)  # noqa: E731
    kl = rlax.multivariate_normal_kl_divergence
    by_mean = kl(old_mean, wide(old_std), mean, wide(old_std))
    by_std = kl(old_mean, wide(old_std), old_mean, wide(std))
    log_prob = rlax.gaussian_diagonal().logprob(rows["action"], mean, wide(std))
    valid = jnp.asarray(rows["valid"], mean.dtype)
    count = int(rows["valid"].sum())
    penalties = [rlax.LagrangePenalty(duals["alpha"][i], jnp.asarray(EPS_ALPHA[i])) for i in range(2)]
    _, out = rlax.vmpo_loss(
        log_prob,
        rows["advantage"],
        rlax.LagrangePenalty(duals["eta"], jnp.asarray(EPS_ETA)),
        [(by_mean, penalties[0]), (by_std, penalties[1])],
        restarting_weights=valid,
        top_k_fraction=(count // 2 + 0.5) / ROWS,
    )
    over_valid = lambda x: jnp.sum(x * valid) / count  # noqa: E731
    parts = {
        "policy_loss": jnp.mean(out.policy_loss),
        "kl_loss": over_valid(out.kl_loss),
        "alpha_loss": over_valid(out.alpha_loss),
        "temperature_loss": out.temperature_loss,
        "kl_mean": over_valid(by_mean),
        "kl_std": over_valid(by_std),
    }
    total = parts["policy_loss"] + parts["kl_loss"] + parts["alpha_loss"] + parts["temperature_loss"]
    return total, parts | {"weight": out.normalized_weights, "selected": out.num_samples}


def case(seed, invalid):
    params, old, rows = random_case(seed, invalid)
    duals = {"eta": jnp.asarray(0.7), "alpha": jnp.asarray([3.0, 0.2])}
    (_, parts), (by_params, by_duals) = jax.value_and_grad(losses, argnums=(0, 1), has_aux=True)(
        params, duals, old, rows
    )
    return {
        **{f"params/{name}": leaf for name, leaf in params.items()},
        **{f"old/{name}": leaf for name, leaf in old.items()},
        **{f"duals/{name}": leaf for name, leaf in duals.items()},
        **{f"gradient/{name}": leaf for name, leaf in {**by_params, **by_duals}.items()},
        **rows,
        **parts,
    }


def tied_case():
    """Constant advantages: every row is at the threshold of rlax's half."""
    advantage, weights = jnp.ones(10), jnp.ones(10)
    out = rlax.vmpo_loss(jnp.zeros(10), advantage, rlax.LagrangePenalty(jnp.asarray(1.0), jnp.asarray(EPS_ETA)), [
        (jnp.zeros(10), rlax.LagrangePenalty(jnp.asarray(1.0), jnp.asarray(0.01)))
    ], restarting_weights=weights)[1]  # fmt: skip
    return {"advantage": advantage, "selected": out.num_samples}


def main():
    cases = {"all_valid": case(0, 0), "some_invalid": case(1, 7), "ties": tied_case()}
    arrays = {f"{name}/{key}": np.asarray(leaf) for name, found in cases.items() for key, leaf in found.items()}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("rlax", "jax", "distrax", "numpy"))
    arrays["provenance"] = np.array(f"make_rlax.py with {versions}, python {sys.version.split()[0]}")
    np.savez_compressed(Path(__file__).with_name("rlax.npz"), **arrays)


if __name__ == "__main__":
    main()
