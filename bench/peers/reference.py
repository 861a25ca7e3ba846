"""CF-AMC-SSL in PyTorch: the encoder, the losses, LARS and the three threat models.

This is the reading copy of the method: the golden tests take their numbers from it and the peer
benchmarks time it. It follows the paper's code (github.com/softsys4ai/CF-AMC-SSL, commit ff36114) and
the EMP-SSL code below it (github.com/tsb0601/EMP-SSL, commit 8fc3758). Where that code departs from sound
practice, the sound variant is the default here and the departure is a named argument.

    python reference.py --check

compares the ResNets with torchvision's (names, shapes, outputs), LARS with its closed form,
the cosine with torch's scheduler and the coding rate with a direct determinant.
"""

import argparse
import math
from dataclasses import dataclass
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ----------------------------------------------------------------------------------------- encoder


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """conv3x3(stride) BN ReLU conv3x3 BN, plus the shortcut, then ReLU."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """conv1x1 BN ReLU conv3x3(stride) BN ReLU conv1x1 BN, plus the shortcut, then ReLU ("v1.5")."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


DEPTHS = {18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3))}


class ResNet(nn.Module):
    """torchvision's ResNet without `fc`, its stages `width`, 2, 4 and 8 times `width` wide.

    The "cifar" stem is a 3x3 convolution of stride 1 without pooling, the "imagenet" stem a 7x7 of
    stride 2 and a 3x3 max pooling of stride 2. `[n, 3, h, w]` -> `[n, features]`.
    """

    def __init__(self, depth: int = 18, width: int = 64, stem: str = "cifar"):
        super().__init__()
        block, counts = DEPTHS[depth]
        if stem == "cifar":
            self.conv1 = conv(3, width, 3)
            self.maxpool = nn.Identity()
        elif stem == "imagenet":
            self.conv1 = conv(3, width, 7, stride=2)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            raise ValueError(f"stem is {stem!r}, expected 'cifar' or 'imagenet'")
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(counts):
            stage_width = width << stage
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, stage_width, stride))
                channels = stage_width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


class Projector(nn.Module):
    """`[n, inputs]` -> feature `[n, hidden]` (what evaluations use), projection `[n, outputs]` of length 1."""

    def __init__(self, inputs: int, hidden: int = 4096, outputs: int = 1024):
        super().__init__()
        self.pre_feature = nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.projection = nn.Sequential(
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.pre_feature(x)
        return feature, F.normalize(self.projection(feature), dim=1)


class Model(nn.Module):
    """Encoder and projector. `[n, 3, h, w]` in [0, 1] -> (feature, projection)."""

    def __init__(self, depth: int = 18, width: int = 64, stem: str = "cifar", hidden: int = 4096, outputs: int = 1024):
        super().__init__()
        self.encoder = ResNet(depth, width, stem)
        self.projector = Projector(self.encoder.features, hidden, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.projector(self.encoder(x))


# ------------------------------------------------------------------------------------------ losses


def total_coding_rate(z: Tensor, distortion: float = 0.2) -> Tensor:
    """R(Z) = 1/2 logdet(I_d + d / (b distortion) Z^T Z) of `z [b, d]`, on the smaller of its two Gram sides.

    `distortion` is `eps` in the reference code, which uses it unsquared. Spread embeddings have the higher rate.
    """
    b, d = z.shape
    gram = z @ z.T if b < d else z.T @ z
    identity = torch.eye(min(b, d), dtype=z.dtype, device=z.device)
    return 0.5 * torch.logdet(identity + d / (b * distortion) * gram)


def invariance(z: Tensor) -> Tensor:
    """`-mean_{v,b} cos(z_vb, mean_v z_vb)` of `z [views, batch, d]`; the mean is not detached."""
    return -F.cosine_similarity(z, z.mean(0, keepdim=True).expand_as(z), dim=2).mean()


class EmpSslLoss(NamedTuple):
    total: Tensor
    invariance: Tensor
    tcr: Tensor


def emp_ssl_loss(
    z: Tensor, invariance_weight: float = 200.0, tcr_weight: float = 1.0, distortion: float = 0.2
) -> EmpSslLoss:
    """`invariance_weight * invariance + tcr_weight * tcr` of `z [views, batch, d]` with rows of length 1;
    `tcr` is minus the coding rate of a view, averaged over the views."""
    same = invariance(z)
    tcr = -torch.stack([total_coding_rate(view, distortion) for view in z]).mean()
    return EmpSslLoss(invariance_weight * same + tcr_weight * tcr, same, tcr)


SUPCON_BASE_TEMPERATURE = 0.07


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.07, supcon_scale: bool = True) -> Tensor:
    """NT-Xent of two views `[batch, d]` whose rows have length 1.

    The reference's SimCLR scripts call SupConLoss without labels: every one of the 2 * batch rows is an
    anchor, its one positive is the other view of its image, the denominator runs over all rows but itself
    (the positive included), and the mean over anchors is multiplied by temperature / 0.07. Their default
    temperature is 0.07, where that factor is 1; `supcon_scale=False` leaves it out. They encode the two views in
    two forward passes, so that batch norm sees each view by itself, unlike their EMP-SSL scripts.
    """
    z = torch.cat([z1, z2])
    rows = len(z)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(rows, dtype=torch.bool, device=z.device), -math.inf)
    positive = (torch.arange(rows, device=z.device) + rows // 2) % rows
    scale = temperature / SUPCON_BASE_TEMPERATURE if supcon_scale else 1.0
    return scale * F.cross_entropy(logits, positive)


# --------------------------------------------------------------------------------------- optimizer


class LARS(torch.optim.SGD):
    """SGD with Nesterov momentum under layer-wise rate scaling in its clipping form.

    A parameter with more than one dimension and nonzero norms of itself and of its gradient has
    `g <- scale * (g + weight_decay * p)` with `scale = min(trust |p| / (|g| + weight_decay |p| + 1e-8) / lr, 1)`.
    Every other parameter gets plain SGD without weight decay.
    """

    def __init__(self, params, lr: float = 0.3, momentum: float = 0.9, weight_decay: float = 1e-4, trust: float = 0.005):
        super().__init__(params, lr=lr, momentum=momentum, dampening=0.0, nesterov=True)
        self.decay = weight_decay
        self.trust = trust

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.ndim > 1:
                    self.rescale(p, group["lr"])
        return super().step(closure)

    def rescale(self, p: Tensor, lr: float):
        p_norm, g_norm = p.norm(), p.grad.norm()
        if p_norm == 0 or g_norm == 0:
            return
        scale = self.trust * p_norm / (g_norm + self.decay * p_norm + 1e-8)
        scale = (scale / lr).clamp(max=1.0)  # lr = 0 divides to infinity, hence 1
        p.grad.add_(p, alpha=self.decay).mul_(scale)


def schedule_length(batches: int, epochs: int, replays: int = 1, schedule: str = "per-step-length") -> int:
    """Steps until the cosine reaches 0.

    The reference steps the schedule once per replay but gives it the number of minibatches as its length
    ("per-batch-length"), so that with three replays the rate falls, rises and falls again.
    """
    if schedule == "per-step-length":
        return batches * epochs * replays
    if schedule == "per-batch-length":
        return batches * epochs
    raise ValueError(f"schedule is {schedule!r}, expected 'per-step-length' or 'per-batch-length'")


def cosine_rate(base: float, step: int, length: int) -> float:
    """The rate of the 0-based optimisation step `step`; it goes on with its period of 2 * length."""
    return base * 0.5 * (1.0 + math.cos(math.pi * step / length))


def set_rate(optimizer: torch.optim.Optimizer, rate: float):
    for group in optimizer.param_groups:
        group["lr"] = rate


# ------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class Threat:
    """An L-infinity budget in pixel units ([0, 1])."""

    epsilon: float = 8 / 255
    step: float = 0.01

    def project(self, x: Tensor, delta: Tensor) -> Tensor:
        delta = delta.clamp(-self.epsilon, self.epsilon)
        return (x + delta).clamp(0.0, 1.0) - x


Loss = Callable[[Model, Tensor], EmpSslLoss]


def emp_ssl_objective(views: int, **weights: float) -> Loss:
    """The loss of a model on `x [views * batch, 3, h, w]`, view-major (row = view * batch + image)."""

    def objective(model: Model, x: Tensor) -> EmpSslLoss:
        projection = model(x)[1]
        return emp_ssl_loss(projection.unflatten(0, (views, -1)), **weights)

    return objective


def standard(model: Model, optimizer: LARS, loss: Loss, x: Tensor, rate: float) -> EmpSslLoss:
    """One optimisation step on clean views."""
    set_rate(optimizer, rate)
    optimizer.zero_grad()
    value = loss(model, x)
    value.total.backward()
    optimizer.step()
    return value


def pgd_at(
    model: Model,
    optimizer: LARS,
    loss: Loss,
    x: Tensor,
    rate: float,
    threat: Threat,
    attack_steps: int = 5,
    accumulate_attack_gradients: bool = False,
    on_attack_loss: Callable[[EmpSslLoss], None] = lambda value: None,
) -> EmpSslLoss:
    """Attack from a zero start, then one optimisation step at the last perturbation.

    The attack sees the model in the mode it is in: in training mode its forward passes use batch statistics
    and move the running statistics, as in the reference. There its backward passes also stay in the weight
    gradients, so that an update sums attack_steps + 1 of them: `accumulate_attack_gradients`.
    """
    set_rate(optimizer, rate)
    optimizer.zero_grad()
    delta = torch.zeros_like(x)
    for _ in range(attack_steps):
        leaf = delta.requires_grad_()
        value = loss(model, x + leaf)
        on_attack_loss(value)
        if accumulate_attack_gradients:
            value.total.backward()
            gradient = leaf.grad
        else:
            (gradient,) = torch.autograd.grad(value.total, leaf)
        delta = threat.project(x, leaf.detach() + threat.step * gradient.sign())
    value = loss(model, x + delta)
    value.total.backward()
    optimizer.step()
    return value


def free_at(
    model: Model,
    optimizer: LARS,
    loss: Loss,
    x: Tensor,
    delta: Tensor,
    rates: list[float],
    threat: Threat,
    project_first: bool = True,
) -> tuple[list[EmpSslLoss], Tensor]:
    """One minibatch, replayed once for each rate: a single backward pass descends in the weights and ascends in delta.

    `delta` is zero at the very start and is then carried by position from minibatch to minibatch; the returned
    one goes into the next call. The reference does not bring it into the box of a new minibatch before the first
    replay (`project_first=False`), so that its first input may leave [0, 1].
    """
    values = []
    if project_first:
        delta = threat.project(x, delta)
    for rate in rates:
        set_rate(optimizer, rate)
        optimizer.zero_grad()
        leaf = delta.detach().requires_grad_()
        value = loss(model, x + leaf)
        value.total.backward()
        optimizer.step()
        delta = threat.project(x, leaf.detach() + threat.step * leaf.grad.sign())
        values.append(value)
    return values, delta


# ------------------------------------------------------------------------------------------- check


def check_against_torchvision():
    import torchvision

    for depth in DEPTHS:
        torch.manual_seed(depth)
        theirs = getattr(torchvision.models, f"resnet{depth}")()
        theirs.fc = nn.Identity()
        ours = ResNet(depth, 64, "imagenet")
        expected = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
        found = {name: tuple(t.shape) for name, t in ours.state_dict().items()}
        assert list(found) == list(expected) and found == expected, f"resnet{depth}: state_dict differs"
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.rand(2, 3, 64, 64)
        for mode in (True, False):
            ours.train(mode)
            theirs.train(mode)
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
        print(f"resnet{depth}: {len(found)} names and both modes' outputs equal torchvision's")

    theirs = torchvision.models.resnet18()
    theirs.conv1, theirs.maxpool, theirs.fc = conv(3, 64, 3), nn.Identity(), nn.Identity()
    ours = ResNet(18, 64, "cifar")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    print("resnet18 with the CIFAR stem: equal to torchvision's with conv1 and maxpool replaced")


def check_losses_and_schedule():
    torch.manual_seed(0)
    for b, d in ((3, 8), (8, 3)):
        z = F.normalize(torch.randn(b, d, dtype=torch.float64), dim=1)
        direct = 0.5 * torch.logdet(torch.eye(d, dtype=z.dtype) + d / (b * 0.2) * z.T @ z)
        torch.testing.assert_close(total_coding_rate(z), direct)
    collapsed = F.normalize(torch.ones(8, 4), dim=1)
    spread = F.normalize(torch.randn(8, 4), dim=1)
    assert total_coding_rate(spread) > total_coding_rate(collapsed)

    batches, epochs, replays = 5, 3, 3
    for schedule in ("per-step-length", "per-batch-length"):
        length = schedule_length(batches, epochs, replays, schedule)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=length)
        for step in range(batches * epochs * replays):
            assert abs(optimizer.param_groups[0]["lr"] - cosine_rate(0.3, step, length)) < 1e-12
            optimizer.step()
            scheduler.step()
    print("coding rate equals the direct determinant; cosine equals torch's scheduler in both lengths")


def check_lars():
    p = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    optimizer = LARS([p], lr=0.3)
    p.grad = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    scale = 0.005 * 5 / (2 + 1e-4 * 5 + 1e-8) / 0.3
    gradient = scale * (p.grad + 1e-4 * p.detach())
    expected = p.detach() - 0.3 * 1.9 * gradient
    optimizer.step()
    torch.testing.assert_close(p.detach(), expected)
    print("LARS: first step equals its closed form")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", required=True)
    parser.parse_args()
    torch.set_num_threads(1)
    check_against_torchvision()
    check_losses_and_schedule()
    check_lars()
