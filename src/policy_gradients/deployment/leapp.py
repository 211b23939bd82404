"""The policy as a LEAPP bundle: an ONNX model and a YAML that names its inputs and outputs. Experimental.

LEAPP is NVIDIA's format for policies on Isaac robots, itself in development (version 0.7). The files are written
without it and without torch; its `InferenceManager` loads them.

References: LEAPP, package `leapp` on PyPI, configuration version 1.3.
"""

import hashlib
import math
from pathlib import Path

from policy_gradients.deployment.bundle import Bundle
from policy_gradients.deployment.onnx import onnx_model, write_files

CONFIG_VERSION = "1.3"


def write_leapp(bundle: Bundle, folder: str | Path) -> list[Path]:
    """Writes `policy.onnx` and `policy.yaml` into a folder, both or neither; their paths.

    One model named `policy`, with the input `policy/obs` [1, *obs] and the output `policy/action`.

    Raises:
        UserError: As `onnx.onnx_model`, or the folder cannot be written.
    """
    import yaml

    folder = Path(folder)
    path, model = folder / "policy.yaml", folder / "policy.onnx"
    data = onnx_model(bundle).SerializeToString()
    observation, action = bundle.description.observation, bundle.description.action
    discrete = action.kind == "discrete"
    answer = {"name": "action", "dtype": "int64" if discrete else "float32",
              "shape": [1] if discrete else [1, math.prod(action.shape)]}  # fmt: skip
    if action.names and not discrete:
        answer["element_names"] = [list(action.names)]
    asked = {"name": "obs", "dtype": observation.dtype, "shape": [1, *observation.shape]}
    if observation.names:
        asked["element_names"] = [list(observation.names)]
    parameters = {
        "model_path": model.name,
        "backend": "onnx",
        "md5sum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "sha256sum": hashlib.sha256(data).hexdigest(),
    }
    document = {
        "models": {"policy": {"inputs": [asked], "outputs": [answer], "parameters": parameters}},
        "pipeline": {"inputs": {"policy": ["obs"]}, "outputs": {"policy": ["action"]}},
        "system information": {"leapp config version": CONFIG_VERSION, "exporter": "policy-gradients"},
    }
    write_files({model: data, path: yaml.safe_dump(document, sort_keys=False).encode()})
    return [path, model]
