"""Seconds and memory of one step of PGD on a bundle's network in eager PyTorch on the CPU.

    python attack.py --bundle ../../models/cifar10-small --batch 64 --threads 2 --steps 20

A step is a forward pass at x, cross-entropy, the gradient of the pixels alone (weights ask for none), a step of 0.01 along
its sign, and the projection into 8/255 and [0, 1]. `gabion bench attack` starts it.
"""

import argparse
import statistics
import time
from pathlib import Path

import load_bundle
import torch
from peer import forget_peak, report, resident_kib


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, head, _, size = load_bundle.load(args.bundle)
    # The projection, which the head does not see, is no part of the work.
    model.projector.projection = torch.nn.Identity()
    model.requires_grad_(False)
    clean = torch.rand(args.batch, 3, size["height"], size["width"])
    labels = torch.arange(args.batch) % len(head["bias"])
    x = clean.clone()

    def step():
        nonlocal x
        x = x.detach().requires_grad_()
        logits = torch.nn.functional.linear(model(x)[0], head["weight"], head["bias"])
        # A sum, so that no image's gradient depends on the batch.
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            moved = x + 0.01 * slope.sign()
            x = torch.clamp(torch.min(torch.max(moved, clean - 8 / 255), clean + 8 / 255), 0, 1)

    resident_before = resident_kib("VmRSS")
    forget_peak()
    seconds = []
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    report(
        {
            "batch": args.batch,
            "median_seconds": statistics.median(seconds[args.warmup :]),
            "working_memory_mib": (resident_kib("VmHWM") - resident_before) / 1024,
        },
        {"torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
