"""Networks and environments of a user's own that do not suit are refused before anything is compiled."""

from dataclasses import replace
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policy_gradients as pg
from policy_gradients.environments import registry
from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import Discrete, EnvironmentSpec, box
from policy_gradients.errors import UserError
from policy_gradients.training import loop, seeds
from policy_gradients.training.config import EnvironmentConfig, Experiment, LoggingConfig
from policy_gradients.training.setup import build

SPECS = {
    "Discrete": EnvironmentSpec("Doors-v0", "jax", 4, box(-1, 1, (3,)), Discrete(2)),
    "Box": EnvironmentSpec("Arm-v0", "jax", 4, box(-1, 1, (3,)), box(-np.inf, np.inf, (1,))),
    "pixels": EnvironmentSpec("Atari-v0", "jax", 4, box(0, 255, (8, 8, 1), np.uint8), Discrete(2)),
}
UNUSED = dict.fromkeys(("reset", "step", "snapshot", "restore"))
SHORT = pg.Experiment(
    hyperparameters=pg.PPOConfig(num_steps=8, num_minibatches=1),
    env=pg.EnvironmentConfig("CartPole-v1", num_envs=2),
    logging=pg.LoggingConfig(progress="none"),
    total_steps=16,
)


def linear(kind, spec="Discrete", outputs=None, obs=None, value=lambda out: out[..., 0]):
    """Networks of one layer; `kind` makes a distribution of its outputs."""
    space = SPECS[spec].obs_space
    obs = obs or jax.ShapeDtypeStruct(space.shape, space.dtype)
    outputs = outputs or {"Discrete": 2, "Box": 1, "pixels": 2}[spec]

    def init(key):
        return {"policy": jnp.zeros((obs.shape[-1], outputs)), "value": jnp.zeros((obs.shape[-1], 1))}

    return pg.ActorCritic(
        obs, init, lambda params, x: kind(x @ params["policy"]), lambda params, x: value(x @ params["value"])
    )


def normal(mean):
    return pg.Normal(mean, jnp.zeros_like(mean))


class Coin:
    """A distribution of one's own, without logits and no pytree."""

    def __init__(self, out):
        self.out = out[..., 0]

    def sample(self, key):
        return jax.random.bernoulli(key, 0.5, self.out.shape).astype(jnp.int32)

    def log_prob(self, action):
        return jnp.full(action.shape, -0.7)

    def entropy(self):
        return jnp.full(self.out.shape, 0.7)

    def kl(self, other):
        return jnp.zeros(self.out.shape)

    def mode(self):
        return jnp.zeros(self.out.shape, jnp.int32)


class Undecided(Coin):
    """A distribution that lacks a method."""

    mode = None


class Unsummed(NamedTuple):
    """A distribution whose log-probability keeps the axis of the action's coordinates."""

    mean: jax.Array

    def sample(self, key):
        return self.mean

    def log_prob(self, action):
        return action


UNSUITABLE = {
    "a number": ("Discrete", 3, "expects an ActorCritic.* got a builtins.int without obs, init, policy, value"),
    "5 logits for 2 actions": ("Discrete", linear(pg.Categorical, outputs=5), r"logits has shape \(2, 5\).*\(2, 2\)"),
    "2 means for 1 coordinate": ("Box", linear(normal, "Box", outputs=2), r"sample has shape \(2, 2\).*\(2, 1\)"),
    "a Gaussian for choices": ("Discrete", linear(normal), r"sample has shape \(2, 2\).*\(2,\).*Discrete\(2\)"),
    "choices for a Box": ("Box", linear(pg.Categorical, "Box"), r"sample has shape \(2,\).*Box of shape \(1,\)"),
    "floats for choices": ("Discrete", linear(lambda out: Unsummed(out[..., 0])), "sample is float32.*use integers"),
    "a log-probability per coordinate": ("Box", linear(Unsummed, "Box"), r"log_prob has shape \(2, 1\).*\(2,\)"),
    "other observations": (
        "Discrete",
        linear(pg.Categorical, obs=jax.ShapeDtypeStruct((5,), jnp.float32)),
        r"obs is float32 of shape \(5,\), but an observation of Doors-v0 is float32 of shape \(3,\)",
    ),
    "floats for pixels": (
        "pixels",
        linear(pg.Categorical, "pixels", obs=jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)),
        r"obs is float32 .* is uint8",
    ),
    "a shape instead of an obs": (
        "Discrete",
        linear(pg.Categorical)._replace(obs=(3,)),
        r"obs is a builtins.tuple, but .* jax.ShapeDtypeStruct\(\(3,\), jnp.float32\)",
    ),
    "values with an axis too many": (
        "Discrete",
        linear(pg.Categorical, value=lambda out: out),
        r"value has shape \(2, 1\) .* expected shape \(2,\)",
    ),
    "values of a batch with one axis only": (
        "Discrete",
        linear(pg.Categorical, value=lambda out: out[:, 0]),
        r"value has shape \(3, 1\) for a batch \(3, 2\)",
    ),
    "a method too few": ("Discrete", linear(Undecided), "the policy's mode raised TypeError"),
    "a parameter that is no array": (
        "Discrete",
        linear(pg.Categorical)._replace(init=lambda key: {"act": jnp.tanh}),
        r"init returns a .* at params\['act'\], expected arrays of floats",
    ),
    "a parameter of integers": (
        "Discrete",
        linear(pg.Categorical)._replace(init=lambda key: {"steps": jnp.zeros((), int)}),
        r"an array of int32 at params\['steps'\]",
    ),
    "a function that fails": (
        "Discrete",
        linear(pg.Categorical)._replace(init=lambda key: {"policy": jnp.zeros((5, 2))}),
        r"policy raised TypeError for observations of shape \(2, 3\): dot_general",
    ),
}


@pytest.mark.parametrize(("spec", "agent", "sentence"), UNSUITABLE.values(), ids=UNSUITABLE)
def test_networks_that_do_not_suit_the_environment_are_refused(spec, agent, sentence):
    with pytest.raises(pg.UserError, match=f"^agent.*{sentence}"):
        build(SHORT, pg.Environment(SPECS[spec], **UNUSED), agent)


@pytest.mark.parametrize(
    ("spec", "agent"),
    [("Discrete", linear(pg.Categorical)), ("Discrete", linear(Coin)), ("Box", linear(normal, "Box"))],
)
def test_networks_that_suit_the_environment_are_used_as_they_are(spec, agent):
    assert build(SHORT, pg.Environment(SPECS[spec], **UNUSED), agent).agent is agent


MAKERS = {
    "a Gymnasium environment": (lambda n: gymnasium.make("CartPole-v1"), "returned a gymnasium.*, expected an Env"),
    "nothing": (lambda n: None, "returned None, expected an Environment"),
    "another number": (lambda n: pg.make("CartPole-v1"), "returned 1 copies of CartPole-v1, expected the 2 that"),
    "no argument": (lambda: gymnasium.make("CartPole-v1"), "is called with num_envs, but takes other arguments"),
    "an environment": (pg.make("CartPole-v1", 2), "expects a function of num_envs, got a .*Environment"),
}


def train_two(experiment, run_dir, **parts):
    return seeds.train_seeds(experiment, 2, run_dir, **parts)


@pytest.mark.parametrize("train", [loop.train, train_two])
@pytest.mark.parametrize(("make_env", "sentence"), MAKERS.values(), ids=MAKERS)
def test_what_make_env_returns_is_checked(make_env, sentence, train, tmp_path):
    with pytest.raises(pg.UserError, match=rf"^make_env {sentence}.*pg\.make\(MyEnv, num_envs=num_envs\)"):
        train(SHORT, tmp_path / "run", make_env=make_env)


def train_one_seed(experiment, folder, **own):
    return seeds.train_seeds(experiment, 1, folder, **own)


@pytest.mark.parametrize("trained", [loop.train, train_one_seed])
def test_an_environment_that_no_bundle_could_describe_is_refused_before_it_is_trained_in(tmp_path, trained):
    def make(num_envs):
        env = registry.make("CartPole-v1", num_envs)
        return env._replace(spec=replace(env.spec, dt=-0.02))

    experiment = Experiment(env=EnvironmentConfig("Mine-v0"), logging=LoggingConfig(progress="none"))
    with pytest.raises(UserError, match=r"no policy could be written for this environment.*dt cannot be -0\.02"):
        trained(experiment, tmp_path / "run", make_env=make)
    assert not list(tmp_path.glob("run/*"))


def corridor(obs_size=3, id="Corridor-v0"):
    """A walk along a line, seen as a state of so many numbers."""

    def reset(key):
        return jnp.zeros(obs_size), jnp.zeros(3)

    def step(key, state, action):
        return state + 1.0, jnp.zeros(3), jnp.float32(1), jnp.bool_(False)

    return lambda n: autoreset(EnvironmentSpec(id, "jax", n, box(-9, 9, (3,)), Discrete(2)), reset, step, 5)


OTHERS = {
    "none": (None, "was trained on Corridor-v0, but CartPole-v1 would go on; .* with the make_env= that"),
    "another name": (corridor(id="Hall-v0"), "was trained on Corridor-v0, but Hall-v0 would go on"),
    "another state": (corridor(4), r"Corridor-v0: the saved state .* shapes \[\(2, 3\).*, expected \[\(2, 4\)"),
}


@pytest.mark.parametrize(("make_env", "sentence"), OTHERS.values(), ids=OTHERS)
def test_a_run_goes_on_with_its_own_environment_alone(make_env, sentence, tmp_path):
    loop.train(SHORT, tmp_path / "run", make_env=corridor())
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match=sentence):
        loop.resume(tmp_path / "run", 32, make_env=make_env)
    assert (tmp_path / "run" / "config.yaml").read_text() == before, "a refusal changes nothing"
    assert loop.resume(tmp_path / "run", 48, make_env=corridor()).result["time/total_timesteps"] == 48


def test_a_run_in_an_environment_that_only_python_knows_says_how_it_goes_on(tmp_path):
    unknown = replace(SHORT, env=replace(SHORT.env, id="Corridor-v0"))
    loop.train(unknown, tmp_path / "run", make_env=corridor())
    with pytest.raises(UserError, match="Unknown environment 'Corridor-v0'") as refused:
        loop.resume(tmp_path / "run", 32)
    assert "pg.resume(run, make_env=…)" in refused.value.__notes__[0]
    assert loop.resume(tmp_path / "run", 32, make_env=corridor()).result["time/total_timesteps"] == 32


def test_a_run_with_other_networks_says_what_is_missing_when_it_is_resumed(tmp_path):
    spec = pg.make("CartPole-v1", 2).spec
    agent = linear(pg.Categorical, obs=jax.ShapeDtypeStruct(spec.obs_space.shape, jnp.float32))
    loop.train(SHORT, tmp_path / "run", agent=agent)
    with pytest.raises(UserError, match=r"does not fit this run: learner\.params.*with its agent=, if any"):
        loop.resume(tmp_path / "run", 32)


@pytest.mark.parametrize("trained", [loop.train, train_one_seed])
def test_training_without_compiling_is_refused(tmp_path, trained):
    with jax.disable_jit(), pytest.raises(UserError, match="jax_disable_jit is on, but a run is one compiled program"):
        trained(SHORT, tmp_path / "run")
    assert not (tmp_path / "run").exists()
