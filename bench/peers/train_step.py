"""Seconds and memory of one training or inference step of the reference model in eager PyTorch on the CPU.

    python train_step.py --width 16 --batch 64 --views 1 --threads 2 --steps 20 --threat free_at
    python train_step.py --width 16 --batch 64 --threads 2 --steps 20 --mode infer

A `free_at` step is one replay: forward at x + delta, EMP-SSL loss, one backward pass for weights and delta, LARS,
projected ascent in delta. A `standard` step has neither delta nor the gradient of the input, a `pgd_at` step is five
attack passes and one update. Inference is the eval-mode forward pass without gradients. `images_per_second` counts
batch * views inputs per step. `working_memory_mib` is the peak of the resident memory from the first step on, less
what was resident after the model, the optimizer and the inputs were built.
"""

import argparse
import statistics
import time

import reference as ref
import torch
from peer import forget_peak, report, resident_kib


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--threat", choices=("standard", "free_at", "pgd_at"), default="free_at")
    parser.add_argument("--depth", type=int, choices=tuple(ref.DEPTHS), default=18)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--stem", choices=("cifar", "imagenet"), default="cifar")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--output", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="bf16: autocast of the forward pass")
    return parser.parse_args()


def training_step(args: argparse.Namespace, model: ref.Model, x: torch.Tensor):
    optimizer = ref.LARS(model.parameters())
    emp_ssl = ref.emp_ssl_objective(args.views)
    threat = ref.Threat()
    delta = torch.zeros_like(x)
    rate = 0.3

    def objective(model: ref.Model, x: torch.Tensor) -> ref.EmpSslLoss:
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            projection = model(x)[1]
        return ref.emp_ssl_loss(projection.float().unflatten(0, (args.views, -1)))

    loss = emp_ssl if args.dtype == "f32" else objective

    def step():
        nonlocal delta
        if args.threat == "standard":
            ref.standard(model, optimizer, loss, x, rate)
        elif args.threat == "pgd_at":
            ref.pgd_at(model, optimizer, loss, x, rate, threat)
        else:
            _, delta = ref.free_at(model, optimizer, loss, x, delta, [rate], threat)

    return step


def inference_step(args: argparse.Namespace, model: ref.Model, x: torch.Tensor):
    model.eval()

    def step():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            model(x)

    return step


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = ref.Model(args.depth, args.width, args.stem, args.hidden, args.output)
    inputs = args.batch * args.views
    x = torch.rand(inputs, 3, args.side, args.side)
    step = training_step(args, model, x) if args.mode == "train" else inference_step(args, model, x)

    resident_before = resident_kib("VmRSS")
    forget_peak()
    for _ in range(args.warmup):
        step()
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resident_kib("VmHWM")

    median = statistics.median(seconds)
    report(
        {
            "settings": vars(args),
            "parameters": sum(p.numel() for p in model.parameters()),
            "median_seconds": median,
            "min_seconds": min(seconds),
            "images_per_second": inputs / median,
            "resident_before_mib": resident_before / 1024,
            "working_memory_mib": (peak - resident_before) / 1024,
        },
        {"torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
