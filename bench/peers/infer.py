"""Inference of a bundle by PyTorch (eager, f32) or ONNX Runtime, on the CPU.

    python infer.py --serve torch|torch-channels-last|onnxruntime --bundle DIR --input FILE.f32 --threads 2

FILE.f32 holds views `[n, 3, height, width]` as little-endian f32. Asked line by line, so that other programs can take turns
with it: its first line is {"ready": {versions, notes}}, or {"missing": why} where a package is not installed. Then

    {"ask": "logits", "views": n}                     -> {"logits": [n * classes]}
    {"ask": "round", "views": n, "seconds": s}        -> {"milliseconds": [of each pass]}
    {"ask": "memory"}                                 -> {"peak_kib": k}, VmHWM of the process

a pass being the first n views to logits. The end of stdin is the end. `gabion bench infer` asks.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from peer import resident_kib, speaker

# As many as an answer of one line holds.
MOST_PASSES = 4000


def torch_passes(args, x):
    import load_bundle
    import torch

    torch.set_num_threads(args.threads)
    model, head, _, _ = load_bundle.load(args.bundle)
    x = torch.from_numpy(x)
    if args.serve == "torch-channels-last":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)

    def logits(views: int):
        with torch.inference_mode():
            feature, _ = model(x[:views])
            return torch.nn.functional.linear(feature, head["weight"], head["bias"]).numpy()

    # The projection, which the head does not see, is no part of the work.
    model.projector.projection = torch.nn.Identity()
    layout = "channels last" if args.serve == "torch-channels-last" else "channels first"
    return logits, {"torch": torch.__version__}, [f"eager, f32, {layout}, {args.threads} threads"]


class Graph:
    """A bundle's network as ONNX, batch norms folded into the convolutions in f64, as an exporter's optimizer does."""

    def __init__(self, weights: dict):
        self.weights, self.nodes, self.constants, self.count = weights, [], [], 0

    def add(self, kind: str, inputs: list[str], **attributes) -> str:
        from onnx import helper

        self.count += 1
        name = f"v{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values) -> str:
        import numpy as np
        from onnx import numpy_helper

        self.count += 1
        name = f"w{self.count}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
        return name

    def folded(self, weight, bias, norm: str):
        import numpy as np

        gamma, beta, mean, var = (
            self.weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + 1e-5)
        weight = weight.astype(np.float64) * scale.reshape(-1, *[1] * (weight.ndim - 1))
        return self.constant(weight), self.constant((bias - mean) * scale + beta)

    def conv(self, x: str, conv: str, norm: str, stride: int) -> str:
        weight = self.weights[f"{conv}.weight"]
        kernel = weight.shape[-1]
        names = self.folded(weight, 0.0, norm)
        return self.add(
            "Conv", [x, *names], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4
        )

    def relu(self, x: str) -> str:
        return self.add("Relu", [x])

    def block(self, x: str, name: str, stride: int) -> str:
        bottleneck = f"{name}.conv3.weight" in self.weights
        around = x
        if f"{name}.downsample.0.weight" in self.weights:
            around = self.conv(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        for number, step in enumerate(strides, 1):
            x = self.conv(x, f"{name}.conv{number}", f"{name}.bn{number}", step)
            if number < len(strides):
                x = self.relu(x)
        return self.relu(self.add("Add", [x, around]))


def onnx_model(bundle: Path) -> bytes:
    """The bundle's network, `views [n, 3, h, w]` to `logits [n, classes]`."""
    from onnx import TensorProto, helper
    from safetensors.numpy import load_file

    manifest = json.loads((bundle / "manifest.json").read_text())
    weights = load_file(bundle / "model.safetensors")
    size = manifest["input"]
    graph = Graph(weights)
    imagenet = manifest["encoder"]["stem"] == "imagenet"
    x = graph.relu(graph.conv("views", "encoder.conv1", "encoder.bn1", 2 if imagenet else 1))
    if imagenet:
        x = graph.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in range(1, 5):
        block = 0
        while f"encoder.layer{stage}.{block}.conv1.weight" in weights:
            x = graph.block(x, f"encoder.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1)
            block += 1
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    linear, bias = weights["projector.pre_feature.0.weight"], weights["projector.pre_feature.0.bias"]
    x = graph.relu(graph.add("Gemm", [x, *graph.folded(linear, bias.astype("f8"), "projector.pre_feature.1")], transB=1))
    head = [graph.constant(weights[f"head.{part}"]) for part in ("weight", "bias")]
    x = graph.add("Gemm", [x, *head], transB=1)
    views = helper.make_tensor_value_info("views", TensorProto.FLOAT, ["n", 3, size["height"], size["width"]])
    logits = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", len(weights["head.bias"])])
    made = helper.make_graph(graph.nodes, "bundle", [views], [logits], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def onnx_passes(args, x):
    import onnxruntime

    # What is deployed is a file: exported once, and no part of a later start.
    path = args.bundle / "model.onnx"
    if not path.is_file():
        path = Path(tempfile.gettempdir()) / f"gabion-{os.getppid()}-{args.bundle.name}.onnx"
    if not path.is_file():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(onnx_model(args.bundle))
        part.rename(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def logits(views: int):
        return session.run(None, {"views": x[:views]})[0]

    notes = [f"f32, all graph optimizations, batch norms folded at export, {args.threads} threads"]
    return logits, {"onnxruntime": onnxruntime.__version__}, notes


def serve(args):
    say = speaker()
    try:
        import numpy as np

        size = json.loads((args.bundle / "manifest.json").read_text())["input"]
        x = np.fromfile(args.input, dtype="<f4").reshape(-1, 3, size["height"], size["width"])
        passes = onnx_passes if args.serve == "onnxruntime" else torch_passes
        logits, versions, notes = passes(args, x)
    except ImportError as error:
        say({"missing": str(error)})
        return
    say({"ready": {"versions": {"python": platform.python_version()} | versions, "notes": notes}})
    for line in sys.stdin:
        request = json.loads(line)
        if request["ask"] == "logits":
            say({"logits": [float(value) for value in logits(request["views"]).reshape(-1)]})
        elif request["ask"] == "round":
            times, end = [], time.perf_counter() + request["seconds"]
            while len(times) < MOST_PASSES and (not times or time.perf_counter() < end):
                start = time.perf_counter()
                logits(request["views"])
                times.append(round(1e3 * (time.perf_counter() - start), 4))
            say({"milliseconds": times})
        elif request["ask"] == "memory":
            say({"peak_kib": resident_kib("VmHWM")})
        else:
            raise SystemExit(f"no question {request['ask']!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=("torch", "torch-channels-last", "onnxruntime"), required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True, metavar="FILE.f32")
    parser.add_argument("--threads", type=int, default=2)
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
