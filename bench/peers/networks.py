"""Networks whose weights others trained, as PyTorch modules: `[n, 3, h, w]` in [0, 1] -> logits `[n, classes]`.

    python networks.py FILE.safetensors|BUNDLE_DIR ... --data DIR

prints the clean accuracy of each on the CIFAR-10 test set (DIR holds cifar10/test_batch.bin). The normalisation that a
network was trained with is its first layer, so that epsilon always means pixel units. `load` tells the architecture
from the names and shapes of the tensors:

| file | network | from |
|---|---|---|
| resnet2b, resnet4b | `CrownResNet`: 3x3 of stride 2, one or two stages of two blocks, biases instead of batch norm | alpha-beta-CROWN, complete_verifier/model_defs.py (`CResNet5`, `CResNet7`) |
| cifar_cnn_a_adv, cifar_cnn_a_mix | `cnn_a`: two 4x4 convolutions of stride 2, two linear layers | the same repository |
| resnet20, resnet56 | `CifarResNet`: He et al. 2016, shortcuts of option A | akamaster/pytorch_resnet_cifar10, resnet.py |
| autoattack.safetensors of tests/golden | `small_cnn` | tests/golden/autoattack.py |
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """`(x - mean) / std` of each channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class CrownBlock(nn.Module):
    """conv3x3(stride) ReLU conv3x3, plus the shortcut (1x1 where shapes differ), then ReLU; biases everywhere."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*[nn.Conv2d(inputs, outputs, 1, stride)] if changes else [])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class CrownResNet(nn.Module):
    """A 3x3 of stride 2, `stages` of two blocks whose first has stride 2, and two linear layers."""

    def __init__(self, width: int, stages: int):
        super().__init__()
        self.normalise = Normalise(CIFAR_MEAN, CIFAR_STD)
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1)
        inputs = width
        for stage in range(1, stages + 1):
            blocks = nn.Sequential(CrownBlock(inputs, 2 * width, 2), CrownBlock(2 * width, 2 * width, 1))
            setattr(self, f"layer{stage}", blocks)
            inputs = 2 * width
        self.stages = stages
        side = 16 >> stages
        self.linear1 = nn.Linear(2 * width * side * side, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(self.normalise(x)))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


class OptionABlock(nn.Module):
    """conv3x3(stride) BN ReLU conv3x3 BN, plus the shortcut, then ReLU. Where the width doubles the shortcut is every
    second pixel with channels of zeros on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.zeros = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.zeros:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.zeros, self.zeros))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """Three stages of `blocks` blocks, 16, 32 and 64 wide: 20 layers of 3 blocks a stage, 56 of 9."""

    def __init__(self, blocks: int):
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            strides = [1 if stage == 1 else 2] + [1] * (blocks - 1)
            made = []
            for stride in strides:
                made.append(OptionABlock(inputs, width, stride))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*made))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.normalise(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def cnn_a() -> nn.Module:
    """Layers numbered as in the file, which begins with the first convolution."""
    normalise = Normalise(IMAGENET_MEAN, (0.225,) * 3)
    layers = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(OrderedDict([("normalise", normalise), *((str(at), one) for at, one in enumerate(layers))]))


def small_cnn(widths: tuple[int, int], features: int, classes: int = 10) -> nn.Module:
    """conv3x3 ReLU conv3x3(stride 2) ReLU linear, without normalisation; `features` inputs of the linear layer."""
    layers = [("conv1", nn.Conv2d(3, widths[0], 3, 1, 1)), ("relu1", nn.ReLU())]
    layers += [("conv2", nn.Conv2d(*widths, 3, 2, 1)), ("relu2", nn.ReLU())]
    layers += [("flatten", nn.Flatten()), ("linear", nn.Linear(features, classes))]
    return nn.Sequential(OrderedDict(layers))


class Bundle(nn.Module):
    """A Gabion bundle: encoder, the projector's feature, the linear head."""

    def __init__(self, folder: Path):
        super().__init__()
        import load_bundle

        self.model, head, _, _ = load_bundle.load(folder)
        self.register_buffer("weight", head["weight"])
        self.register_buffer("bias", head["bias"])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.model(x)[0], self.weight, self.bias)


def recognise(weights: dict[str, Tensor]) -> nn.Module:
    """The network, untrained, that has tensors of these names and shapes."""
    if "linear2.weight" in weights and "layer1.0.conv1.bias" in weights:
        return CrownResNet(weights["conv1.weight"].shape[0], 2 if "layer2.0.conv1.weight" in weights else 1)
    if "layer3.0.bn1.running_var" in weights:
        return CifarResNet(sum(name.startswith("layer1.") and name.endswith("conv1.weight") for name in weights))
    if "7.weight" in weights:
        return cnn_a()
    if set(weights) == {f"{layer}.{kind}" for layer in ("conv1", "conv2", "linear") for kind in ("weight", "bias")}:
        widths = tuple(weights[f"conv{at}.weight"].shape[0] for at in (1, 2))
        return small_cnn(widths, weights["linear.weight"].shape[1], weights["linear.weight"].shape[0])
    raise SystemExit(f"no known network has the tensors {sorted(weights)[:6]} ...")


def load(path: Path) -> nn.Module:
    """The network of a bundle's folder or of a safetensors file, in eval mode and without gradients of its weights."""
    path = Path(path)
    if path.is_dir():
        model = Bundle(path)
    else:
        weights = load_file(path)
        # A golden file has images and iterates as well.
        ours = {name.removeprefix("weights/"): value for name, value in weights.items() if name.startswith("weights/")}
        weights = ours or weights
        model = recognise(weights)
        counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
        model.load_state_dict(counters | weights, strict=True)
    return model.eval().requires_grad_(False)


RECORD = 1 + 3 * 32 * 32


def images(data: Path) -> tuple[Tensor, Tensor]:
    """u8 `[n, 3, h, w]` and labels `[n]`: CIFAR-10's test images of a folder, or those of a golden file."""
    data = Path(data)
    if data.suffix == ".safetensors":
        tensors = load_file(data)
        return tensors["images"], tensors["labels"].long()
    folder = data if (data / "test_batch.bin").exists() else data / "cifar10"
    records = np.fromfile(folder / "test_batch.bin", dtype=np.uint8).reshape(-1, RECORD)
    return torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(records[:, 0].astype(np.int64))


def correct(model: nn.Module, x: Tensor, labels: Tensor, batch: int = 250) -> Tensor:
    """bool `[n]`: whether the class of the greatest logit is the label's. `x` is u8."""
    with torch.no_grad():
        parts = [model(part.float() / 255).argmax(1) for part in x.split(batch)]
    return torch.cat(parts) == labels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, help="only the first so many")
    args = parser.parse_args()
    torch.set_num_threads(2)
    x, labels = images(args.data)
    x, labels = x[: args.images], labels[: args.images]
    for path in args.models:
        right = correct(load(path), x, labels)
        print(f"{path.stem}: {100 * right.double().mean():.2f} % of {len(right)}")


if __name__ == "__main__":
    main()
