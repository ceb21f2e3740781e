#!/usr/bin/env python3
"""Holds images that a program wrote for a dump against NumPy's: of each tensor the first two, one in the
middle, the last, and some hundred more of the whole dump by a seed; of what the floor wrote, all.

    compare.py DUMP OUT tensortiff|floor|other minmax|none|wide|percentile SEED

Those of tensortiff must be the same bit for bit, those of others within 1e-6, as divisions may be
ordered otherwise. What the floor wrote behind its headers must be what it was to read.
"""
import functools
import math
import random
import sys
from pathlib import Path

import numpy as np
import tifffile

from dumps import NHWC, SIZE, place, tensors


# Images of a dump that are looked at besides.
MORE = 256


def samples(dump, dtype, begin, count):
    """Samples of a dump as float32."""
    raw = np.fromfile(dump, {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype], count, offset=begin)
    return (raw.astype("u4") << 16).view("f4") if dtype == "BF16" else raw.astype("f4")


def normalized(image, low, high):
    """The original script's arithmetic."""
    return (image - low) / (high - low) if high > low else image


def wanted(norm, image, every):
    """Pixels; `every` gives all samples of the tensor."""
    if norm == "minmax":
        return normalized(image, image.min(), image.max())
    if norm == "wide":
        whole = every()
        return normalized(image, whole.min(), whole.max())
    if norm == "percentile":
        low, high = np.percentile(image.astype("f8"), [1, 99]).astype("f4")
        return normalized(np.clip(image, low, high) if high > low else image, low, high)
    return image


def copied(dump, out):
    """Whether the floor's files have an image's bytes behind their headers; of samples that become longer,
    what a step begins with. Its folders count the tensors by their names."""
    names = sorted({name for name, *_ in tensors(dump, every=True)})
    for name, dtype, shape, begin in tensors(dump):
        number, count = math.prod(shape[:-2]), math.prod(shape[-2:])
        for index in range(number):
            path = Path(out, str(names.index(name)), f"{index}.tif")
            size = count * SIZE[dtype]
            size = size if SIZE[dtype] == 4 else min(size, 1 << 17)
            written = path.read_bytes()[-4 * count:][:size]
            read = np.fromfile(dump, "u1", size, offset=begin + index * count * SIZE[dtype]).tobytes()
            if written != read:
                sys.exit(f"{path} holds other bytes than {dump} at image {index} of {name}")


def main():
    """See above."""
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    dump, out, program, norm, seed = sys.argv[1:]
    if program == "floor":
        return copied(dump, out)
    seen, draw = 0, random.Random(seed)
    tensors_in = sum(1 for _ in tensors(dump))
    for name, dtype, shape, begin in tensors(dump):
        count = math.prod(shape[-2:])
        number = math.prod(shape[:-2])
        every = functools.cache(functools.partial(samples, dump, dtype, begin, count * number))
        more = draw.sample(range(number), min(number, MORE // tensors_in))
        for index in sorted({0, min(1, number - 1), number // 2, number - 1, *more}):
            path = Path(out, place(program, dump, name, shape, index))
            image = tifffile.imread(path)
            if Path(dump).stem == NHWC:
                n, c, h, w = shape
                want = every().reshape(n, h, w, c)[index // c, :, :, index % c]
                want = np.ascontiguousarray(want)
            else:
                want = samples(dump, dtype, begin + index * count * SIZE[dtype], count)
            want = wanted(norm, want.reshape(shape[-2:]), every)
            if image.shape != want.shape or image.dtype != np.float32:
                sys.exit(f"{path} holds {image.dtype} {image.shape}, not float32 {want.shape}")
            same = np.array_equal(image.view("u4"), want.view("u4"))
            if not same and (program == "tensortiff" or not np.allclose(image, want, 0, 1e-6)):
                at = np.unravel_index(np.abs(image - want).argmax(), want.shape)
                sys.exit(f"{path}: {image[at]!r} at {at}, not {want[at]!r}")
            seen += 1
    if seen == 0:
        sys.exit(f"{dump} holds no image")


if __name__ == "__main__":
    main()
