"""Golden gradients of the patch pipeline: autograd of torch and torchvision in float64, from float32 inputs.

    python augment_gradients.py

Writes augment_gradients.json and augment_gradients.safetensors beside this file. Everything is seeded: the same
versions write the same files. The JSON holds cases {group, name, source, size, draws, weights, source_gradient} with
`views` and `crop_gradients` where a group has them and {op, factor} in the group `operation`. `draws` has the fields
of Gabion's `Draw` that are not neutral. The others name f32 tensors: the source `[3, h, w]`, the view of each draw, at
least as many views' weights, and the gradients of `sum(views * weights)` by each crop (after resize and flip) and by
the source, to which all draws add.

- `crop`: crop, resize and flip as autograd through `interpolate(crop, antialias=True)`. Its crop gradient is the
  weights, so none is stored.
- `grid_sample`: enlarging crops as autograd through `grid_sample` on the *whole* source. At the inner borders of a crop
  that looks at pixels outside of it, crop and resize repeat the crop's edge. So the weights of these cases are 0 where
  grid_sample would take from outside; a crop that is the whole source has no such place, there `border` padding repeats
  the same edge. On what is left both have to give the same, which is asserted here to 1e-12.
- `operation`: one colour operation on a crop that is the whole source and already has its size.
- `chain`: jitter in every order, grayscale, both blurs and solarize after crops that enlarge, shrink or copy.

Sources are moved until no value comes within MARGIN of a corner of a formula: the ends of a clamp, equal channels and
whole sextants of the hue, the threshold of solarize. What a clamp cuts off stays cut off, far from its corner; cases
named `clamped` have such values.

Gray weighs red with 0.299 as PIL and Gabion do, torchvision with 0.2989. So gray is written here, and so are PIL's
three boxes; `check_against_torchvision` and `check_against_pil` hold the functions here to their libraries.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import PIL
import torch
import torch.nn.functional as F
import torchvision
import torchvision.transforms.functional as V
import torchvision.transforms.v2.functional as V2
from PIL import Image, ImageFilter
from safetensors.numpy import save_file
from torch import Tensor
from torchvision.transforms._functional_tensor import _blend, _hsv2rgb, _rgb2hsv

HERE = Path(__file__).resolve().parent
JITTER = ("brightness", "contrast", "saturation", "hue")
ITU_R_601 = (0.299, 0.587, 0.114)
GAUSSIAN, BOXES = 0, 1
THRESHOLD = float(np.float32(128 / 255))
MARGIN = 2e-4
# Hue divides by the chroma: what float32 rounds before it is multiplied by the inverse.
LEAST_CHROMA = 0.02
TRIES = 4000
# Pixels of a view from which on a case has fewer draws.
LARGE = 32 * 32

rng = np.random.default_rng(20)


def f32(value: float) -> float:
    """The nearest number that a Draw can hold."""
    return float(np.float32(value))


# ------------------------------------------------------------------------------------------- the draw


def crop_draw(top: int, left: int, height: int, width: int, flip: bool = False, **rest) -> dict:
    return {"top": top, "left": left, "height": height, "width": width, "flip": int(flip)} | rest


def jitter_draw(order: tuple[str, ...], brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0) -> dict:
    code = sum(JITTER.index(name) << (8 * place) for place, name in enumerate(order))
    factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    return {"jitter": 1, "order": code} | {name: f32(factor) for name, factor in factors.items()}


def blur_draw(sigma: float, kind: int) -> dict:
    return {"blur_sigma": f32(sigma), "blur_filter": kind}


def stages(draw: dict) -> list[tuple[str, float]]:
    """The operations after the crop, in their order, each with its number."""
    found = []
    if draw.get("jitter"):
        names = [JITTER[draw["order"] >> (8 * place) & 0xFF] for place in range(4)]
        found += [(name, draw[name]) for name in names]
    if draw.get("grayscale"):
        found.append(("grayscale", 0.0))
    if draw.get("blur_sigma"):
        found.append(("gaussian_blur" if draw["blur_filter"] == GAUSSIAN else "pil_box_blur", draw["blur_sigma"]))
    if "solarize" in draw:
        found.append(("solarize", draw["solarize"]))
    return found


# ------------------------------------------------------------------------------------- the operations


def resized_crop(source: Tensor, draw: dict, size: tuple[int, int]) -> Tensor:
    top, left, height, width = (draw[key] for key in ("top", "left", "height", "width"))
    crop = source[None, :, top : top + height, left : left + width]
    crop = F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False)[0]
    return crop.flip(-1) if draw["flip"] else crop


def sampled_crop(source: Tensor, draw: dict, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The crop by grid_sample, and where it takes from the crop alone."""
    places, inside = [], []
    for start, length, out, whole in (
        (draw["top"], draw["height"], size[0], source.shape[1]),
        (draw["left"], draw["width"], size[1], source.shape[2]),
    ):
        assert length <= out, "grid_sample does not average, so it is the same for enlarging crops alone"
        within = (torch.arange(out, dtype=torch.float64) + 0.5) * length / out - 0.5
        places.append((start + within + 0.5) / whole * 2 - 1)
        # Beyond the source's own edges both repeat them.
        first, last = 0 if start > 0 else -1, length - 1 if start + length < whole else length
        inside.append((within >= first) & (within <= last))
    y, x = torch.meshgrid(*places, indexing="ij")
    mask = inside[0][:, None] & inside[1][None, :]
    if draw["flip"]:
        x, mask = x.flip(-1), mask.flip(-1)
    grid = torch.stack([x, y], dim=-1)[None]
    view = F.grid_sample(source[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return view, mask


def gray(image: Tensor, weights=ITU_R_601) -> Tensor:
    return sum(weight * channel for weight, channel in zip(weights, image))[None]


def contrast(image: Tensor, factor: float, weights=ITU_R_601) -> Tensor:
    return _blend(image, gray(image, weights).mean(), factor)


def saturation(image: Tensor, factor: float, weights=ITU_R_601) -> Tensor:
    return _blend(image, gray(image, weights), factor)


def hue(image: Tensor, turns: float) -> Tensor:
    """torchvision's `adjust_hue` without its cast to float32. That of `v2` works in place, which autograd refuses."""
    h, s, v = _rgb2hsv(image)
    return _hsv2rgb(torch.stack([(h + turns) % 1.0, s, v]))


def grayscale(image: Tensor, _=None, weights=ITU_R_601) -> Tensor:
    return gray(image, weights).expand(3, -1, -1)


def padded_conv(image: Tensor, kernel: Tensor, mode: str, axis: int) -> Tensor:
    """Convolves one axis; numpy says which pixel stands beyond an edge, however far."""
    radius, count = len(kernel) // 2, image.shape[axis]
    places = np.pad(np.arange(count), radius, mode=mode)
    line = image.index_select(axis, torch.from_numpy(places)).movedim(axis, -1)
    return (line.unfold(-1, len(kernel), 1) * kernel).sum(-1).movedim(-1, axis)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(3 * sigma)
    if radius < min(image.shape[1:]):
        return V.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)
    # torch pads with less than the image; beyond that the reflection is reflected again.
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    return padded_conv(padded_conv(image, kernel, "reflect", 2), kernel, "reflect", 1)


def box_kernel(sigma: float, passes: int = 3) -> Tensor:
    """`_gaussian_blur_radius` and the weights of Pillow's BoxBlur.c."""
    variance = sigma * sigma / passes
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    fraction /= 6 * (variance - (whole + 1) * (whole + 1))
    inner = 1 / (2 * (whole + fraction) + 1)
    outer = (1 - (2 * whole + 1) * inner) / 2
    return torch.tensor([outer] + [inner] * (2 * whole + 1) + [outer], dtype=torch.float64)


def pil_box_blur(image: Tensor, sigma: float) -> Tensor:
    kernel = box_kernel(sigma)
    for axis in (2, 2, 2, 1, 1, 1):
        image = padded_conv(image, kernel, "edge", axis)
    return image


OPERATIONS = {
    "brightness": V.adjust_brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "grayscale": grayscale,
    "gaussian_blur": gaussian_blur,
    "pil_box_blur": pil_box_blur,
    "solarize": V.solarize,
}


def pipeline(source: Tensor, draw: dict, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The crop and the view."""
    crop = view = resized_crop(source, draw, size)
    for op, number in stages(draw):
        view = OPERATIONS[op](view, number)
    return crop, view


# ---------------------------------------------------------------------------------------- the corners


def unclamped(op: str, number: float, image: Tensor) -> Tensor:
    other = {"brightness": lambda: 0.0, "contrast": lambda: gray(image).mean(), "saturation": lambda: gray(image)}[op]()
    return number * image + (1 - number) * other


def near_corner(op: str, number: float, image: Tensor) -> Tensor:
    """Where a pixel is too near a corner of an operation: `[height, width]`."""
    nowhere = torch.zeros(image.shape[1:], dtype=torch.bool)
    if op in ("brightness", "contrast", "saturation") and number != 1.0:
        value = unclamped(op, number, image)
        near = (value.abs() < MARGIN) | ((value - 1).abs() < MARGIN)
        # What a clamp has made exactly 0, black or white stays so, and no gradient passes that clamp.
        if op == "brightness":
            near &= image != 0
        if op == "saturation":
            near &= image.amax(0) > image.amin(0)
        return near.any(0)
    if op == "solarize":
        return ((image - number).abs() < MARGIN).any(0)
    if op == "hue" and number != 0.0:
        largest, smallest = image.amax(0), image.amin(0)
        chroma = largest - smallest
        # Equal channels come from a clamp that cut off both: no gradient passes it, whatever hue makes of the tie.
        near = (chroma > 0) & (chroma < LEAST_CHROMA)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            distance = (image[a] - image[b]).abs()
            near |= (distance > 0) & (distance < MARGIN)
        turned = 6 * (_rgb2hsv(image)[0] + number)
        return near | ((chroma > 0) & ((turned - turned.round()).abs() < MARGIN))
    return nowhere


def corners(source: Tensor, draws: list[dict], size: tuple[int, int]) -> tuple[Tensor, float]:
    """The source pixels under view pixels near a corner, and the share of values that clamps cut off."""
    source = source.clone().requires_grad_()
    found, cut, clamps = torch.zeros(source.shape[1:], dtype=torch.bool), 0, 0
    for draw in draws:
        crop = resized_crop(source, draw, size)
        near, image = torch.zeros(size, dtype=torch.bool), crop.detach()
        for op, number in stages(draw):
            near |= near_corner(op, number, image)
            if op in ("brightness", "contrast", "saturation"):
                value = unclamped(op, number, image)
                cut, clamps = cut + int(((value < 0) | (value > 1)).sum()), clamps + value.numel()
            image = OPERATIONS[op](image, number)
        (under,) = torch.autograd.grad((crop * near).sum(), source)
        found |= (under != 0).any(0)
    return found, cut / max(clamps, 1)


def away_from_corners(draws: list[dict], of: tuple[int, int], size: tuple[int, int], values: tuple[float, float]):
    """A random source on which no draw comes near a corner, and the share of values that clamps cut off."""
    source = torch.from_numpy(rng.uniform(*values, (3, *of)).astype(np.float32)).double()
    near, cut = corners(source, draws, size)
    for _ in range(TRIES):
        if not near.any():
            return source, cut
        # A few of the pixels anew, kept when no more of them are near.
        moved = source.clone()
        chosen = near & torch.from_numpy(rng.random(near.shape) < max(0.1, 1 / int(near.sum())))
        fresh = torch.from_numpy(rng.uniform(*values, (3, *of)).astype(np.float32)).double()
        moved[:, chosen] = fresh[:, chosen]
        near_moved, cut_moved = corners(moved, draws, size)
        if near_moved.sum() <= near.sum():
            source, near, cut = moved, near_moved, cut_moved
    raise RuntimeError(f"{int(near.sum())} pixels are near a corner: {draws}")


# ------------------------------------------------------------------------------------------ the cases


class Cases:
    """Collects the cases and the tensors that they name."""

    def __init__(self):
        self.cases, self.tensors, self.names = [], {}, {}

    def tensor(self, name: str, value: Tensor) -> str:
        """The name under which the values are kept: the same values have one."""
        value = value.detach().float().contiguous().numpy()
        name = self.names.setdefault((value.shape, value.tobytes()), name)
        self.tensors[name] = value
        return name

    def weights(self, count: int, size: tuple[int, int]) -> tuple[str, Tensor]:
        """The first of those of a size."""
        name = f"weights/{size[0]}x{size[1]}"
        if name not in self.tensors:
            draws = 8 if size[0] * size[1] < LARGE else 4
            self.tensor(name, torch.from_numpy(rng.uniform(-1, 1, (draws, 3, *size)).astype(np.float32)))
        return name, torch.from_numpy(self.tensors[name][:count]).double()

    def add(self, group: str, what: str, source: Tensor, size, draws: list[dict], weights=None, sampled=None, **rest):
        """Records the gradients of `sum(views * weights)`; `sampled` is that by the source from elsewhere."""
        name = f"{group}/{len(self.cases):03d}/{what}"
        weights_name, weight = weights or self.weights(len(draws), size)
        leaf = source.clone().requires_grad_()
        crops, views = zip(*(pipeline(leaf, draw, size) for draw in draws))
        *by_crop, by_source = torch.autograd.grad((torch.stack(views) * weight).sum(), [*crops, leaf])
        assert by_source.abs().max() > 0 and torch.isfinite(by_source).all(), name
        case = {"group": group, "name": name, "source": self.tensor(f"source/{name}", source)}
        case |= {"size": size, "draws": draws, "weights": weights_name}
        if sampled is not None:
            assert (sampled - by_source).abs().max() < 1e-12, name
            by_source = sampled
        case["source_gradient"] = self.tensor(f"source_gradient/{name}", by_source)
        if group != "grid_sample":
            case["views"] = self.tensor(f"views/{name}", torch.stack(views))
        if group in ("operation", "chain"):
            case["crop_gradients"] = self.tensor(f"crop_gradients/{name}", torch.stack(by_crop))
        self.cases.append(case | rest)


def boxes(rows: int, columns: int, size: tuple[int, int]) -> list[dict]:
    """Crops of a source, to be added up; fewer where the views are large."""
    height, width = size
    top = (int(rng.integers(0, rows // 2)), int(rng.integers(0, columns // 2)))
    drawn = crop_draw(*top, int(rng.integers(2, rows - top[0])), int(rng.integers(2, columns - top[1])), flip=True)
    column, row = crop_draw(0, columns - 1, rows, 1), crop_draw(rows - 1, 0, 1, columns, flip=True)
    found = [crop_draw(0, 0, rows, columns, flip=True), column, drawn]
    if height <= rows and width <= columns:
        found.append(crop_draw(rows - height, columns - width, height, width, flip=True))
    if height * width < LARGE:
        found += [crop_draw(0, 0, rows, columns), row, crop_draw(rows // 2, columns // 3, 1, 1)]
        found.append(crop_draw(1, 2, rows // 2, columns // 2))
    return found


CROPS = {
    (8, 8): [(8, 8), (16, 16), (32, 32), (9, 13)],
    (13, 29): [(8, 8), (16, 16), (32, 32), (9, 13)],
    (32, 32): [(8, 8), (16, 16), (32, 32), (9, 13)],
    (64, 48): [(16, 16), (9, 13)],
    (100, 37): [(8, 8), (32, 32)],
}


def crop_sources() -> dict[tuple[int, int], Tensor]:
    return {of: torch.from_numpy(rng.uniform(0, 1, (3, *of)).astype(np.float32)).double() for of in CROPS}


def crop_cases(cases: Cases, sources: dict):
    for of, sizes in CROPS.items():
        for size in sizes:
            cases.add("crop", f"{of[0]}x{of[1]}_to_{size[0]}x{size[1]}", sources[of], size, boxes(*of, size))


ENLARGED = [
    ((8, 8), (16, 16), [crop_draw(0, 0, 8, 8), crop_draw(0, 0, 8, 8, True), crop_draw(2, 1, 5, 6)]),
    ((8, 8), (9, 13), [crop_draw(0, 0, 8, 8, True), crop_draw(1, 0, 7, 8), crop_draw(3, 3, 2, 2)]),
    ((13, 29), (32, 32), [crop_draw(0, 0, 13, 29, True), crop_draw(4, 20, 9, 9), crop_draw(0, 0, 13, 17)]),
    ((32, 32), (32, 32), [crop_draw(0, 0, 32, 32), crop_draw(5, 7, 16, 11, True), crop_draw(31, 0, 1, 20)]),
    ((100, 37), (16, 16), [crop_draw(90, 30, 10, 7, True), crop_draw(50, 0, 16, 3), crop_draw(0, 36, 12, 1)]),
]  # fmt: skip


def grid_sample_cases(cases: Cases, sources: dict):
    for of, size, draws in ENLARGED:
        leaf = sources[of].clone().requires_grad_()
        views, masks = zip(*(sampled_crop(leaf, draw, size) for draw in draws))
        for view, mask, draw in zip(views, masks, draws):
            assert ((view - resized_crop(leaf, draw, size)) * mask).abs().max() < 1e-12
        what = f"{of[0]}x{of[1]}_to_{size[0]}x{size[1]}"
        weight = cases.weights(len(draws), size)[1] * torch.stack(masks)[:, None]
        weights = (cases.tensor(f"weights/grid_sample/{what}", weight), weight)
        (sampled,) = torch.autograd.grad((torch.stack(views) * weight).sum(), leaf)
        cases.add("grid_sample", what, sources[of], size, draws, weights, sampled)


# Operation, its numbers, the range of the source's values, whether clamps cut some off.
MIDDLE, ALL = (0.3, 0.65), (0.0, 1.0)
ALONE = [
    ("brightness", (0.35, 0.8, 1.0, 1.4), MIDDLE, False),
    ("brightness", (1.4, 2.5), ALL, True),
    ("contrast", (0.0, 0.6, 1.0, 1.4), MIDDLE, False),
    ("contrast", (1.8, 3.0), ALL, True),
    ("saturation", (0.0, 0.6, 1.0, 1.4), MIDDLE, False),
    ("saturation", (1.8, 3.0), ALL, True),
    ("hue", (-0.5, -0.2, -0.05, 0.0, 0.1, 1 / 3, 0.5), ALL, False),
    ("grayscale", (0.0,), ALL, False),
    ("gaussian_blur", (0.1, 0.5, 1.0, 2.0), ALL, False),
    ("pil_box_blur", (0.1, 0.5, 1.0, 2.0), ALL, False),
    ("solarize", (THRESHOLD, 0.25), ALL, False),
]


def operation_draw(op: str, number: float) -> dict:
    if op in JITTER:
        return jitter_draw(JITTER, **{op: number})
    if op == "grayscale":
        return {"grayscale": 1}
    if op == "solarize":
        return {"solarize": f32(number)}
    return blur_draw(number, GAUSSIAN if op == "gaussian_blur" else BOXES)


def operation_cases(cases: Cases):
    settings = [(op, number, (9, 13), values, clamped) for op, numbers, values, clamped in ALONE for number in numbers]
    # Views smaller than the kernels.
    tiny = itertools.product(("gaussian_blur", "pil_box_blur"), ((4, 5), (1, 6), (2, 1)))
    small = [(op, 2.0, size, ALL, False) for op, size in tiny]
    for op, number, size, values, clamped in settings + small:
        draw = crop_draw(0, 0, *size) | operation_draw(op, number)
        source, cut = away_from_corners([draw], size, size, values)
        assert 0.02 < cut < 0.7 if clamped else cut == 0, (op, number, cut)
        what = f"{op}_{number:.3g}" + "_clamped" * clamped
        cases.add("operation", what, source, size, [draw], op=op, factor=f32(number))


def random_draw(order: tuple[str, ...], index: int, of: tuple[int, int], clamped: bool) -> dict:
    """A draw with all of its jitter, in turns gray, blurred and solarized."""
    if clamped:
        factors = {name: rng.uniform(1.3, 1.9) for name in JITTER[:3]}
    else:
        factors = {name: rng.uniform(0.8, 1.15) for name in JITTER[:3]}
    draw = jitter_draw(order, **factors, hue=rng.uniform(0.03, 0.47) * rng.choice([-1, 1]))
    if index % 4 == 3:
        draw["grayscale"] = 1
    if index % 6 != 5:
        draw |= blur_draw(rng.uniform(0.3, 1.5), (GAUSSIAN, BOXES)[index // 3 % 2])
    if index % 5 != 4:
        draw["solarize"] = THRESHOLD
    height, width = (int(rng.integers(3, n + 1)) for n in of)
    top, left = int(rng.integers(0, of[0] - height + 1)), int(rng.integers(0, of[1] - width + 1))
    return crop_draw(top, left, height, width, flip=bool(rng.integers(2))) | draw


def chain_cases(cases: Cases):
    """Each order without and with values that clamps cut off, then several draws of one source."""
    shapes = [((8, 8), (8, 8)), ((12, 10), (8, 8)), ((7, 5), (9, 13)), ((9, 13), (9, 13)), ((10, 11), (16, 16))]
    orders = list(itertools.permutations(JITTER))
    settings = [([order], shapes[n % 5], clamped) for clamped in (False, True) for n, order in enumerate(orders)]
    settings += [(orders[n : n + 3], shapes[n % 5], n % 2 == 1) for n in range(0, 24, 5)]
    for n, (chosen, (of, size), clamped) in enumerate(settings):
        draws = [random_draw(order, n + place, of, clamped) for place, order in enumerate(chosen)]
        if of == size and len(draws) == 1:
            draws[0] |= {"top": 0, "left": 0, "height": of[0], "width": of[1]}
        source, cut = away_from_corners(draws, of, size, ALL if clamped else (0.35, 0.65))
        assert 0.02 < cut < 0.7 if clamped else cut == 0, (draws, cut)
        initials = "+".join("".join(name[0] for name in order) for order in chosen)
        cases.add("chain", initials + "_clamped" * clamped, source, size, draws)


# ---------------------------------------------------------------------------- the functions themselves


def value_and_gradient(function, image: Tensor, weight: Tensor) -> Tensor:
    image = image.clone().requires_grad_()
    view = function(image)
    return torch.cat([view, torch.autograd.grad((view * weight).sum(), image)[0]])


def check_against_torchvision():
    """What is written here is torchvision's public function, but for the weight of red."""
    of_torchvision = (0.2989, 0.587, 0.114)
    image, weight = (torch.from_numpy(rng.uniform(0, 1, (3, 9, 13))) for _ in range(2))
    pairs = [(lambda i: grayscale(i, None, of_torchvision), lambda i: V.rgb_to_grayscale(i, 3))]
    for factor in (0.0, 0.6, 1.4):
        pairs += [
            (lambda i, f=factor: contrast(i, f, of_torchvision), lambda i, f=factor: V.adjust_contrast(i, f)),
            (lambda i, f=factor: saturation(i, f, of_torchvision), lambda i, f=factor: V.adjust_saturation(i, f)),
        ]
    for ours, theirs in pairs:
        ours, theirs = value_and_gradient(ours, image, weight), value_and_gradient(theirs, image, weight)
        assert (ours - theirs).abs().max() < 1e-12
    for turns in (-0.5, -0.2, 0.1, 0.5):
        ours = value_and_gradient(lambda i: hue(i, turns), image, weight)  # noqa: B023
        theirs = value_and_gradient(lambda i: V.adjust_hue(i, turns), image, weight)  # noqa: B023
        # torchvision's are float32, and divide by the chroma.
        assert (ours - theirs).abs().max() < 1e-4
        assert (hue(image, turns) - V2.adjust_hue(image, turns)).abs().max() < 4e-6
    # The repeated reflection, where torch's own padding reaches.
    radius, sigma = 3, 1.0
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    twice = lambda i: padded_conv(padded_conv(i, kernel, "reflect", 2), kernel, "reflect", 1)  # noqa: E731
    ours, theirs = (value_and_gradient(f, image, weight) for f in (twice, lambda i: gaussian_blur(i, sigma)))
    assert (ours - theirs).abs().max() < 1e-12


def check_against_pil():
    """PIL's pixels have 8 bits and are rounded six times."""
    pixels = rng.integers(0, 256, (31, 24, 3), dtype=np.uint8)
    for sigma in (0.1, 0.5, 1.0, 2.0, 4.0):
        theirs = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float64)
        ours = pil_box_blur(torch.from_numpy(pixels).double().permute(2, 0, 1), sigma).permute(1, 2, 0).numpy()
        assert np.abs(ours - theirs).max() <= 3.0, sigma


def main():
    torch.set_num_threads(1)
    check_against_torchvision()
    check_against_pil()
    cases = Cases()
    sources = crop_sources()
    crop_cases(cases, sources)
    grid_sample_cases(cases, sources)
    operation_cases(cases)
    chain_cases(cases)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    golden = {"versions": versions, "cases": cases.cases}
    (HERE / "augment_gradients.json").write_text(json.dumps(golden, indent=1) + "\n")
    save_file(cases.tensors, HERE / "augment_gradients.safetensors")
    (HERE / "augment_gradients.safetensors").chmod(0o644)
    print(f"{len(cases.cases)} cases, {sum(t.nbytes for t in cases.tensors.values())} bytes of tensors")


if __name__ == "__main__":
    main()
