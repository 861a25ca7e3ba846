"""Of the images that stood under an evaluation of ours, how many fall where the perturbed image may leave [0, 1].

    gabion evaluate MODEL --data DIR --protocol apgd --restarts 3 --epsilon 2/255 --out FOLDER
    python unboxed.py MODEL --data DIR --standing FOLDER/images.csv --epsilon 2/255

Bounds of verified networks are published for the whole ball of L-infinity, which reaches beyond the pixels that there are.
PGD on the margin, untargeted and towards the three next classes, three starts each, on the images whose margin PGD-20 made
smallest; once within [0, 1], once without. Only the images that stand are attacked: the others count as fallen already.
"""

import argparse
import csv
from fractions import Fraction
from pathlib import Path

import networks
import torch
from peer import report
from torch import Tensor

BATCH = 500


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def pgd(model, x, labels, epsilon, steps, boxed, target=None, random=False) -> Tensor:
    """The smallest margin that an iterate reaches."""
    delta = (2 * torch.rand_like(x) - 1) * epsilon if random else torch.zeros_like(x)
    least = torch.full((len(x),), torch.inf)
    for step in range(steps + 1):
        delta.requires_grad_()
        logits = model(x + delta)
        found = margin(logits, labels)
        least = torch.minimum(least, found.detach())
        if target is not None:
            found = logits.gather(1, labels[:, None]) - logits.gather(1, target[:, None])
        (slope,) = torch.autograd.grad(found.sum(), delta)
        length = epsilon / 4 * (0.5 if step > steps / 2 else 1) * (0.3 if step > 0.8 * steps else 1)
        delta = (delta.detach() - length * slope.sign()).clamp(-epsilon, epsilon)
        if boxed:
            delta = (x + delta).clamp(0, 1) - x
    return least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--standing", type=Path, required=True, help="the images.csv of an evaluation")
    parser.add_argument("--epsilon", type=Fraction, default=Fraction(2, 255))
    parser.add_argument("--images", type=int, default=500, help="closest images that are attacked in earnest")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = networks.load(args.model).eval().requires_grad_(False)
    images, labels = networks.images(args.data)
    with args.standing.open() as file:
        rows = list(csv.DictReader(file))
    verdict = list(rows[0])[-1]
    standing = [int(row["index"]) for row in rows if row[verdict] == "1"]
    x, labels, epsilon = images[standing].float() / 255, labels[standing], float(args.epsilon)

    def batches(*tensors):
        return zip(*(tensor.split(BATCH) for tensor in tensors))

    least = torch.cat([pgd(model, x, y, epsilon, 20, True) for x, y in batches(x, labels)])
    closest = least.argsort()[: args.images]
    x, labels = x[closest], labels[closest]
    order = torch.cat([model(x) for (x,) in batches(x)]).scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
    fall = {}
    for boxed in (True, False):
        least = torch.full((len(x),), torch.inf)
        for place in (None, 0, 1, 2):
            for start in range(3):
                target = order[:, 0 if place is None else place]
                found = [
                    pgd(model, x, y, epsilon, 60, boxed, None if place is None else target, start > 0)
                    for x, y, target in batches(x, labels, target)
                ]
                least = torch.minimum(least, torch.cat(found))
        fall["within [0, 1]" if boxed else "anywhere in the ball"] = int((least <= 0).sum())
    result = {
        "model": args.model.name,
        "epsilon": str(args.epsilon),
        "images": len(rows),
        "standing": len(standing),
        "fall": fall,
        "left": {name: len(standing) - count for name, count in fall.items()},
    }
    report(result, {"torch": torch.__version__})


if __name__ == "__main__":
    main()
