#!/usr/bin/env python3
"""Makes tests/golden/norms.safetensors, norms_expected.safetensors and stats.json: dumps, and what NumPy,
exact fractions and math make of them by each norm and scope, and say of their samples. norms_types.safetensors and
norms_types_expected.safetensors are the same of small arrays of the other types.

Run from the repository's root with NumPy and ml_dtypes (tests/golden/README.md says which); the files come out the
same every time. Nothing here is shared with the Rust code.
"""

import json
import math
import struct
from fractions import Fraction

import ml_dtypes
import numpy as np

F32, F64 = np.float32, np.float64


def save(path, tensors):
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def dumps():
    rng = np.random.default_rng(20261124)
    holed = rng.normal(size=(2, 3, 11, 7)).astype(F32)
    holed[0, 1, 2, 3], holed[1, 0, 4, 5], holed[1, 2, 0, 0] = np.nan, np.inf, -np.inf
    flat = np.full((3, 5, 4), 2.5, F32)
    flat[1, 0, 0] = 9.0
    return {
        "flat": ("F32", flat),
        "holed": ("F32", holed),
        "ints": ("U8", rng.integers(0, 255, size=(4, 6, 9), dtype=np.uint8)),
        "wide": ("F64", rng.normal(size=(2, 8, 5)) * 1e3),
    }


OPTIONS = [
    "norm=percentile",
    "norm=percentile clip=0,50 constant=half",
    "norm=percentile clip=10,97.5 nonfinite=clamp out-range=0,255",
    "norm=symmetric",
    "norm=symmetric out-range=-1,1 constant=zero",
    "norm=zscore",
    "norm=zscore sigma=1.5 nonfinite=zero",
    "norm=minmax constant=half nonfinite=clamp",
    "norm=minmax gamma=0.5",
    "norm=minmax out-range=10,-2.5",
    "norm=fixed range=-0.5,1.25",
]


def pixels(options, samples, working):
    """The pixels of the images of one scope: a list of arrays, and a type to compute in."""
    said = dict(option.split("=") for option in options.split())
    numbers = lambda name, default: [float(x) for x in said.get(name, default).split(",")]
    every = np.concatenate([image.astype(F64).ravel() for image in samples])
    finite = every[np.isfinite(every)]
    norm, clamp, score, fill = said["norm"], False, None, None
    lo, hi = finite.min(), finite.max()
    if norm == "none":
        return [image.astype(F32) for image in samples]
    if norm == "fixed":
        (lo, hi), clamp = numbers("range", ""), True
    elif lo == hi:
        fill = said.get("constant", "keep")
    elif norm == "percentile":
        (lo, hi), clamp = np.percentile(finite, numbers("clip", "1,99")), True
    elif norm == "symmetric":
        lo, hi = -max(-lo, hi), max(-lo, hi)
    elif norm == "zscore":
        mean = working(math.fsum(finite) / len(finite))
        # Exact, so that it does not matter how it is added up.
        squares = sum((Fraction(float(x)) - Fraction(float(mean))) ** 2 for x in finite)
        score = mean, np.sqrt(working(float(squares) / len(finite)))
        if "sigma" in said:
            reach = working(said["sigma"]) * score[1]
            (lo, hi), clamp, score = (mean - reach, mean + reach), True, None
    lo, hi = working(lo), working(hi)
    if lo == hi and fill is None:
        fill = said.get("constant", "keep")
    made = []
    for image in samples:
        kept = image.astype(F32)
        if fill == "keep":
            y = None
        elif fill:
            y = np.full(image.shape, {"zero": 0, "half": 0.5}[fill], working)
        else:
            x = image.astype(working)
            if score:
                y = (x - score[0]) / score[1]
            else:
                y = (np.clip(x, lo, hi) if clamp else x) - lo
                y = y / (hi - lo)
        changed = np.isfinite(image) if y is not None else np.zeros(image.shape, bool)
        y = np.zeros(image.shape, working) if y is None else np.where(np.isfinite(image), y, working(0))
        if said.get("nonfinite") in ("clamp", "zero"):
            y = np.where(changed | np.isfinite(image), y, working(0))
            if said["nonfinite"] == "clamp":
                y = np.where(image == np.inf, working(1), y)
            changed = changed | ~np.isfinite(image)
        if "gamma" in said:
            power = lambda v: math.pow(v, float(said["gamma"]))
            y = np.vectorize(power, otypes=[F64])(y.astype(F64)).astype(working)
        if "out-range" in said:
            a, b = (working(v) for v in numbers("out-range", ""))
            y = np.where(y == 1, b, y * (b - a) + a)
        y = y.astype(F32) + F32(0)
        made.append(np.where(changed, y, kept))
    return made


PERCENTILES = [0, 2.5, 50, 66.6, 99, 100]


def stats(inputs):
    """A list for each way to group images, in the order of the dumps' tensors and their images."""
    result = {}
    for by in ["tensor", "channel", "image", "all"]:
        groups = {}
        for name, (_, array) in inputs.items():
            for k, image in enumerate(array.reshape(-1, *array.shape[-2:])):
                places = [int(i) for i in np.unravel_index(k, array.shape[:-2])]
                key = {"tensor": (name,), "channel": (name, places[-1]), "image": (name, *places), "all": ()}[by]
                groups.setdefault(key, []).append(image)
        lines = []
        for key, images in groups.items():
            working = F64 if any(image.dtype == F64 for image in images) else F32
            every = np.concatenate([image.astype(F64).ravel() for image in images])
            finite = every[np.isfinite(every)]
            mean = working(math.fsum(finite) / len(finite))
            squares = sum((Fraction(float(x)) - Fraction(float(mean))) ** 2 for x in finite)
            std = np.sqrt(working(float(squares) / len(finite)))
            constant = sum(len(set(image[np.isfinite(image)].tolist())) == 1 for image in images)
            lines.append({
                "tensor": key[0] if key else None, "index": list(key[1:]), "images": len(images),
                "samples": len(every), "min": float(finite.min()), "max": float(finite.max()),
                "mean": float(mean), "std": float(std), "percentiles": [float(np.percentile(finite, p)) for p in PERCENTILES],
                "zeros": int((every == 0).sum()), "nan": int(np.isnan(every).sum()), "pos_inf": int((every == np.inf).sum()),
                "neg_inf": int((every == -np.inf).sum()), "constant_images": int(constant),
            })
        result[by] = lines
    return result


def main():
    inputs = dumps()
    with open("tests/golden/stats.json", "w") as file:
        json.dump({"percentiles": PERCENTILES, "stats": stats(inputs)}, file, indent=0)
        file.write("\n")
    expected = {}
    with np.errstate(invalid="ignore"):
        for options in OPTIONS:
            for scope in ["image", "channel", "tensor", "dump"]:
                if scope != "image" and options.startswith("norm=fixed"):
                    continue
                scopes = {}
                for name, (_, array) in inputs.items():
                    images = array.reshape(-1, *array.shape[-2:])
                    for k, image in enumerate(images):
                        channel = k % array.shape[-3]
                        key = {"image": (name, k), "channel": (name, channel), "tensor": name, "dump": 0}[scope]
                        scopes.setdefault(key, []).append((name, k, image))
                result = {name: np.empty((array.size // np.prod(array.shape[-2:]), *array.shape[-2:]), F32) for name, (_, array) in inputs.items()}
                for members in scopes.values():
                    working = F64 if any(image.dtype == F64 for _, _, image in members) else F32
                    for (name, k, _), made in zip(members, pixels(options, [image for _, _, image in members], working)):
                        result[name][k] = made
                for name, made in result.items():
                    expected[f"{options} scope={scope}|{name}"] = ("F32", made)
    save("tests/golden/norms.safetensors", inputs)
    save("tests/golden/norms_expected.safetensors", expected)
    types()


# The other types, as NumPy or ml_dtypes has them. What has 32 or 64 bits and is no F32 is computed in f64, all others in f32.
TYPES = {
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    "F16": np.float16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "I8": np.int8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
}
WIDE = ["I32", "I64", "U32", "U64"]
TYPES_OPTIONS = [
    "norm=minmax",
    "norm=minmax nonfinite=clamp out-range=-1,1",
    "norm=percentile",
    "norm=percentile clip=10,77.7 constant=half",
    "norm=symmetric",
    "norm=zscore",
    "norm=zscore sigma=1.25 nonfinite=zero",
    "norm=fixed range=-0.75,96.5",
    "norm=none",
]


def arrays():
    """Two images of 2 x 4 samples of each type: values, extremes, and what is not finite where a type has it."""
    rng = np.random.default_rng(20261127)
    result = {}
    for name, kind in TYPES.items():
        kind = np.dtype(kind)
        if kind == np.bool_:
            array = rng.integers(0, 2, size=(2, 2, 4)).astype(kind)
        elif name == "F8_E8M0":
            array = rng.integers(120, 134, size=(2, 2, 4), dtype=np.uint8)
            array[0, 1, 2] = 255  # its NaN
            array = array.view(kind)
        elif np.issubdtype(kind, np.integer):
            few = np.iinfo(kind)
            array = rng.integers(few.min, few.max, size=(2, 2, 4), dtype=kind, endpoint=True)
            array[0] = rng.integers(max(few.min, -100), 100, size=(2, 4)).astype(kind)
            array[1, 0, :2] = few.min, few.max
            if few.bits == 64:
                # Between two of f64, and then between two of f32: rounded once it would be another.
                array[0, 0, 3] = 2**60 + 2**36 + 1
        else:
            array = (rng.normal(size=(2, 2, 4)) * 30).astype(kind)
            array[0, 1, 2], array[1, 0, 3] = np.nan, -0.0 if "FNUZ" not in name else 0.0
            if name in ["BF16", "F16", "F8_E5M2"]:
                array[0, 0, 1], array[1, 1, 0] = -np.inf, np.inf
            if name in ["BF16", "F16"]:
                # A signalling NaN with a sign and a payload.
                array.view(np.uint16)[1, 1, 3] = {"BF16": 0xFFA5, "F16": 0xFD03}[name]
        result[name] = array
    return result


def widened(name, array):
    """Samples as they are computed with: exactly, but for 64 bits."""
    if name in WIDE:
        return array.astype(F64)
    wide = array.astype(F32)
    # NumPy leaves bits of NaN to the processor.
    quiet = np.full(array.shape, 0x7FC00000, np.uint32)
    if name == "BF16":
        quiet = array.view(np.uint16).astype(np.uint32) << 16 | 0x00400000
    if name == "F16":
        codes = array.view(np.uint16).astype(np.uint32)
        quiet = (codes & 0x8000) << 16 | 0x7FC00000 | (codes & 0x3FF) << 13
    return np.where(np.isnan(wide), quiet, wide.view(np.uint32)).view(F32)


def types():
    inputs = arrays()
    expected = {}
    for options in TYPES_OPTIONS:
        for scope in ["image", "tensor"]:
            if scope == "tensor" and ("fixed" in options or "none" in options):
                continue
            made = []
            for name, array in inputs.items():
                wide = widened(name, array)
                scopes = [wide] if scope == "tensor" else [[image] for image in wide]
                with np.errstate(invalid="ignore", over="ignore"):
                    for images in scopes:
                        made += pixels(options, list(images), wide.dtype.type)
            # All types in the order of their names.
            expected[f"{options} scope={scope}"] = ("F32", np.stack(made))
    save("tests/golden/norms_types.safetensors", {name: (name, array) for name, array in inputs.items()})
    save("tests/golden/norms_types_expected.safetensors", expected)


main()
