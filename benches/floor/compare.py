#!/usr/bin/env python3
"""Holds images that a program wrote for a dump against NumPy's.

    compare.py DUMP OUT exact|near minmax|none

Programs name their folders differently; what is looked for is the first and the last image of each
tensor, among the first and the last file of each folder, or all of a folder with few. `near`: within 1e-6, as divisions may be
ordered otherwise.
"""
import sys
from pathlib import Path

import numpy as np
import tifffile

from rivals import tensors


def samples(dump, dtype, begin, count):
    """Samples of a dump as float32."""
    raw = np.fromfile(dump, {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype], count, offset=begin)
    return (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else raw.astype("f4")


def normalized(image):
    """The original script's arithmetic."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else image


def main():
    """See above."""
    dump, out, exact, norm = sys.argv[1:]
    folders = {}
    for path in Path(out).rglob("*.tif"):
        folders.setdefault(path.parent, []).append(path)
    images = {}
    for paths in folders.values():
        paths.sort(key=lambda path: (len(path.name), path.name))
        for path in paths if len(paths) < 100 else [paths[0], paths[-1]]:
            image = tifffile.imread(path)
            images.setdefault(image.shape, []).append(image)
    seen = 0
    for _, dtype, shape, begin, length in tensors(dump):
        height, width = shape[-2:]
        count = height * width
        size = 4 if dtype == "F32" else 2
        for at in {begin, begin + length - count * size}:
            want = samples(dump, dtype, at, count).reshape(height, width)
            want = normalized(want) if norm == "minmax" else want
            same = (
                (lambda image: np.array_equal(image.view("u4"), want.view("u4")))
                if exact == "exact"
                else (lambda image: np.allclose(image, want, rtol=0, atol=1e-6))
            )
            if not any(same(image) for image in images.get((height, width), [])):
                sys.exit(f"{out}: no file holds the image at byte {at} of {dump}")
            seen += 1
    assert seen > 0


if __name__ == "__main__":
    main()
