"""Golden values of AutoAttack: a small CNN, and what the official code (pyautoattack 0.2.0) does to it.

    python autoattack.py                 # everything, beside this file; a quarter of an hour on one core
    python autoattack.py pieces apgd     # only these parts of the two files

The network is conv3x3 (3 to 8) ReLU conv3x3 of stride 2 (8 to 16) ReLU linear (576 to 10), trained here against PGD. Its
images are drawn here: ten glyphs of 5x7 pixels at any place of an 11x11 image, with random paper, ink, contrast and noise.
At L-infinity 12/255 and at L2 0.45 about half of the 400 test images stay robust. Everything is seeded.

autoattack.safetensors:
- `images` u8 [400, 3, 11, 11] (divide by 255), `labels` u8 [400], `weights/*` f32 under torch's names;
- `logits` [400, 10] and `gradient` [16, 3, 11, 11], of the sum of the first 16 images' cross-entropies, from float64;
- `apgd/NORM/start` [4, 3, 11, 11] and `apgd/NORM/LOSS/xK`, the official iterate after K = 1, 2, 5 iterations from it, from
  float64, of the images `apgd.images`; NORM is Linf or L2, LOSS ce or dlr;
- `fab/NORM` f32 [400, 9]: norm of the smallest perturbation that official FAB-T found for the classes of clean ranks 2 to
  10, each class by itself; -1 where it found none or the image is misclassified. From float32: FAB casts to it.

autoattack.json:
- `network`, `versions`, `seeds`, `clean` (a string of one 0 or 1 an image);
- `budgets.NORM`: epsilon as text; `epsilons.NORM`: as a number;
- `robust.NORM.ATTACK`: `flags` (one such string a seed), `counts`, and `disagree`, images on which not all seeds agree.
  A component runs by itself on all correctly classified images, in one batch of 400; `standard` is the cascade;
- `fab.NORM`: by how much (relative) the norms move when the weights move in their last place: median, p90, p99, max, and
  `flips`, classes found in one run and not in the other;
- `apgd.NORM.LOSS`: `drift`, the largest difference of a pixel between float32 and float64 after K iterations; `losses`
  [4][101], the official loss at the start and after each iteration; `steps` [4][100], the step size of each iteration over
  epsilon; `best` [4]. `apgd.checkpoints`: iterations after which step sizes are looked at;
- `dlr`: `cases`, written out in the paper's terms, and random `logits` [16][10] of `labels` [16] with `values`, `gradients`
  (of the sum) and for `targets` [16][9] `targeted`;
- `projection`: FAB's projections, `norm`, `x`, `w`, `b` -> `d`: the box is [0, 1], the hyperplane w.z = b;
- `square`: `sides.NORM.SIDE`, [first query, side of the window] after the start, and `eta`, the L2 bump by its side.

In its first window the official APGD judges iteration 1 against a loss of 0 instead of the start's (see
bench/peers/official.py), which `steps` has in it.
"""

import argparse
import json
import math
import platform
import sys
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_projections import projection_l2, projection_linf
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench" / "peers"))
import networks  # noqa: E402
import official  # noqa: E402

torch.set_num_threads(1)

BUDGETS = {"Linf": "12/255", "L2": "0.45"}
EPSILONS = {norm: float(Fraction(text)) for norm, text in BUDGETS.items()}
SEEDS = (0, 1, 2)
SIDE, CLASSES, WIDTHS, IMAGES = 11, 10, (8, 16), 400
JSON, TENSORS = HERE / "autoattack.json", HERE / "autoattack.safetensors"

# ----------------------------------------------------------------------------------------- network

GLYPHS = """
01110 10001 10011 10101 11001 10001 01110
00100 01100 00100 00100 00100 00100 01110
01110 10001 00001 00110 01000 10000 11111
11111 00010 00100 00010 00001 10001 01110
00010 00110 01010 10010 11111 00010 00010
11111 10000 11110 00001 00001 10001 01110
00110 01000 10000 11110 10001 10001 01110
11111 00001 00010 00100 01000 01000 01000
01110 10001 10001 01110 10001 10001 01110
01110 10001 10001 01111 00001 00010 01100
"""
MASKS = torch.tensor([[[int(c) for c in row] for row in line.split()] for line in GLYPHS.split("\n")[1:-1]]).float()


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """u8 `[count, 3, 11, 11]` and labels."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    top = torch.randint(0, SIDE - 6, (count,), generator=generator).tolist()
    left = torch.randint(0, SIDE - 4, (count,), generator=generator).tolist()
    ink = torch.zeros(count, 1, SIDE, SIDE)
    for at, label in enumerate(labels.tolist()):
        ink[at, 0, top[at] : top[at] + 7, left[at] : left[at] + 5] = MASKS[label]
    paper = uniform(0.1, 0.4, count, 3, 1, 1)
    contrast = uniform(0.2, 0.8, count, 1, 1, 1) * uniform(0.6, 1.0, count, 3, 1, 1)
    noise = 0.06 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    x = paper + contrast * ink + noise
    return (x.clamp(0, 1) * 255).round().to(torch.uint8), labels


def trained(steps: int = 1200, epsilon: float = 0.06, rate: float = 3e-3, batch: int = 128) -> nn.Module:
    """Adam on PGD examples of four steps; the budget grows over the first two fifths."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = networks.small_cnn(WIDTHS, WIDTHS[1] * ((SIDE + 1) // 2) ** 2)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        x, labels = draw(batch, generator)
        x, budget = official.floats(x), epsilon * min(1.0, step / (0.4 * steps))
        delta = (2 * torch.rand(x.shape, generator=generator) - 1) * budget
        for _ in range(4):
            delta.requires_grad_()
            loss = F.cross_entropy(model((x + delta).clamp(0, 1)), labels)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() + budget / 2.5 * gradient.sign()).clamp(-budget, budget)
        optimizer.zero_grad()
        F.cross_entropy(model((x + delta).clamp(0, 1)), labels).backward()
        optimizer.step()
    return model


def make_network() -> tuple[dict, dict[str, Tensor]]:
    model = trained().eval().requires_grad_(False)
    images, labels = draw(IMAGES, torch.Generator().manual_seed(7))
    weights = {f"weights/{name}": value for name, value in model.state_dict().items()}
    clean = networks.correct(model, images, labels)
    model.double()
    x = (images.double() / 255).requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="none")[:16].sum(), x)
    values = {"logits": logits.detach().float(), "gradient": gradient[:16].float()}
    described = {"widths": WIDTHS, "side": SIDE, "classes": CLASSES, "images": IMAGES}
    print(f"clean: {int(clean.sum())} of {IMAGES}")
    tensors = {"images": images, "labels": labels.to(torch.uint8)} | weights | values
    return {"network": described, "clean": string(clean)}, tensors


def string(flags: Tensor) -> str:
    return "".join("01"[int(flag)] for flag in flags)


def subject() -> tuple[nn.Module, Tensor, Tensor]:
    """The network, its images in [0, 1] and their labels."""
    images, labels = networks.images(TENSORS)
    return networks.load(TENSORS), official.floats(images), labels


# ------------------------------------------------------------------------------------------ flags


def make_robust() -> tuple[dict, dict[str, Tensor]]:
    model, x, labels = subject()
    robust: dict = {}
    for norm, epsilon in EPSILONS.items():
        robust[norm] = {}
        for attack in official.ATTACKS:
            runs = [official.run(model, x, labels, attack, epsilon, norm, seed, IMAGES) for seed in SEEDS]
            flags = torch.stack([run.robust for run in runs])
            disagree = int((flags.any(0) & ~flags.all(0)).sum())
            counts = flags.sum(1).tolist()
            robust[norm][attack] = {"flags": [string(one) for one in flags], "counts": counts, "disagree": disagree}
            seconds = ", ".join(f"{run.seconds:.0f} s" for run in runs)
            print(f"{norm} {attack}: {counts} robust, seeds disagree on {disagree} ({seconds})", flush=True)
    return {"budgets": BUDGETS, "epsilons": EPSILONS, "seeds": SEEDS, "robust": robust}, {}


# -------------------------------------------------------------------------------------------- FAB


def with_rounding_noise(model: nn.Module, seed: int) -> nn.Module:
    """The same weights about one unit in the last place away: stands in for another float32 implementation."""
    generator = torch.Generator().manual_seed(seed)
    state = {k: v * (1 + 1e-7 * torch.randn(v.shape, generator=generator)) for k, v in model.state_dict().items()}
    moved = networks.small_cnn(WIDTHS, WIDTHS[1] * ((SIDE + 1) // 2) ** 2)
    moved.load_state_dict(state)
    return moved.eval().requires_grad_(False)


def fab_norms(model: nn.Module, x: Tensor, labels: Tensor, norm: str) -> Tensor:
    fab = FABAttack_PT(model, norm=norm, n_iter=100, eps=EPSILONS[norm], device="cpu", targeted=True)
    columns = []
    for target in range(2, 11):
        fab.target_class = target
        delta = (fab.attack_single_run(x, labels, is_targeted=True) - x).flatten(1)
        sizes = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
        columns.append(torch.where(sizes > 0, sizes, -1.0))
    return torch.stack(columns, 1)


def make_fab() -> tuple[dict, dict[str, Tensor]]:
    model, x, labels = subject()
    tensors, report = {}, {}
    for norm in BUDGETS:
        norms = fab_norms(model, x, labels, norm)
        again = fab_norms(with_rounding_noise(model, 1), x, labels, norm)
        both = (norms > 0) & (again > 0)
        moved = ((again - norms).abs() / norms)[both]
        report[norm] = {name: moved.quantile(q).item() for name, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))}
        report[norm] |= {"max": moved.max().item(), "flips": int(((norms > 0) != (again > 0)).sum())}
        tensors[f"fab/{norm}"] = norms
        print(f"FAB-T {norm}: {report[norm]}", flush=True)
    return {"fab": report}, tensors


# ------------------------------------------------------------------------------------------- APGD

KEPT = (1, 2, 5)
TRIED, CHOSEN = 64, 4


class Recorder:
    """A model that keeps what it is asked, and the step size of the official loop, a local variable of its caller."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.iterates: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.steps: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        step = sys._getframe(1).f_locals.get("step_size")
        if step is not None:
            self.steps.append(step.flatten().clone())
        logits = self.model(x)
        self.iterates.append(x.detach().clone())
        self.logits.append(logits.detach().clone())
        return logits


def follow(model: nn.Module, x: Tensor, labels: Tensor, start: Tensor, norm: str, loss: str, dtype: torch.dtype):
    """The official loop from `start`: what was recorded, the checkpoints and the best losses."""
    torch.set_default_dtype(dtype)
    recorder, checkpoints = Recorder(model.to(dtype)), []
    attack = APGDAttack(recorder, n_iter=100, norm=norm, eps=EPSILONS[norm], loss=loss, seed=0, device="cpu")
    oscillation = attack.check_oscillation

    def watched(losses: Tensor, at: int, window: int, *rest, **named) -> Tensor:
        checkpoints.append(at + 1)
        return oscillation(losses, at, window, *rest, **named)

    attack.check_oscillation = watched
    attack.init_hyperparam(x.to(dtype))
    best = attack.attack_single_run(x.to(dtype), labels, x_init=start.to(dtype))[2]
    torch.set_default_dtype(torch.float32)
    return recorder, checkpoints, best


def start_of(x: Tensor, norm: str) -> Tensor:
    """A random start like the official one, rounded to f32."""
    generator = torch.Generator().manual_seed(11)
    t = torch.rand(x.shape, generator=generator) * 2 - 1 if norm == "Linf" else torch.randn(x.shape, generator=generator)
    size = t.flatten(1).abs().amax(1) if norm == "Linf" else t.flatten(1).norm(dim=1)
    return (x + EPSILONS[norm] * t / size.view(-1, 1, 1, 1)).clamp(0, 1)


def make_apgd() -> tuple[dict, dict[str, Tensor]]:
    """Of images whose first iterates float32 and rounding noise leave in place: a sign of a tiny gradient may not."""
    model, x, labels = subject()
    right = (model(x).argmax(1) == labels).nonzero().flatten()[:TRIED]
    x, labels = x[right], labels[right]
    cases = [(norm, loss) for norm in BUDGETS for loss in ("ce", "dlr")]
    starts = {norm: start_of(x, norm) for norm in BUDGETS}
    exact, drifts, worst = {}, {}, torch.zeros(len(x))
    for case in cases:
        norm, loss = case
        exact[case], checkpoints, best = follow(model, x, labels, starts[norm], norm, loss, torch.float64)
        exact[case].best = best
        twins = [model.float()] + [with_rounding_noise(model.float(), seed) for seed in range(3)]
        rough = [follow(twin, x, labels, starts[norm], norm, loss, torch.float32)[0] for twin in twins]
        drifts[case] = {
            k: torch.stack([(r.iterates[k] - exact[case].iterates[k]).flatten(1).abs().amax(1) for r in rough]).amax(0)
            for k in range(1, max(KEPT) + 1)
        }
        worst = torch.maximum(worst, torch.stack(list(drifts[case].values())).amax(0).float())
    picked = worst.argsort()[:CHOSEN].sort().values
    tensors = {f"apgd/{norm}/start": start[picked] for norm, start in starts.items()}
    report: dict = {"images": right[picked].tolist(), "checkpoints": checkpoints}
    for norm, loss in cases:
        run = exact[norm, loss]
        tensors |= {f"apgd/{norm}/{loss}/x{k}": run.iterates[k][picked].float() for k in KEPT}
        losses = torch.stack([loss_of(logits, labels, loss) for logits in run.logits], 1)[picked]
        steps = torch.stack(run.steps, 1)[picked] / EPSILONS[norm]
        report.setdefault(norm, {})[loss] = {
            "drift": {str(k): drifts[norm, loss][k][picked].max().item() for k in KEPT},
            "losses": losses.tolist(),
            "steps": steps.tolist(),
            "best": run.best[picked].tolist(),
        }
        print(f"APGD {norm} {loss}: drift {report[norm][loss]['drift']}, last steps {steps[:, -1].tolist()}", flush=True)
    return {"apgd": report}, tensors


def loss_of(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    if loss == "ce":
        return F.cross_entropy(logits, labels, reduction="none")
    return APGDAttack(None, eps=0.0).dlr_loss(logits, labels)


# ------------------------------------------------------------------------------------------ pieces


def dlr_golden() -> dict:
    plain, targeted = APGDAttack(None, eps=0.0), APGDAttack_targeted(None, eps=0.0)

    def aimed(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
        targeted.y_target = target
        return targeted.dlr_loss_targeted(logits, labels)

    cases = []
    for logits, label, target in (([1, 2, 0.5, -1, 3], 1, 4), ([4, 2, 1, 0, -2], 0, 2)):
        z, y = torch.tensor([logits], dtype=torch.float64), torch.tensor([label])
        values = {"dlr": plain.dlr_loss(z, y).item(), "targeted": aimed(z, y, torch.tensor([target])).item()}
        cases.append({"logits": logits, "label": label, "target": target} | values)
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(16, CLASSES, generator=generator)).double().requires_grad_()
    labels = torch.randint(0, CLASSES, (16,), generator=generator)
    values = plain.dlr_loss(logits, labels)
    (gradients,) = torch.autograd.grad(values.sum(), logits)
    others = logits.detach().scatter(1, labels[:, None], -math.inf).argsort(1, descending=True)[:, :-1]
    aims = torch.stack([aimed(logits.detach(), labels, target) for target in others.T], 1)
    return {
        "cases": cases,
        "logits": logits.tolist(),
        "labels": labels.tolist(),
        "values": values.tolist(),
        "gradients": gradients.tolist(),
        "targets": others.tolist(),
        "targeted": aims.tolist(),
    }


def projection_golden() -> list[dict]:
    """The worked example; planes that the box leaves in reach and, by their offset, out of it; a zero in w."""
    known = [("Linf", [0.2, 0.5, 0.9], [1.0, -2.0, 0.5], 0.0)]
    generator = torch.Generator().manual_seed(4)
    for norm in BUDGETS:
        for at in range(8):
            x = torch.rand(12, generator=generator, dtype=torch.float64)
            w = torch.randn(12, generator=generator, dtype=torch.float64)
            w[at % 3 : at % 3 + at // 4] = 0.0
            b = (w @ x).item() + (-1) ** at * (0.3, 1.0, 2.5, 9.0)[at % 4]
            known.append((norm, x.tolist(), w.tolist(), b))
    project = {"Linf": projection_linf, "L2": projection_l2}
    golden = []
    for norm, x, w, b in known:
        d = project[norm](*(torch.tensor([value], dtype=torch.float64) for value in (x, w, b)))[0]
        golden.append({"norm": norm, "x": x, "w": w, "b": b, "d": d.tolist()})
    return golden


def square_golden() -> dict:
    attack = SquareAttack(None, eps=0.1, n_queries=5000, p_init=0.8, resc_schedule=False, device="cpu", norm="L2")
    sides: dict = {norm: {} for norm in BUDGETS}
    for norm in BUDGETS:
        for side in (SIDE, 32):
            runs: list[list[int]] = []
            for query in range(5000):
                window = int(round(math.sqrt(attack.p_selection(query) * side * side)))
                window = max(window, 1) if norm == "Linf" else max(window, 3) | 1
                window = min(window, side)
                if not runs or runs[-1][1] != window:
                    runs.append([query, window])
            sides[norm][str(side)] = runs
    eta = {}
    for side in (2, 3, 5, 6, 7):
        bump = attack.eta(side)
        eta[str(side)] = (bump if bump[0, -1] > 0 else bump.T).tolist()
    return {"sides": sides, "eta": eta}


def make_pieces() -> tuple[dict, dict[str, Tensor]]:
    torch.manual_seed(0)
    return {"dlr": dlr_golden(), "projection": projection_golden(), "square": square_golden()}, {}


# ------------------------------------------------------------------------------------------- files

PARTS = {"network": make_network, "pieces": make_pieces, "apgd": make_apgd, "fab": make_fab, "robust": make_robust}


def compact(value, depth: int = 0) -> str:
    """JSON with lists of numbers and strings on one line each."""
    if isinstance(value, dict):
        lines = [f"{' ' * (depth + 1)}{json.dumps(key)}: {compact(one, depth + 1)}" for key, one in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    if isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list)) for one in value):
        return "[\n" + ",\n".join(" " * (depth + 1) + compact(one, depth + 1) for one in value) + "\n" + " " * depth + "]"
    return json.dumps(value)


def write(values: dict, tensors: dict[str, Tensor]):
    values |= {"versions": {"python": platform.python_version()} | {n: version(n) for n in ("torch", "pyautoattack")}}
    JSON.write_text(compact(dict(sorted(values.items()))) + "\n")
    save_file({name: tensors[name].detach().contiguous() for name in sorted(tensors)}, TENSORS)
    TENSORS.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} (default: all)")
    for part in parser.parse_args().parts or PARTS:
        new_values, new_tensors = PARTS[part]()
        # Read afterwards: two parts may be made at the same time.
        values = json.loads(JSON.read_text()) if JSON.exists() else {}
        tensors = load_file(TENSORS) if TENSORS.exists() else {}
        write(values | new_values, tensors | new_tensors)


if __name__ == "__main__":
    main()
