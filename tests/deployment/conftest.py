"""Small agents with weights that are nowhere zero, and their bundles."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.deployment import write_bundle
from policy_gradients.environments.base import Box, Discrete, EnvironmentSpec, box
from policy_gradients.estimation.normalization import Moments, NormalizationConfig, Statistics, init_statistics
from policy_gradients.networks import NetworkConfig, actor_critic
from policy_gradients.types import ActorCritic


class Agent(NamedTuple):
    """An agent and everything that a bundle is made of."""

    networks: ActorCritic
    params: Any
    statistics: Statistics
    spec: EnvironmentSpec
    network: NetworkConfig
    normalization: NormalizationConfig

    def write(self, path: Path, **provenance: Any) -> Path:
        write_bundle(
            path,
            spec=self.spec,
            network=self.network,
            normalization=self.normalization,
            params=self.params,
            statistics=self.statistics,
            provenance={"algorithm": "ppo", "seed": 3, **provenance},
        )
        return path


def _make_agent(
    network: NetworkConfig, obs: Box | None = None, discrete: bool = False, action_map: str = "clip", **normalizer: Any
) -> Agent:
    """An agent whose parameters and statistics are all random; 5 observations, 3 actions unless told otherwise."""
    obs = obs or box(-np.inf, np.inf, (5,))
    control = None if discrete else box([-0.4, -3.0, 0.5], [0.4, 3.0, 2.0])
    spec = EnvironmentSpec(
        id="Toy-v0",
        engine="jax",
        num_envs=2,
        obs_space=obs,
        action_space=Discrete(4, start=-1) if discrete else box(-1, 1, (3,)),
        action_map="none" if discrete else action_map,
        control_bounds=control,
        dt=0.05,
        obs_names=tuple(f"joint_{i}" for i in range(obs.shape[0])) if len(obs.shape) == 1 else (),
        versions={"toy": "1.0"},
    )
    one = jax.ShapeDtypeStruct(obs.shape, obs.dtype)
    networks = actor_critic(one, (3,), 4 if discrete else None, network)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: _random_tensor(rng, leaf.shape), shapes)
    normalization = NormalizationConfig(reward=False, **normalizer)
    statistics = init_statistics(normalization, one, 2)
    if statistics.obs is not None:
        mean, var = rng.normal(3, 20, obs.shape).astype(np.float32), rng.gamma(1, 4, obs.shape).astype(np.float32)
        statistics = statistics._replace(obs=Moments(statistics.obs.count, jnp.asarray(mean), jnp.asarray(var)))
    return Agent(networks, params, statistics, spec, network, normalization)


def _random_tensor(rng: np.random.Generator, shape: tuple[int, ...]) -> jax.Array:
    """Weights that keep the size of what passes through them; biases, and all else that is a vector, of size 0.3."""
    scale = 0.3 if len(shape) == 1 else np.prod(shape[:-1]) ** -0.5
    return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)


@pytest.fixture(scope="session")
def make_agent() -> Callable[..., Agent]:
    return _make_agent


@pytest.fixture(scope="session")
def toy() -> Agent:
    return _make_agent(NetworkConfig(hidden=(8, 6)))


@pytest.fixture
def toy_bundle(toy: Agent, tmp_path: Path) -> Path:
    return toy.write(tmp_path / "policy")


@pytest.fixture
def rewrite() -> Callable[[Path, Callable[[dict[str, Any]], Any]], None]:
    return _rewrite


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes policy.json as someone would who can compute hashes: every hash is right afterwards."""
    document = json.loads((folder / "policy.json").read_text())
    change(document)
    for name in document["files"] if isinstance(document.get("files"), dict) else ():
        if (folder / name).is_file():
            data = (folder / name).read_bytes()
            document["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document.pop("sha256", None)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "policy.json").write_text(json.dumps(document))


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """The interpreter passes from thread to thread as often as it can, so that what they share comes to light."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
