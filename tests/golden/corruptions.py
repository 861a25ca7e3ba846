"""Golden values of the common corruptions, from the libraries that CIFAR-10-C and ImageNet-C were made with.

    python corruptions.py

Writes corruptions.json and corruptions.safetensors beside this file. The JSON holds what libraries and versions, a list
of cases {name, corruption, scale, severity, input, output, fields, degrees} and the moments of shot noise. `input` and
`output` name tensors, u8 `[height, width, 3]`; `fields` names the random numbers that the case used in the order in
which they were drawn, f32. Constants and algorithms are those of ImageNet-C/create_c in hendrycks/robustness; sizes,
which are fixed numbers there, are those of the images here, and every random number comes from `Draws`.

Needs numpy, scipy, scikit-image, opencv-python-headless, pillow, safetensors, Wand and ImageMagick's MagickWand library.
"""

import json
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import PIL
import scipy
import skimage
import wand.version
from PIL import Image
from safetensors.numpy import save_file
from scipy.ndimage import map_coordinates, zoom
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian
from skimage.util import random_noise
from wand.api import library
from wand.image import Image as WandImage

HERE = Path(__file__).resolve().parent
SHOT_DRAWS = 400_000
SHOT_LEVELS = (20, 128, 230)

CONSTANTS = {
    "cifar": {
        "gaussian-noise": [0.04, 0.06, 0.08, 0.09, 0.10],
        "shot-noise": [500, 250, 100, 75, 50],
        "impulse-noise": [0.01, 0.02, 0.03, 0.05, 0.07],
        "defocus-blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        "glass-blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        "motion-blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        "zoom-blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
        "snow": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
        "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
        "elastic-transform": [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
        "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
        "jpeg-compression": [80, 65, 58, 50, 40],
    },
    "imagenet": {
        "gaussian-noise": [0.08, 0.12, 0.18, 0.26, 0.38],
        "shot-noise": [60, 25, 12, 5, 3],
        "impulse-noise": [0.03, 0.06, 0.09, 0.17, 0.27],
        "defocus-blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        "glass-blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        "motion-blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        "zoom-blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
        "snow": [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
        "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
        "elastic-transform": [(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)],
        "pixelate": [0.6, 0.5, 0.4, 0.3, 0.25],
        "jpeg-compression": [25, 18, 15, 10, 7],
    },
}
# The side that the elastic constants are parts of: for images of 224 pixels the original has 244.
ELASTIC_SIDE = {"cifar": 1.0, "imagenet": 244 / 224}


class Draws:
    """Random numbers that f32 holds exactly, and a record of them."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.tape = []
        self.degrees = None

    def keep(self, values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float32)
        self.tape.append(values.ravel())
        return values.astype(np.float64)

    def normal(self, shape) -> np.ndarray:
        return self.keep(self.rng.normal(size=shape))

    def signed(self, shape) -> np.ndarray:
        return self.keep(self.rng.uniform(-1, 1, size=shape))

    def offsets(self, reach: int) -> np.ndarray:
        return self.keep(self.rng.integers(-reach, reach, size=2)).astype(int)

    def angle(self, low: float, high: float) -> float:
        self.degrees = float(self.rng.uniform(low, high))
        return self.degrees


# ------------------------------------------------------------------------------------------- noise


def gaussian_noise(image, c, draws):
    x = image / 255.0
    return np.clip(x + c * draws.normal(x.shape), 0, 1) * 255


def impulse_noise(image, c, draws):
    seed = int(draws.rng.integers(2**31))
    again = np.random.default_rng(seed)
    units = np.stack([again.random(image.shape), again.random(image.shape)], axis=-1)
    draws.keep(units)
    x = random_noise(image / 255.0, mode="s&p", amount=c, rng=np.random.default_rng(seed))
    return np.clip(x, 0, 1) * 255


def shot_moments(photons: float, level: int, rng) -> dict:
    counts = rng.poisson(level / 255.0 * photons, size=SHOT_DRAWS)
    values = np.uint8(np.clip(counts / photons, 0, 1) * 255).astype(np.float64)
    return {"photons": photons, "level": level, "mean": values.mean(), "std": values.std()}


# -------------------------------------------------------------------------------------------- blur


def disk(radius, alias_blur):
    if radius <= 8:
        line, ksize = np.arange(-8, 8 + 1), (3, 3)
    else:
        line, ksize = np.arange(-radius, radius + 1), (5, 5)
    x, y = np.meshgrid(line, line)
    aliased = np.array((x**2 + y**2) <= radius**2, dtype=np.float32)
    aliased /= np.sum(aliased)
    return cv2.GaussianBlur(aliased, ksize=ksize, sigmaX=alias_blur)


def defocus_blur(image, c, draws):
    x, kernel = image / 255.0, disk(*c)
    channels = [cv2.filter2D(np.ascontiguousarray(x[:, :, d]), -1, kernel) for d in range(3)]
    return np.clip(np.stack(channels, axis=2), 0, 1) * 255


def glass_blur(image, c, draws):
    sigma, reach, rounds = c
    x = np.uint8(gaussian(image / 255.0, sigma=sigma, channel_axis=-1) * 255)
    height, width = x.shape[:2]
    for _ in range(rounds):
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dx, dy = draws.offsets(reach)
                # As the original writes it; the views make a copy of it.
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    return np.clip(gaussian(x / 255.0, sigma=sigma, channel_axis=-1), 0, 1) * 255


def imagemagick_motion(image, radius, sigma, angle):
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    with WandImage(blob=file.getvalue()) as moved:
        library.MagickMotionBlurImage(moved.wand, radius, sigma, angle)
        pixels = cv2.imdecode(np.frombuffer(moved.make_blob(), np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if image.ndim == 2 else pixels[..., [2, 1, 0]]


def motion_blur(image, c, draws):
    return imagemagick_motion(image, *c, draws.angle(-45, 45))


def clipped_zoom(image, factor):
    h = image.shape[0]
    crop = int(np.ceil(h / factor))
    top = (h - crop) // 2
    image = zoom(image[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
    trim = (image.shape[0] - h) // 2
    return image[trim : trim + h, trim : trim + h]


def zoom_blur(image, c, draws):
    factors = np.arange(1, *c)
    x = (image / 255.0).astype(np.float32)
    out = np.zeros_like(x)
    for factor in factors:
        out += clipped_zoom(x, factor)
    return np.clip((x + out) / (len(factors) + 1), 0, 1) * 255


# ----------------------------------------------------------------------------------------- weather


def snow(image, c, draws):
    x = image.astype(np.float32) / 255.0
    angle = draws.angle(-135, -45)
    layer = c[0] + c[1] * draws.normal(x.shape[:2])
    layer = clipped_zoom(layer[..., np.newaxis], c[2])
    layer[layer < c[3]] = 0
    layer = (np.clip(layer.squeeze(), 0, 1) * 255).astype(np.uint8)
    layer = imagemagick_motion(layer, c[4], c[5], angle)[..., np.newaxis] / 255.0
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    x = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
    return np.clip(x + layer + np.rot90(layer, k=2), 0, 1) * 255


def plasma_fractal(mapsize, decay, draws):
    heights = np.zeros((mapsize, mapsize))
    step, wibble = mapsize, 100.0

    def wibbled_mean(total):
        return total / 4 + wibble * wibble * draws.signed(total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[0:mapsize:step, 0:mapsize:step]
        total = corners + np.roll(corners, -1, axis=0)
        total += np.roll(total, -1, axis=1)
        heights[half:mapsize:step, half:mapsize:step] = wibbled_mean(total)
        centres = heights[half:mapsize:step, half:mapsize:step]
        corners = heights[0:mapsize:step, 0:mapsize:step]
        total = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        heights[0:mapsize:step, half:mapsize:step] = wibbled_mean(total)
        total = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        heights[half:mapsize:step, 0:mapsize:step] = wibbled_mean(total)
        step //= 2
        wibble /= decay
    heights -= heights.min()
    return heights / heights.max()


def fog(image, c, draws):
    x = image / 255.0
    highest = x.max()
    side = 1 << (max(image.shape[:2]) - 1).bit_length()
    x = x + c[0] * plasma_fractal(side, c[1], draws)[: x.shape[0], : x.shape[1], np.newaxis]
    return np.clip(x * highest / (highest + c[0]), 0, 1) * 255


def brightness(image, c, draws):
    x = rgb2hsv(image / 255.0)
    x[:, :, 2] = np.clip(x[:, :, 2] + c, 0, 1)
    return np.clip(hsv2rgb(x), 0, 1) * 255


# ----------------------------------------------------------------------------------------- digital


def contrast(image, c, draws):
    x = image / 255.0
    means = np.mean(x, axis=(0, 1), keepdims=True)
    return np.clip((x - means) * c + means, 0, 1) * 255


def elastic_transform(image, c, draws):
    alpha, sigma, affine = c
    x = image.astype(np.float32) / 255.0
    shape = x.shape
    centre, square = np.float32(shape[:2]) // 2, min(shape[:2]) // 3
    before = np.float32([centre + square, [centre[0] + square, centre[1] - square], centre - square])
    after = before + (affine * draws.signed(before.shape)).astype(np.float32)
    matrix = cv2.getAffineTransform(before, after)
    x = cv2.warpAffine(x, matrix, shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    fields = [gaussian(draws.signed(shape[:2]), sigma, mode="reflect", truncate=3) * alpha for _ in range(2)]
    dx, dy = (field.astype(np.float32)[..., np.newaxis] for field in fields)
    u, v, w = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]), np.arange(shape[2]))
    indices = np.reshape(v + dy, (-1, 1)), np.reshape(u + dx, (-1, 1)), np.reshape(w, (-1, 1))
    return np.clip(map_coordinates(x, indices, order=1, mode="reflect").reshape(shape), 0, 1) * 255


def pixelate(image, c, draws):
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * c), int(height * c)), Image.BOX)
    return np.array(small.resize((width, height), Image.BOX))


def jpeg_compression(image, c, draws):
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=c)
    return np.array(Image.open(file))


# ------------------------------------------------------------------------------------------- cases


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Sky to ground gradient, discs, a box, stripes and sensor noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    v, u = y / (height - 1), x / (width - 1)
    image = np.stack([0.3 + 0.5 * v, 0.5 + 0.2 * u - 0.2 * v, 0.9 - 0.7 * v], axis=2)
    for _ in range(3):
        centre = rng.uniform(0.2, 0.8, 2)
        image[(v - centre[0]) ** 2 + (u - centre[1]) ** 2 < rng.uniform(0.01, 0.05)] = rng.uniform(0, 1, 3)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    image[top : top + height // 3, left : left + width // 4] = rng.uniform(0, 1, 3)
    stripes = (np.sin((2 * u + v) * rng.uniform(15, 30)) > 0.6) & (v > 0.6)
    image[stripes] = 0.3 * image[stripes] + 0.7 * rng.uniform(0, 1, 3)
    image[-3:, -3:] = 0
    image += rng.normal(0, 0.03, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


# Square, as the original has them; `wide` and `tiny` are for what it computes at any shape.
IMAGES = {"small": scene(32, 32, 1), "large": scene(48, 48, 2), "wide": scene(37, 50, 3), "tiny": scene(5, 3, 4)}
RUNS = [
    ("small", "cifar", (1, 2, 3, 4, 5)),
    ("large", "imagenet", (1, 3, 5)),
    ("wide", "imagenet", (1, 5)),
    ("tiny", "cifar", (1, 5)),
]
SQUARE_ONLY = ("zoom-blur", "snow", "elastic-transform")
FUNCTIONS = {
    "gaussian-noise": gaussian_noise,
    "impulse-noise": impulse_noise,
    "defocus-blur": defocus_blur,
    "glass-blur": glass_blur,
    "motion-blur": motion_blur,
    "zoom-blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic-transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg-compression": jpeg_compression,
}


def main():
    cv2.setNumThreads(1)
    cases, tensors = [], {f"image.{name}": image for name, image in IMAGES.items()}
    for image, scale, severities in RUNS:
        for corruption, function in FUNCTIONS.items():
            if corruption in SQUARE_ONLY and image in ("wide", "tiny"):
                continue
            for severity in severities:
                c = CONSTANTS[scale][corruption][severity - 1]
                if corruption == "elastic-transform":
                    c = [part * ELASTIC_SIDE[scale] * min(IMAGES[image].shape[:2]) for part in c]
                draws = Draws(len(cases))
                name = f"{corruption}.{image}.{severity}"
                tensors[name] = np.ascontiguousarray(np.uint8(function(IMAGES[image], c, draws)))
                case = {"name": name, "corruption": corruption, "scale": scale, "severity": severity}
                case |= {"input": f"image.{image}", "output": name, "fields": None, "degrees": draws.degrees}
                if draws.tape:
                    case["fields"] = f"{name}.fields"
                    tensors[case["fields"]] = np.concatenate(draws.tape)
                cases.append(case)
    rng = np.random.default_rng(0)
    photons = [c for scale in CONSTANTS.values() for c in scale["shot-noise"]]
    golden = {
        "versions": {
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-image": skimage.__version__,
            "opencv": cv2.__version__,
            "pillow": PIL.__version__,
            "imagemagick": wand.version.MAGICK_VERSION.split()[1],
        },
        "shot_noise": [shot_moments(c, level, rng) for c in photons for level in SHOT_LEVELS],
        "cases": cases,
    }
    (HERE / "corruptions.json").write_text(json.dumps(golden, indent=1) + "\n")
    save_file(tensors, HERE / "corruptions.safetensors")
    (HERE / "corruptions.safetensors").chmod(0o644)
    print(f"{len(cases)} cases, {sum(t.nbytes for t in tensors.values())} bytes of tensors")


if __name__ == "__main__":
    main()
