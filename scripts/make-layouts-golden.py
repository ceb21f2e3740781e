#!/usr/bin/env python3
"""Makes tests/golden/layouts.safetensors and layouts_expected.safetensors: tensors of several types, and what
NumPy makes of them by options about axes, with each image of all that has one min-max range.

Run from the repository's root with NumPy (tests/golden/README.md says which); the files come out the
same every time. Nothing here is shared with the Rust code.
"""

import json
import struct

import numpy as np

NAMES = {"float32": "F32", "float64": "F64", "float16": "F16", "uint8": "U8", "int16": "I16", "int32": "I32", "bool": "BOOL", "complex64": "C64"}
WIDE = ("float64", "int32")


def save(path, tensors):
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def tensors():
    rng = np.random.default_rng(20261125)
    shape = (3, 4, 10, 6)
    normal = rng.normal(size=shape)
    holed = normal.astype(np.float32)
    holed[0, 1, 2, 3], holed[1, 2, 3, 4], holed[2, 0, 0, 0] = np.nan, np.inf, -np.inf
    return {
        "bool": normal > 0,
        "complex64": (normal + 1j * rng.normal(size=shape)).astype(np.complex64),
        "float16": normal.astype(np.float16),
        "float32": holed,
        "float64": normal * 1e9,
        "int16": rng.integers(-30000, 30000, size=shape, dtype=np.int16),
        "int32": rng.integers(-2**31, 2**31 - 1, size=shape, dtype=np.int32),
        "line": rng.normal(size=24).astype(np.float32),
        "uint8": rng.integers(0, 255, size=shape, dtype=np.uint8),
    }


def working(array):
    return array.astype(np.float64 if array.dtype.name in WIDE else np.float32)


def reduced(array, axis, how):
    """In the order of indices, in f64, rounded once."""
    along = np.moveaxis(working(array).astype(np.float64), axis, 0)

    def total(values):
        so_far = np.zeros(along.shape[1:])
        for value in values:
            so_far = so_far + value
        return so_far

    count = float(len(along))
    with np.errstate(invalid="ignore"):
        if how == "mean":
            result = total(along) / count
        elif how == "absmean":
            result = total(np.abs(along)) / count
        elif how == "l2":
            result = np.sqrt(total(along * along))
        elif how == "std":
            mean = total(along) / count
            result = np.sqrt(total((along - mean) * (along - mean)) / count)
        else:
            result = {"max": np.maximum, "min": np.minimum}[how].reduce(along)
    result = result.astype(working(array).dtype)
    result[np.isnan(result)] = np.nan
    return result


def complex_part(array, part):
    if part == "abs":
        re, im = array.real.astype(np.float64), array.imag.astype(np.float64)
        return np.sqrt(re * re + im * im).astype(np.float32)
    return {"re": array.real, "im": array.imag}[part]


# Options, which tensors they are of, and what NumPy does; the last two axes are then the image's.
ALL = ["bool", "float16", "float32", "float64", "int16", "int32", "uint8"]
CASES = [
    ("layout=NHWC", ALL, lambda a: a.transpose(0, 3, 1, 2)),
    ("layout=CHWN", ALL, lambda a: a.transpose(0, 3, 1, 2)),
    ("layout=NWHC", ALL, lambda a: a.transpose(0, 3, 2, 1)),
    ("layout=ABTD", ALL, lambda a: a),
    ("select=C=1,N=::2", ALL, lambda a: a[::2, 1:2]),
    ("select=H=-7:-1:2,W=1:", ALL, lambda a: a[:, :, -7:-1:2, 1:]),
    ("layout=NHWC select=C=-1 flip=y", ALL, lambda a: a[:, ::-1, :, -1:].transpose(0, 3, 1, 2)),
    ("transpose=", ALL, lambda a: a.swapaxes(2, 3)),
    ("flip=x", ALL, lambda a: a[..., ::-1]),
    ("flip=xy transpose=", ALL, lambda a: a.swapaxes(2, 3)[..., ::-1, ::-1]),
    ("layout=BDWC select=W=1:9 rows=2", ALL, lambda a: a[:, :, 1:9].transpose(0, 1, 3, 2).reshape(3, 4, 6, 2, 4)),
    ("rows=4", ["line"], lambda a: a.reshape(4, 6)),
    ("rows=24 transpose=", ["line"], lambda a: a.reshape(1, 24)),
    *((f"reduce=C={how}", ALL, lambda a, how=how: reduced(a, 1, how)) for how in ("mean", "max", "min", "absmean", "l2", "std")),
    *((f"layout=NHWD reduce=D={how}", ALL, lambda a, how=how: reduced(a, 3, how)) for how in ("mean", "max", "min", "absmean", "l2", "std")),
    ("layout=BTXD select=T=1: reduce=X=l2", ALL, lambda a: reduced(a[:, 1:], 2, "l2")),
    *((f"complex={part}", ["complex64"], lambda a, part=part: complex_part(a, part)) for part in ("abs", "re", "im")),
    ("complex=abs layout=NHWC", ["complex64"], lambda a: complex_part(a, "abs").transpose(0, 3, 1, 2)),
]


def minmax(image):
    finite = image[np.isfinite(image)]
    lo, hi = finite.min(), finite.max()
    if lo == hi:
        return image.astype(np.float32)
    with np.errstate(invalid="ignore"):
        scaled = ((image - lo) / (hi - lo)).astype(np.float32)
    kept = image.astype(np.float32)
    return np.where(np.isfinite(image), scaled + np.float32(0), kept)


inputs = tensors()
save("tests/golden/layouts.safetensors", inputs)
expected = {}
for options, names, of in CASES:
    for name in names:
        shown = of(inputs[name])
        values = working(shown)
        images = values.reshape(-1, *values.shape[-2:])
        made = np.stack([minmax(image) for image in images])
        expected[f"{options}|{name}"] = made.reshape(values.shape).astype(np.float32)
save("tests/golden/layouts_expected.safetensors", expected)
print(len(expected), "cases")
