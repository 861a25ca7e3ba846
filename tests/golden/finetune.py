"""Golden values of adversarial fine-tuning, computed by PyTorch in float64 from float32 inputs.

    python finetune.py              # beside this file

Writes finetune.json and finetune.safetensors: the loss of TRADES and its gradients at logits; the same through a
whole classifier in training mode (weights, both inputs, running statistics after two forward passes), whose encoder
and images are those of encoder_resnet18_cifar.safetensors; an attack on the divergence; and SGD as ACL's and DynACL's
fine-tuning calls it. The loss is the one of github.com/yaodongyu/TRADES (`trades.py`), with `reduction="sum"` for the
deprecated `size_average=False`. Run make.py first.
"""

import torch
import torch.nn.functional as F
from make import HERE, array, flat, ref, relative_distance, write_json, write_tensors
from safetensors.torch import load_file
from torch import Tensor, nn

BETA = 6.0
CLASSES = 5
EPSILON = 8 / 255
STEP = 2 / 255
STEPS = 3
DRIFT = 4e-5  # less than half of what the Rust side is held to


def trades_loss(clean: Tensor, attacked: Tensor, labels: Tensor, beta: float) -> Tensor:
    robust = F.kl_div(F.log_softmax(attacked, dim=1), F.softmax(clean, dim=1), reduction="sum") / len(clean)
    return F.cross_entropy(clean, labels) + beta * robust


def at_logits() -> list[dict]:
    torch.manual_seed(7)
    cases = []
    for batch, classes, scale, beta in ((4, 3, 1.0, 6.0), (5, 10, 8.0, 1.0), (2, 4, 40.0, 6.0), (3, 3, 1.0, 0.0)):
        clean, attacked = ((scale * torch.randn(batch, classes)).double().requires_grad_() for _ in range(2))
        labels = torch.randint(classes, (batch,))
        value = trades_loss(clean, attacked, labels, beta)
        gradients = torch.autograd.grad(value, (clean, attacked))
        cases.append(
            {
                "name": f"{batch}x{classes}_scale_{scale}_beta_{beta}",
                "beta": beta,
                "clean": array(clean),
                "attacked": array(attacked),
                "labels": labels.tolist(),
                "value": value.item(),
                "gradient_clean": array(gradients[0]),
                "gradient_attacked": array(gradients[1]),
            }
        )
    return cases


class Classifier(nn.Module):
    def __init__(self, hidden: int = 24, outputs: int = 12):
        super().__init__()
        self.model = ref.Model(18, 4, "cifar", hidden, outputs)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.model(x)[0])


def differentiate(state: dict, x: Tensor, attacked: Tensor, labels: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    classifier = Classifier()
    classifier.load_state_dict(state, strict=False)
    classifier.to(dtype).train()
    x, attacked = (t.to(dtype).requires_grad_() for t in (x.clone(), attacked.clone()))
    value = trades_loss(classifier(x), classifier(attacked), labels, BETA)
    value.backward()
    values = {"loss": value.detach(), "grad_clean": x.grad, "grad_attacked": attacked.grad}
    values |= {f"grad/{k}": p.grad for k, p in classifier.named_parameters() if p.grad is not None}
    # The projection is computed by the reference and by nothing that the logits depend on.
    moved = [k for k in classifier.state_dict() if "running_" in k and "projection" not in k]
    values |= {f"after/{k}": classifier.state_dict()[k].clone() for k in moved}
    return values


def attack(state: dict, x: Tensor, start: Tensor, dtype: torch.dtype) -> Tensor:
    """The inner maximisation of TRADES from a given start, in evaluation mode."""
    classifier = Classifier()
    classifier.load_state_dict(state, strict=False)
    classifier.to(dtype).eval()
    x = x.to(dtype)
    moved = (x + start.to(dtype)).clamp(0, 1)
    clean = F.softmax(classifier(x), dim=1).detach()
    for _ in range(STEPS):
        moved = moved.detach().requires_grad_()
        divergence = F.kl_div(F.log_softmax(classifier(moved), dim=1), clean, reduction="sum")
        (gradient,) = torch.autograd.grad(divergence, moved)
        moved = moved.detach() + STEP * gradient.sign()
        moved = torch.min(torch.max(moved, x - EPSILON), x + EPSILON).clamp(0, 1)
    return moved.detach()


def through_a_classifier() -> dict:
    encoder = load_file(HERE / "encoder_resnet18_cifar.safetensors")
    weights = {f"model.{k.removeprefix('weights/')}": v for k, v in encoder.items() if k.startswith("weights/")}
    x = encoder["input"]
    labels = torch.arange(len(x)) % CLASSES
    for seed in range(1000):  # the first whose values float32 reproduces
        torch.manual_seed(seed)
        head = {"head.weight": 0.5 * torch.randn(CLASSES, 24), "head.bias": torch.randn(CLASSES)}
        attacked = (x + EPSILON * torch.empty_like(x).uniform_(-1, 1)).clamp(0, 1)
        start = 0.001 * torch.randn(x.shape)
        exact = differentiate(weights | head, x, attacked, labels, torch.float64)
        rough = differentiate(weights | head, x, attacked, labels, torch.float32)
        drift = max(relative_distance(rough[key].double(), value) for key, value in exact.items())
        apart = attack(weights | head, x, start, torch.float64) - attack(weights | head, x, start, torch.float32)
        flipped = (apart.abs() > 1e-4).double().mean().item()
        if drift < DRIFT and flipped < 1e-3:
            break
    else:
        raise RuntimeError(f"no seed keeps float32 within {DRIFT}")
    moved = attack(weights | head, x, start, torch.float64)
    tensors = head | {"attacked": attacked, "start": start, "moved": moved}
    tensors |= {key: value for key, value in exact.items() if value.dim() > 0}
    write_tensors("finetune.safetensors", {key: value.float() for key, value in tensors.items()})
    vanishing = [key for key, value in exact.items() if key.startswith("grad/") and value.abs().max() < 1e-12]
    return {
        "seed": seed,
        "beta": BETA,
        "labels": labels.tolist(),
        "loss": exact["loss"].item(),
        "epsilon": EPSILON,
        "step": STEP,
        "steps": STEPS,
        "vanishing": vanishing,
        "float32_drift_of_pytorch": drift,
        "float32_flips_of_pytorch": flipped,
    }


def sgd() -> dict:
    torch.manual_seed(8)
    parameters = {"matrix": torch.randn(3, 2).double(), "bias": torch.randn(4).double()}
    leaves = {name: nn.Parameter(value.clone()) for name, value in parameters.items()}
    optimizer = torch.optim.SGD(leaves.values(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    steps = []
    for rate in (0.1, 0.1, 0.01, 0.001):
        optimizer.param_groups[0]["lr"] = rate
        for leaf in leaves.values():
            leaf.grad = torch.randn(leaf.shape).double()
        optimizer.step()
        steps.append(
            {
                "rate": rate,
                "gradients": {name: flat(leaf.grad) for name, leaf in leaves.items()},
                "parameters": {name: flat(leaf) for name, leaf in leaves.items()},
            }
        )
    return {"initial": {name: array(value) for name, value in parameters.items()}, "steps": steps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_json("finetune.json", {"logits": at_logits(), "classifier": through_a_classifier(), "sgd": sgd()})
