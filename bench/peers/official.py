"""The official AutoAttack (pyautoattack, Croce and Hein 2020) on a network of networks.py.

    python official.py --model ../../models/cifar10-small --data DATA --images 100 --epsilon 8/255 \\
        --attacks apgd-ce,apgd-t,fab-t,square,standard --out F.json

Each component is run by itself on every image that is classified correctly, with the parameters that it has in the
standard cascade; `standard` is the cascade, each component on what the ones before it left. DATA is a folder with
cifar10/test_batch.bin or a golden file. `--indices FILE` reads the first column of a CSV. The result, in the form of the
other peers, has under `attacks` for each name {robust, robust_count, seconds, stages, warnings}: `robust` is one 0 or 1 an
image, in the order of `indices`, and 0 where `clean` is.

    python official.py --serve --model MODEL --data DATA --epsilon 8/255

is asked line by line, so that another program can take turns with it. Its first line is {"ready": {versions, notes}}, or
{"missing": why} where a package is not installed. Then each line {"attack": name, "indices": [n]} is answered by one line
{"robust": [bool], "seconds": s}, indices counting the images of DATA, and the end of stdin is the end. The attack `passes`
is none: it times ten passes there and back.

Seconds include the clean forward pass and the five or so passes of the first batch by which the official code looks for
randomised defences. What is to know of pyautoattack 0.2.0 beside the paper:

- `version="custom"` leaves APGD five restarts; the components here are taken out of the standard version, which has one.
- The generator is seeded anew for each batch, and a random start belongs to a place in the batch: which images are in it,
  and its size, change the outcome of an image.
- APGD: in its first window the rise of iteration 1 is judged against the last row of a table of zeros, not against the
  start's loss: a cross-entropy always rose, a DLR that is negative never did. After a return to the best point the momentum
  is that point less the last iterate but one. In L2 a step is scaled to the ball and then clipped to the box.
- Square draws one window, one sign a channel and (in L2) one orientation for the whole batch. The corner is drawn from
  [0, side - window), which leaves out the last place. In L2 the first tiles run over the edge unless
  `side // (side // 5) * (side // 5) + (side - side // 5 * 5) // 2 <= side`; a side of 12, for one, raises an error.
- FAB-T ends at the smallest perturbation of the first target class that is within epsilon, and goes on to the next class
  with what is left. There is no final search between the last point and the boundary.
"""

import argparse
import csv
import json
import logging
import os
import platform
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from peer import report, speaker

COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
ATTACKS = (*COMPONENTS, "standard")
PASSES = "passes"
NOTES = ["the generator is seeded anew for each batch", "Square draws one window for a whole batch"]


class Watch(logging.Handler):
    """What the official code says while it runs: when a component starts, and its warnings."""

    def __init__(self):
        super().__init__()
        self.starts: list[tuple[str, float]] = []
        self.counts: list[str] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord):
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            if text not in self.warnings:
                self.warnings.append(text)
        elif text.startswith("running "):
            self.starts.append((text.removeprefix("running "), time.perf_counter()))
        elif text.startswith("robust accuracy after "):
            self.counts.append(text.split(":")[1].split("%")[0].strip())


@dataclass
class Outcome:
    """`robust` is bool `[n]`, `adversarial` the images `[n, 3, h, w]`, clean where nothing was found."""

    robust: "torch.Tensor"  # noqa: F821
    adversarial: "torch.Tensor"  # noqa: F821
    seconds: float
    stages: list[dict]
    warnings: list[str]


def run(model, x, labels, attack: str, epsilon: float, norm: str, seed: int, batch: int) -> Outcome:
    """One component by itself, or the cascade. `x` is f32 in [0, 1], `labels` i64."""
    import torch
    from pyautoattack import AutoAttack

    logger, watch = logging.getLogger("auto-attack"), Watch()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(watch)
    try:
        attacker = AutoAttack(model, norm=norm, eps=epsilon, seed=seed, version="standard", device="cpu")
        if attack != "standard":
            attacker.attacks_to_run = [attack]
        start = time.perf_counter()
        adversarial, _ = attacker.run_standard_evaluation(x, labels, batch_size=batch)
        end = time.perf_counter()
        with torch.no_grad():
            parts = [model(part).argmax(1) for part in adversarial.split(batch)]
    finally:
        logger.removeHandler(watch)
    ends = [at for _, at in watch.starts[1:]] + [end]
    stages = [{"attack": name, "seconds": until - at} for (name, at), until in zip(watch.starts, ends)]
    for stage, percent in zip(stages, watch.counts):
        stage["robust_count"] = round(float(percent) / 100 * len(x))
    # One without any robust image left "runs" no further than its first line.
    stages = [stage for stage in stages if "robust_count" in stage]
    return Outcome(torch.cat(parts) == labels, adversarial, end - start, stages, watch.warnings)


def chosen(args: argparse.Namespace, count: int) -> list[int]:
    if args.indices is None:
        return list(range(min(args.images, count)))
    with open(args.indices, newline="") as file:
        cells = [row[0].strip() for row in csv.reader(file) if row]
    return [int(cell) for cell in cells if cell.isdigit()]


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "pyautoattack")}


def floats(x):
    return x.float() / 255


def passes(model, x) -> float:
    """Seconds of ten passes there and back, for the ratio of the networks alone."""
    import torch

    start = time.perf_counter()
    for _ in range(10):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), [leaf])
    return time.perf_counter() - start


def command(args: argparse.Namespace):
    import networks
    import torch

    model = networks.load(args.model)
    x, labels = networks.images(args.data)
    indices = chosen(args, len(x))
    x, labels = x[indices], labels[indices]
    clean = networks.correct(model, x, labels, args.batch)
    attacks, adversarial = {}, {}
    for attack in args.attacks.split(","):
        done = run(model, floats(x), labels, attack, float(args.epsilon), args.norm, args.seed, args.batch)
        attacks[attack] = {
            "robust": done.robust.int().tolist(),
            "robust_count": int(done.robust.sum()),
            "seconds": done.seconds,
            "stages": done.stages,
            "warnings": done.warnings,
        }
        adversarial[attack] = done.adversarial
        print(f"{attack}: {attacks[attack]['robust_count']} of {len(x)}, {done.seconds:.1f} s", file=sys.stderr)
    result = {
        "model": args.model.name,
        "settings": {"epsilon": str(args.epsilon), "norm": args.norm, "seed": args.seed, "batch": args.batch},
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "indices": indices,
        "labels": labels.tolist(),
        "clean": clean.int().tolist(),
        "clean_count": int(clean.sum()),
        "attacks": attacks,
    }
    report(result, versions(), args.out)
    if args.adversarial is not None:
        from safetensors.torch import save_file

        save_file(adversarial, args.adversarial)


def serve(args: argparse.Namespace):
    say = speaker()
    try:
        import networks
        import torch

        known = versions()
        model = networks.load(args.model)
        x, labels = networks.images(args.data)
    except ImportError as error:
        say({"missing": str(error)})
        return
    torch.set_num_threads(args.threads)
    threads = f"{torch.get_num_threads()} threads, batches of {args.batch}"
    say({"ready": {"versions": known, "notes": [threads, *NOTES]}})
    for line in sys.stdin:
        request = json.loads(line)
        if request["attack"] == PASSES:
            say({"robust": [], "seconds": passes(model, floats(x[request["indices"]]))})
            continue
        if request["attack"] not in ATTACKS:
            raise SystemExit(f"no attack {request['attack']!r}, only {', '.join(ATTACKS)}")
        indices = request["indices"]
        settings = (float(args.epsilon), args.norm, request.get("seed", args.seed), args.batch)
        done = run(model, floats(x[indices]), labels[indices], request["attack"], *settings)
        say({"robust": done.robust.tolist(), "seconds": done.seconds})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE_DIR|FILE.safetensors")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR|FILE.safetensors")
    parser.add_argument("--images", type=int, default=100, help="the first so many")
    parser.add_argument("--indices", metavar="FILE.csv", help="these images, in this order")
    parser.add_argument("--epsilon", type=Fraction, default=Fraction(8, 255), help="in pixel units, such as 8/255 or 0.5")
    parser.add_argument("--norm", choices=("Linf", "L2"), default="Linf")
    parser.add_argument("--attacks", default="standard", metavar="NAME,...", help=", ".join(ATTACKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="F.json", help="default: stdout")
    parser.add_argument("--adversarial", type=Path, metavar="F.safetensors", help="the images of each attack")
    args = parser.parse_args()
    unknown = set(args.attacks.split(",")) - set(ATTACKS)
    if unknown:
        parser.error(f"no attack {', '.join(sorted(unknown))}, only {', '.join(ATTACKS)}")
    if args.serve:
        serve(args)
    else:
        import torch

        torch.set_num_threads(args.threads)
        command(args)


if __name__ == "__main__":
    main()
