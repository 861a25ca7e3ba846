"""Golden values of the networks that others trained: PyTorch's logits and input gradients, from float64.

    python foreign.py --models MODELS --data DATA

MODELS holds their safetensors files, DATA cifar10/test_batch.bin; neither is in this repository, and the test that compares
is skipped where they are missing. Writes foreign.json: for each network `right`, how many of the first 1,000 test images it
classifies correctly; `logits` [4][10] of the first 4; and of the gradient [4, 3, 32, 32] of the sum of their cross-entropies,
taken flat, its `norm` and every 97th value, `gradient`. `drift` is the relative error of PyTorch's own float32 gradient.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench" / "peers"))
import networks  # noqa: E402

torch.set_num_threads(1)

NAMES = ("resnet2b", "resnet4b", "cifar_cnn_a_adv", "cifar_cnn_a_mix", "resnet20-12fca82f", "resnet56-4bfd9763")
COUNTED, IMAGES, EVERY = 1000, 4, 97


def gradient(model, x, labels) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    return logits.detach(), slope.flatten()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    images, labels = networks.images(args.data)
    x, y = images[:IMAGES].float() / 255, labels[:IMAGES]
    golden = {}
    for name in NAMES:
        model = networks.load(args.models / f"{name}.safetensors")
        right = int(networks.correct(model, images[:COUNTED], labels[:COUNTED]).sum())
        _, rough = gradient(model, x, y)
        # The pixels that float32 sees, in float64.
        logits, slope = gradient(model.double(), x.double(), y)
        drift = ((rough - slope).norm() / slope.norm()).item()
        kept = {"norm": slope.norm().item(), "gradient": slope[::EVERY].tolist(), "drift": drift}
        golden[name] = {"right": right, "logits": logits.tolist()} | kept
        print(f"{name}: {right} right, float32 drift {drift:.1e}")
    lines = [f" {json.dumps(name)}: {json.dumps(values)}" for name, values in golden.items()]
    (HERE / "foreign.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
