"""Views per second of the crop-based recipe in other libraries, on one thread. `gabion bench augment` starts this and
talks to it; by hand:

    echo "round 1" | python augment.py --serve pil --images FILE.bin --side 32 --views 8

FILE.bin holds the images as [images, side, side, 3] bytes. The first line of stdout is {"ready": {versions, notes}}, or
{"missing": why} where a package is not installed. Then each line "round SECONDS" is answered by one line
{views, seconds}, and the end of stdin is the end. Images are decoded and in the form that the library takes before
anything is timed; the conversion to float tensors in [0, 1] is timed.
"""

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Iterator

from peer import speaker

# Read when the libraries are loaded.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

CROP = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}
SIGMA = (0.1, 2.0)
# Covers 3 sigma, as our sampled Gaussian does.
KERNEL = 13


def pil(pixels, side: int, views: int):
    """torchvision.transforms on PIL images, one at a time."""
    import numpy as np
    import PIL
    import torchvision
    from PIL import Image, ImageFilter, ImageOps
    from torchvision import transforms

    def blur(image):
        return image.filter(ImageFilter.GaussianBlur(np.random.uniform(*SIGMA)))

    recipe = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, **CROP),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(**JITTER)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([blur], p=0.1),
            transforms.RandomApply([ImageOps.solarize], p=0.1),
            transforms.ToTensor(),
        ]
    )
    images = [Image.fromarray(image) for image in pixels]
    notes = ["the paper's own pipeline: every operation rounds to 8 bits"]
    return one_by_one(recipe, images, views), {"torchvision": torchvision.__version__, "pillow": PIL.__version__}, notes


def v2(pixels, side: int, views: int):
    """torchvision.transforms.v2 on uint8 tensors, one at a time."""
    import torch
    import torchvision
    from torchvision.transforms import v2 as transforms

    recipe = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, **CROP, antialias=True),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(**JITTER)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(kernel(side), SIGMA)], p=0.1),
            transforms.RandomSolarize(128, p=0.1),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )
    images = list(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    notes = [f"blur: a sampled Gaussian of {kernel(side)} taps whatever its sigma, not PIL's three boxes"]
    return one_by_one(recipe, images, views), {"torchvision": torchvision.__version__}, notes


def kornia(pixels, side: int, views: int):
    """kornia.augmentation on all images at once, random numbers of each its own."""
    import kornia
    import kornia.augmentation as K
    import torch

    threshold = 128 / 255
    recipe = torch.nn.Sequential(
        K.RandomResizedCrop((side, side), **CROP, align_corners=False),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(**JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel(side), kernel(side)), SIGMA, p=0.1),
        K.RandomSolarize((threshold, threshold), (0.0, 0.0), p=0.1),
    )
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def steps() -> Iterator[int]:
        while True:
            with torch.no_grad():
                recipe(images.float() / 255)
            yield len(images)

    notes = [
        f"batches of {len(images)} images, one view of each",
        "the order of the four jitter operations is drawn once a batch, not once a view",
        "the crop is resized bilinearly without antialiasing",
        f"blur: a sampled Gaussian of {kernel(side)} taps whatever its sigma, not PIL's three boxes",
    ]
    return steps(), {"kornia": kornia.__version__}, notes


PEERS = {"pil": pil, "v2": v2, "kornia": kornia}


def kernel(side: int) -> int:
    """Taps of a blur: the padding by reflection has to fit the view."""
    return min(KERNEL, 2 * side - 1)


def one_by_one(recipe, images, views: int) -> Iterator[int]:
    for image in itertools.cycle(images):
        for _ in range(views):
            recipe(image)
        yield views


def work(steps: Iterator[int], seconds: float) -> dict:
    """At least one step, and as many as begin within the time."""
    start, views = time.perf_counter(), 0
    while views == 0 or time.perf_counter() - start < seconds:
        views += next(steps)
    return {"views": views, "seconds": time.perf_counter() - start}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=tuple(PEERS), required=True)
    parser.add_argument("--images", required=True, metavar="FILE.bin")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--views", type=int, default=8)
    args = parser.parse_args()
    say = speaker()
    try:
        import numpy as np
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        np.random.seed(0)
        pixels = np.fromfile(args.images, dtype=np.uint8).reshape(-1, args.side, args.side, 3)
        steps, versions, notes = PEERS[args.serve](pixels, args.side, args.views)
    except ImportError as error:
        say({"missing": str(error)})
        return
    work(steps, 0.5)
    versions = {"python": platform.python_version(), "torch": torch.__version__} | versions
    say({"ready": {"versions": versions, "notes": notes}})
    for line in sys.stdin:
        say(work(steps, float(line.removeprefix("round "))))


if __name__ == "__main__":
    main()
