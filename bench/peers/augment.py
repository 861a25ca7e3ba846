"""Views per second of the crop-based recipe with torchvision transforms on PIL images, on one thread.

    python augment.py --images 500 --views 8

The images are random 32x32 RGB bytes; decoding is not timed, the conversion to a float tensor is.
"""

import argparse
import statistics
import time

import numpy as np
import PIL
import torch
import torchvision
from peer import report
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms


class GaussianBlur:
    """PIL's filter (three box passes), sigma in U(0.1, 2), applied with probability `p`."""

    def __init__(self, p: float):
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        if np.random.rand() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))


def crop_based_recipe(side: int) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(side, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            GaussianBlur(0.1),
            transforms.RandomApply([ImageOps.solarize], p=0.1),
            transforms.ToTensor(),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    pixels = np.random.randint(0, 256, (args.images, args.side, args.side, 3), dtype=np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    recipe = crop_based_recipe(args.side)
    for image in images[:50]:
        recipe(image)
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        for image in images:
            for _ in range(args.views):
                recipe(image)
        seconds.append(time.perf_counter() - start)
    count = args.images * args.views
    report(
        {
            "settings": vars(args),
            "views": count,
            "median_seconds": statistics.median(seconds),
            "min_seconds": min(seconds),
            "views_per_second": count / statistics.median(seconds),
        },
        {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__},
    )


if __name__ == "__main__":
    main()
