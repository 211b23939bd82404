"""The LEAPP bundle: what it says, and that LEAPP's own runtime loads it where it is installed."""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from policy_gradients.deployment import load_policy, read_bundle
from policy_gradients.errors import UserError
from policy_gradients.networks import NetworkConfig

pytest.importorskip("onnx")

from policy_gradients.deployment.leapp import write_leapp


@pytest.mark.parametrize("discrete", [False, True])
def test_the_description_fits_the_model(make_agent: Callable[..., Any], discrete: bool, tmp_path: Path) -> None:
    bundle = read_bundle(make_agent(NetworkConfig(hidden=(4,)), discrete=discrete).write(tmp_path / "policy"))
    description, model = write_leapp(bundle, tmp_path / "leapp")
    policy = yaml.safe_load(description.read_text())["models"]["policy"]
    assert policy["parameters"]["sha256sum"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert policy["inputs"][0]["shape"] == [1, 5]
    assert policy["outputs"][0]["shape"] == ([1] if discrete else [1, 3])


def test_model_and_description_are_replaced_together(
    toy_bundle: Path, make_agent: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [file.read_bytes() for file in write_leapp(read_bundle(toy_bundle), tmp_path / "leapp")]
    write = Path.write_bytes

    def fill(place: Path, data: bytes) -> int:
        if ".yaml" in place.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(place, data)

    other = read_bundle(make_agent(NetworkConfig(hidden=(4,))).write(tmp_path / "other"))
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(UserError, match=r"policy\.yaml cannot be written"):
        write_leapp(other, tmp_path / "leapp")
    assert [(tmp_path / "leapp" / name).read_bytes() for name in ("policy.yaml", "policy.onnx")] == before
    assert len(list((tmp_path / "leapp").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_leapp_gives_the_same_action(toy_bundle: Path, tmp_path: Path) -> None:
    inference = pytest.importorskip("leapp.inference_manager")
    torch = pytest.importorskip("torch")
    description, _ = write_leapp(read_bundle(toy_bundle), tmp_path / "leapp")
    obs = np.linspace(-3, 30, 5, dtype=np.float32)
    found = inference.InferenceManager(str(description)).run_policy({"policy/obs": torch.from_numpy(obs[None])})
    np.testing.assert_allclose(found["policy/action"].numpy()[0], load_policy(toy_bundle)(obs), atol=1e-5)
