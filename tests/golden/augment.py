"""Golden values of the augmentations, from torchvision and PIL.

    python augment.py

Writes augment.json and augment.safetensors beside this file. The JSON holds the distributions of
torchvision's random parameters, what its crop rounding and its fallback give, and a list of pixel cases
{name, op, params, input, output}; `input` and `output` name tensors: u8 `[height, width, 3]`, or f32 of the
same layout in [0, 1] where the op ends in `_float`.
"""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter, ImageOps
from safetensors.numpy import save_file
from torchvision.transforms import ColorJitter, RandomResizedCrop

HERE = Path(__file__).resolve().parent
DRAWS = 100_000
QUANTILES = (1, 5, 25, 50, 75, 95, 99)
JITTER_NAMES = ("brightness", "contrast", "saturation", "hue")

CROP_BASED = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
PATCH_BASED = {"scale": (0.25, 0.25), "ratio": (1.0, 1.0)}

# ----------------------------------------------------------------------------------- distributions


def summary(values) -> dict:
    values = np.asarray(values, dtype=np.float64)
    quantiles = {str(q): float(np.percentile(values, q)) for q in QUANTILES}
    return {"mean": float(values.mean()), "std": float(values.std()), "quantiles": quantiles}


def blank(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height))


def crop_distribution(name: str, height: int, width: int, recipe: dict) -> dict:
    image = blank(height, width)
    draws = [RandomResizedCrop.get_params(image, list(recipe["scale"]), list(recipe["ratio"])) for _ in range(DRAWS)]
    top, left, crop_height, crop_width = (np.array(column) for column in zip(*draws))
    columns = {"top": top, "left": left, "height": crop_height, "width": crop_width}
    columns["area_fraction"] = crop_height * crop_width / (height * width)
    settings = {"name": name, "source": {"height": height, "width": width}, "draws": DRAWS}
    return settings | recipe | {key: summary(column) for key, column in columns.items()}


def jitter_distribution() -> dict:
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.2)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    orders, factors = Counter(), []
    for _ in range(DRAWS):
        order, *values = ColorJitter.get_params(*ranges)
        orders["".join(str(int(index)) for index in order)] += 1
        factors.append(values)
    columns = {name: summary(column) for name, column in zip(JITTER_NAMES, zip(*factors))}
    frequencies = {order: count / DRAWS for order, count in sorted(orders.items())}
    return {
        "draws": DRAWS,
        "ranges": dict(zip(JITTER_NAMES, ranges)),
        "factors": columns,
        "order_codes": dict(enumerate(JITTER_NAMES)),
        "order_frequencies": frequencies,
    }


def crop_sizes() -> list[dict]:
    """The size that an area scale and an aspect ratio (width / height) round to, halves to even, and whether it fits."""
    cases = []
    for height, width in ((32, 32), (48, 64)):
        for scale in (0.08, 0.1, 0.25, 0.5, 0.77, 1.0):
            for ratio in (3 / 4, 0.9, 1.0, 1.1, 4 / 3):
                area = height * width * scale
                w, h = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
                fits = 0 < w <= width and 0 < h <= height
                source = {"height": height, "width": width}
                cases.append({"source": source, "scale": scale, "ratio": ratio, "height": h, "width": w, "fits": fits})
    return cases


def crop_fallbacks() -> list[dict]:
    """Sources in which no try can succeed: the central crop of the nearest allowed ratio."""
    cases = []
    for height, width in ((16, 64), (64, 16), (10, 33), (33, 10), (7, 100)):
        ratio = list(CROP_BASED["ratio"])
        top, left, h, w = RandomResizedCrop.get_params(blank(height, width), [1.0, 1.0], ratio)
        box = {"top": top, "left": left, "height": h, "width": w}
        cases.append({"source": {"height": height, "width": width}, "scale": (1.0, 1.0), "ratio": ratio, "box": box})
    return cases


# ------------------------------------------------------------------------------------------ images


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Sky to ground gradient, a disc, a box, stripes and sensor noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    v, u = y / (height - 1), x / (width - 1)
    image = np.stack([0.3 + 0.5 * v, 0.5 + 0.2 * u - 0.2 * v, 0.9 - 0.7 * v], axis=2)
    for _ in range(2):
        centre = rng.uniform(0.2, 0.8, 2)
        inside = (v - centre[0]) ** 2 + (u - centre[1]) ** 2 < rng.uniform(0.01, 0.05)
        image[inside] = rng.uniform(0, 1, 3)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    image[top : top + height // 3, left : left + width // 4] = rng.uniform(0, 1, 3)
    stripes = (np.sin((2 * u + v) * rng.uniform(15, 30)) > 0.6) & (v > 0.6)
    image[stripes] = 0.3 * image[stripes] + 0.7 * rng.uniform(0, 1, 3)
    image += rng.normal(0, 0.03, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


# ---------------------------------------------------------------------------------- pixel operations


def resized_crop(image: Image.Image, top, left, height, width, out_height, out_width) -> Image.Image:
    return F.resized_crop(image, top, left, height, width, [out_height, out_width])


def grayscale(image: Image.Image) -> Image.Image:
    return F.rgb_to_grayscale(image, 3)


def pil_gaussian_blur(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma))


def true_gaussian_blur(image: Image.Image, sigma: float, kernel_size: int) -> Image.Image:
    """Separable samples of the Gaussian, normalised to sum 1, reflect padding; computed in float64."""
    tensor = F.pil_to_tensor(image).double()
    blurred = F.gaussian_blur(tensor, [kernel_size, kernel_size], [sigma, sigma])
    return Image.fromarray(blurred.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def solarize(image: Image.Image, threshold: int) -> Image.Image:
    return ImageOps.solarize(image, threshold)


ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def chain(image: Image.Image, crop, out, flip, jitter, gray, blur_sigma, solarized) -> Image.Image:
    """The recipe for one drawn view; `jitter` is None or an order of names with a factor for each."""
    image = resized_crop(image, **crop, out_height=out["height"], out_width=out["width"])
    if flip:
        image = F.hflip(image)
    if jitter:
        for name in jitter["order"]:
            image = ADJUST[name](image, jitter[name])
    if gray:
        image = grayscale(image)
    if blur_sigma is not None:
        image = pil_gaussian_blur(image, blur_sigma)
    return solarize(image, 128) if solarized else image


class PixelCases:
    """Collects the cases and the tensors that they name."""

    def __init__(self, images: dict[str, np.ndarray]):
        self.images = {name: Image.fromarray(pixels) for name, pixels in images.items()}
        self.tensors = {f"image/{name}": pixels for name, pixels in images.items()}
        self.cases = []

    def record(self, op: str, image_name: str, params: dict, output: np.ndarray):
        name = f"{op}/{image_name}/{sum(case['op'] == op for case in self.cases):03d}"
        self.tensors[f"output/{name}"] = np.ascontiguousarray(output)
        case = {"name": name, "op": op, "params": params, "input": f"image/{image_name}", "output": f"output/{name}"}
        self.cases.append(case)

    def add(self, op: str, image_name: str, function, **params):
        self.record(op, image_name, params, np.asarray(function(self.images[image_name], **params)))

    def add_float(self, op: str, image_name: str, function, **params):
        tensor = F.pil_to_tensor(self.images[image_name]).double() / 255
        output = function(tensor, **params).permute(1, 2, 0).float().numpy()
        self.record(f"{op}_float", image_name, params, output)


def box(top: int, left: int, height: int, width: int) -> dict:
    return {"top": top, "left": left, "height": height, "width": width}


BOXES = {
    "square_a": [
        box(0, 0, 32, 32), box(5, 7, 16, 16), box(3, 2, 9, 11), box(10, 0, 22, 30), box(0, 20, 32, 12),
        box(12, 13, 8, 8), box(30, 30, 1, 1), box(8, 8, 9, 9), box(1, 0, 31, 27),
    ],
    "wide_a": [box(0, 0, 48, 64), box(5, 10, 40, 33), box(20, 30, 13, 17), box(0, 0, 48, 20), box(40, 60, 8, 4)],
}  # fmt: skip
OUTPUT_SIDES = (16, 32, 64)
FACTORS = (0.0, 0.6, 0.8, 1.0, 1.25, 1.4)
HUES = (-0.5, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.5)
SIGMAS = (0.1, 0.5, 1.0, 2.0)

CHAINS = [
    ("square_a", box(3, 5, 20, 24), True, (("brightness", 1.3), ("contrast", 0.7), ("saturation", 1.2), ("hue", 0.1)), False, None, False),
    ("square_a", box(0, 0, 32, 32), False, (("hue", -0.15), ("saturation", 0.65), ("brightness", 0.8), ("contrast", 1.4)), False, 1.3, False),
    ("square_b", box(10, 9, 12, 10), True, None, True, 0.6, True),
    ("square_b", box(8, 8, 16, 16), False, (("contrast", 1.1), ("hue", 0.2), ("brightness", 1.4), ("saturation", 1.4)), False, None, True),
    ("wide_a", box(4, 7, 41, 50), True, (("saturation", 0.9), ("brightness", 1.05), ("hue", -0.02), ("contrast", 0.95)), False, None, False),
    ("wide_b", box(11, 20, 24, 24), False, (("contrast", 0.6), ("brightness", 0.6), ("saturation", 0.6), ("hue", -0.2)), True, 2.0, True),
    ("wide_b", box(0, 0, 48, 64), False, None, False, None, False),
]  # fmt: skip


def pixel_cases() -> PixelCases:
    cases = PixelCases(
        {
            "square_a": scene(32, 32, 1),
            "square_b": scene(32, 32, 2),
            "wide_a": scene(48, 64, 3),
            "wide_b": scene(48, 64, 4),
        }
    )
    for image, boxes in BOXES.items():
        for crop in boxes:
            for side in OUTPUT_SIDES:
                cases.add("resized_crop", image, resized_crop, **crop, out_height=side, out_width=side)
    cases.add("resized_crop", "wide_a", resized_crop, **box(2, 3, 30, 40), out_height=24, out_width=40)
    for image in ("square_a", "wide_a"):
        cases.add("hflip", image, F.hflip)
        cases.add("grayscale", image, grayscale)
        cases.add("solarize", image, solarize, threshold=128)
        for sigma in SIGMAS:
            cases.add("pil_gaussian_blur", image, pil_gaussian_blur, sigma=sigma)
            kernel_size = 2 * math.ceil(3 * sigma) + 1
            cases.add("true_gaussian_blur", image, true_gaussian_blur, sigma=sigma, kernel_size=kernel_size)
    for name, adjust in ADJUST.items():
        argument = "hue_factor" if name == "hue" else f"{name}_factor"
        for factor in HUES if name == "hue" else FACTORS:
            for image in ("square_a", "square_b"):
                cases.add(f"adjust_{name}", image, lambda i, factor: adjust(i, **{argument: factor}), factor=factor)
            cases.add_float(f"adjust_{name}", "square_a", lambda t, factor: adjust(t, **{argument: factor}), factor=factor)
        cases.add(f"adjust_{name}", "wide_a", lambda i, factor: adjust(i, **{argument: factor}), factor=0.15)
    for image, crop, flip, jitter, gray, blur_sigma, solarized in CHAINS:
        order = {"order": [name for name, _ in jitter]} | dict(jitter) if jitter else None
        out = {"height": 32, "width": 32}
        params = {"crop": crop, "out": out, "flip": flip, "jitter": order, "gray": gray}
        cases.add("chain", image, chain, **params, blur_sigma=blur_sigma, solarized=solarized)
    return cases


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = pixel_cases()
    golden = {
        "versions": {"torchvision": torchvision.__version__, "pillow": PIL.__version__},
        "random_resized_crop": [
            crop_distribution("crop_32x32", 32, 32, CROP_BASED),
            crop_distribution("crop_48x64", 48, 64, CROP_BASED),
            crop_distribution("patch_32x32", 32, 32, PATCH_BASED),
            crop_distribution("patch_48x64", 48, 64, PATCH_BASED),
        ],
        "color_jitter": jitter_distribution(),
        "crop_sizes": crop_sizes(),
        "crop_fallbacks": crop_fallbacks(),
        "pixels": cases.cases,
    }
    (HERE / "augment.json").write_text(json.dumps(golden, indent=1) + "\n")
    save_file(cases.tensors, HERE / "augment.safetensors")
    (HERE / "augment.safetensors").chmod(0o644)
    print(f"{len(cases.cases)} pixel cases, {sum(t.nbytes for t in cases.tensors.values())} bytes of tensors")


if __name__ == "__main__":
    main()
