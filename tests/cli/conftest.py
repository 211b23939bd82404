"""Commands run inside the test's process; none may touch the user's cache or the environment of later tests."""

import jax
import numpy as np
import pytest

from policy_gradients.cli.main import main
from policy_gradients.deployment import write_bundle
from policy_gradients.estimation.normalization import NormalizationConfig, init_statistics
from policy_gradients.networks import NetworkConfig, actor_critic


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # undone after the test, whatever the command set


@pytest.fixture
def run(capsys):
    """`run("envs", "CartPole")` is the exit code, standard output and standard error of that command."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="session")
def write_cartpole_policy():
    """`write_cartpole_policy(folder, spec)` puts a policy that knows nothing into `folder/policy`."""

    def write(folder, spec):
        network, normalization = NetworkConfig(hidden=(8,)), NormalizationConfig()
        obs = jax.ShapeDtypeStruct((4,), "float32")
        shapes = jax.eval_shape(actor_critic(obs, (), 2, network).init, jax.random.key(0))
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
        statistics = jax.device_get(init_statistics(normalization, obs, spec.num_envs))
        write_bundle(
            folder / "policy", spec=spec, network=network, normalization=normalization, params=params,
            statistics=statistics, provenance={},
        )  # fmt: skip

    return write
