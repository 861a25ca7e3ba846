"""Writes bf16.json: how far the encoders of encoders.json are from their f32 values under PyTorch's autocast to bf16.

    python tests/golden/bf16.py

Relative errors in the Euclidean norm of the feature, the projection and the gradient of the input, with the statistics of
the batch (`train`) and with given ones (`frozen`).
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "bench" / "peers"))

import reference as ref  # noqa: E402


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().float() - expected).norm() / expected.norm())


def errors(case: dict) -> dict:
    golden = load_file(HERE / f"encoder_{case['name']}.safetensors")
    weights = {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}
    found = {}
    for mode in ("train", "frozen"):
        model = ref.Model(case["depth"], case["width"], case["stem"], case["hidden"], case["output"])
        model.load_state_dict(weights, strict=False)
        model.train(mode == "train")
        x = golden["input"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            feature, projection = model(x)
        scalar = (feature.float() * golden["cotangent_feature"]).sum()
        scalar = scalar + (projection.float() * golden["cotangent_projection"]).sum()
        scalar.backward()
        found[mode] = {
            "feature": error(feature, golden[f"{mode}/feature"]),
            "projection": error(projection, golden[f"{mode}/projection"]),
            "grad_input": error(x.grad, golden[f"{mode}/grad_input"]),
        }
    return found


def main():
    torch.set_num_threads(1)
    cases = json.loads((HERE / "encoders.json").read_text())
    out = {"torch": torch.__version__.split("+")[0], "cases": {case["name"]: errors(case) for case in cases}}
    (HERE / "bf16.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
