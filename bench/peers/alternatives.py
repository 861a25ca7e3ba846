"""A 3x3 convolution or a basic block by PyTorch (eager, f32) on the CPU: there, or there and back.

    python alternatives.py --serve torch|torch-channels-last --threads 2

Asked line by line, so that others can take turns with it: its first line is {"ready": {versions, notes}}, or {"missing": why}
where a package is not installed. Then

    {"ask": "prepare", "case": {work, pass, width, batch, side}, "operands": FILE, "values": FILE}
                                     -> {"first_seconds": s}, the values of that pass in a file
    {"ask": "round", "seconds": s}   -> {"passes": n, "seconds": of all}

Files are little-endian f32 in the order that bench/alternatives/src/case.rs writes. The end of stdin is the end.
"""

import argparse
import json
import platform
import sys
import time

from peer import speaker


def network(case: dict, layers: list[dict]):
    import torch
    from torch import nn

    width = case["width"]

    def conv(layer: dict) -> nn.Conv2d:
        made = nn.Conv2d(width, width, 3, padding=1, bias=False)
        made.weight = nn.Parameter(layer["weight"])
        return made

    def norm(layer: dict) -> nn.BatchNorm2d:
        made = nn.BatchNorm2d(width)
        made.weight, made.bias = nn.Parameter(layer["gamma"]), nn.Parameter(layer["beta"])
        made.running_mean, made.running_var = layer["mean"], layer["var"]
        return made

    class Block(nn.Module):
        """torchvision's BasicBlock without a projection."""

        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = conv(layers[0]), norm(layers[0])
            self.conv2, self.bn2 = conv(layers[1]), norm(layers[1])
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += x
            return self.relu(out)

    return (conv(layers[0]) if case["work"] == "conv" else Block()).train(case["pass"] == "train")


class Prepared:
    def __init__(self, case: dict, path: str, memory_format):
        import numpy as np
        import torch

        width, rest = case["width"], torch.from_numpy(np.fromfile(path, dtype="<f4"))

        def take(*shape: int) -> torch.Tensor:
            nonlocal rest
            length = int(np.prod(shape))
            taken, rest = rest[:length].clone().view(shape), rest[length:]
            return taken.contiguous(memory_format=memory_format) if len(shape) == 4 else taken

        activation = (case["batch"], width, case["side"], case["side"])
        self.x, self.dy = take(*activation), take(*activation)
        layers = [
            {"weight": take(width, width, 3, 3)} | {name: take(width) for name in ("gamma", "beta", "mean", "var")}
            for _ in range(2)
        ]
        self.torch, self.trains = torch, case["pass"] == "train"
        self.model = network(case, layers).to(memory_format=memory_format)
        self.made = []

    def run(self):
        self.made = []
        if not self.trains:
            with self.torch.inference_mode():
                self.made = [self.model(self.x)]
            return
        x = self.x.detach().requires_grad_()
        y = self.model(x)
        parameters = list(self.model.parameters())
        self.made = [y, *self.torch.autograd.grad(y, [x, *parameters], self.dy)]

    def write(self, path: str):
        import numpy as np

        values = [made.detach().contiguous().flatten().numpy() for made in self.made]
        np.concatenate(values).astype("<f4").tofile(path)


def serve(args: argparse.Namespace):
    say = speaker()
    try:
        import numpy  # noqa: F401
        import torch
    except ImportError as error:
        say({"missing": str(error)})
        return
    torch.set_num_threads(args.threads)
    last = args.serve == "torch-channels-last"
    memory_format = torch.channels_last if last else torch.contiguous_format
    note = f"eager, f32, channels {'last' if last else 'first'}, {args.threads} threads"
    say({"ready": {"versions": {"python": platform.python_version(), "torch": torch.__version__}, "notes": [note]}})
    prepared = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["ask"] == "prepare":
            prepared = None
            prepared = Prepared(request["case"], request["operands"], memory_format)
            start = time.perf_counter()
            prepared.run()
            first = time.perf_counter() - start
            prepared.write(request["values"])
            say({"first_seconds": first})
        elif request["ask"] == "round":
            start, passes = time.perf_counter(), 0
            while passes == 0 or time.perf_counter() - start < request["seconds"]:
                prepared.run()
                passes += 1
            say({"passes": passes, "seconds": time.perf_counter() - start})
        else:
            raise SystemExit(f"no question {request['ask']!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=("torch", "torch-channels-last"), required=True)
    parser.add_argument("--threads", type=int, default=2)
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
