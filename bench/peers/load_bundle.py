"""Load a Gabion bundle into the PyTorch model and print the logits of images.

    python load_bundle.py BUNDLE_DIR IMAGE...

A bundle is a folder with manifest.json and model.safetensors. Of the manifest this reads `encoder`
{depth, width, stem}, `projector` {hidden, output} and `input` {height, width}; of the weights `encoder.*` and
`projector.*` under PyTorch's names, loaded with strict=True, and `head.weight` [classes, features] with
`head.bias`. An image is converted to RGB, resized (PIL, bilinear) where its size differs, and scaled to [0, 1].
The output is one JSON object {model, images: [{path, prediction, logits}]}.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import reference as ref
import torch
from PIL import Image
from safetensors.torch import load_file


def first(table: dict, *names: str):
    """The value of the first of these keys that the table has."""
    for name in names:
        if name in table:
            return table[name]
    raise SystemExit(f"manifest: none of {names} among {sorted(table)}")


def depth_number(value) -> int:
    """18 of 18, "18", "resnet18" or "ResNet18"."""
    return int(re.search(r"\d+$", str(value)).group())


def build(manifest: dict) -> tuple[ref.Model, dict]:
    encoder, projector = first(manifest, "encoder"), first(manifest, "projector")
    shape = {
        "depth": depth_number(first(encoder, "depth", "arch", "name")),
        "width": int(first(encoder, "width")),
        "stem": str(first(encoder, "stem")).lower(),
        "hidden": int(first(projector, "hidden")),
        "outputs": int(first(projector, "output", "outputs")),
    }
    return ref.Model(**shape), shape


def load(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = load_file(folder / "model.safetensors")
    model, shape = build(manifest)
    head = {name: weights.pop(f"head.{name}").float() for name in ("weight", "bias")}
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    model.load_state_dict(counters | {key: value.float() for key, value in weights.items()}, strict=True)
    return model.eval(), head, shape, first(manifest, "input")


def read_image(path: Path, height: int, width: int) -> torch.Tensor:
    image = Image.open(path).convert("RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE")
    args = parser.parse_args()
    model, head, shape, size = load(args.bundle)
    rows = []
    for path in args.images:
        x = read_image(path, int(first(size, "height")), int(first(size, "width")))
        with torch.no_grad():
            feature, _ = model(x[None])
            logits = torch.nn.functional.linear(feature, head["weight"], head["bias"])[0]
        rows.append({"path": str(path), "prediction": int(logits.argmax()), "logits": logits.tolist()})
    print(json.dumps({"model": shape, "classes": len(head["bias"]), "images": rows}, indent=1))


if __name__ == "__main__":
    main()
