#!/usr/bin/env python3
"""Makes tests/golden/*.safetensors: inputs, and the pixels that NumPy gives for them.

Run from the repository's root with NumPy (tests/golden/README.md says which); the files come out the same every time. Nothing here is
shared with the Rust code: dtypes are decoded by their definitions, the arithmetic is NumPy's.
"""

import json
import struct

import numpy as np

F32, F64 = np.float32, np.float64
QUIET = np.uint32(0x7FC00000)


def save(path, tensors):
    """tensors: name -> (dtype name, shape, bytes). Plain safetensors, in the order given."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def f32(array):
    return "F32", array.shape, np.ascontiguousarray(array, dtype="<f4").tobytes()


# --- the original script -------------------------------------------------------------------------


def original(image):
    """(x - min) / (max - min) in float32; a constant image is kept."""
    lo, hi = image.min(), image.max()
    return image.copy() if lo == hi else (image - lo) / (hi - lo)


def original_cases():
    rng = np.random.default_rng(20261123)
    batch = rng.normal(size=(6, 37, 53)).astype(F32)
    batch[1] = 3.25
    batch[2] -= 100
    batch[3] *= F32(1e-41)  # subnormals
    batch[4] *= F32(1e37)
    batch[5] = np.round(batch[5])
    channels = rng.normal(size=(5, 19, 23)).astype(F32)
    singles = {
        "image": rng.normal(size=(48, 64)).astype(F32),
        "one": np.full((1, 1), 7.5, F32),
        "row": rng.normal(size=(1, 7)).astype(F32),
        "zeros": np.zeros((4, 4), F32),
    }
    inputs = {name: f32(image) for name, image in singles.items()}
    inputs |= {"batch": f32(batch), "channels": f32(channels)}
    expected = {name: f32(original(image)) for name, image in singles.items()}
    expected |= {"batch": f32(np.stack([original(image) for image in batch]))}
    expected |= {"channel_3": f32(original(channels[3]))}
    save("tests/golden/original.safetensors", inputs)
    save("tests/golden/original_expected.safetensors", expected)


# --- every dtype -----------------------------------------------------------------------------------


def small_float(codes, exponent_bits, mantissa_bits, ieee):
    """Value of each code as float32 bits, by the definition of such floats."""
    codes = codes.astype(np.int64)
    bias = (1 << (exponent_bits - 1)) - 1
    sign = codes >> (exponent_bits + mantissa_bits)
    field = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = codes & ((1 << mantissa_bits) - 1)
    value = np.where(field > 0, 1.0, 0.0) + fraction / float(1 << mantissa_bits)
    value = np.ldexp(value, np.maximum(field, 1) - bias) * np.where(sign == 1, -1.0, 1.0)
    bits = value.astype(F32).view(np.uint32).copy()
    top = field == (1 << exponent_bits) - 1
    if ieee:
        bits[top & (fraction == 0)] = (np.uint32(0x7F800000) | (sign.astype(np.uint32) << 31))[top & (fraction == 0)]
        nan = top & (fraction != 0)
    else:  # E4M3: no infinities, one NaN of each sign
        nan = top & (fraction == (1 << mantissa_bits) - 1)
    return bits, nan, sign, fraction


def widen(dtype, raw):
    """Samples as float32 bits (narrow types) or float64 values (wide types)."""
    if dtype == "F32":
        return np.frombuffer(raw, "<u4").copy()
    if dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return np.where((bits & 0x7FFFFFFF) > 0x7F800000, bits | 0x400000, bits).astype(np.uint32)
    if dtype == "F16":
        bits, nan, sign, fraction = small_float(np.frombuffer(raw, "<u2"), 5, 10, True)
        payload = (sign << 31) | 0x7FC00000 | (fraction << 13)
        return np.where(nan, payload, bits).astype(np.uint32)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        shape = (4, 3, False) if dtype == "F8_E4M3" else (5, 2, True)
        bits, nan, _, _ = small_float(np.frombuffer(raw, "u1"), *shape)
        return np.where(nan, QUIET, bits).astype(np.uint32)
    numpy_type = {"I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
                  "I64": "<i8", "U64": "<u8", "F64": "<f8", "BOOL": "u1"}[dtype]
    values = np.frombuffer(raw, numpy_type)
    if dtype == "BOOL":
        return (values != 0).astype(F32).view(np.uint32)
    if dtype in ("I8", "U8", "I16", "U16"):
        return values.astype(F32).view(np.uint32)
    return values.astype(F64)


def minmax(dtype, raw):
    """The pixels of one image as float32 bits."""
    samples = widen(dtype, raw)
    with np.errstate(over="ignore", invalid="ignore"):
        if samples.dtype == np.uint32:
            kept, x = samples, samples.view(F32)
        else:
            x = samples
            kept = np.where(np.isnan(x), QUIET, x.astype(F32).view(np.uint32)).astype(np.uint32)
        finite = np.isfinite(x)
        if not finite.any() or x[finite].min() == x[finite].max():
            return kept
        lo, hi = x[finite].min(), x[finite].max()
        if np.isinf(hi - lo):
            half = x.dtype.type(0.5)
            x, lo, hi = x * half, lo * half, hi * half
        y = ((x - lo) / (hi - lo) + x.dtype.type(0)).astype(F32)
    return np.where(finite, y.view(np.uint32), kept)


def float_cases(rng, kind):
    """Images of one floating-point type, as raw bits of that type's width."""
    float_type, bits_type = {"F32": (F32, np.uint32), "F64": (F64, np.uint64)}[kind]
    info = np.finfo(float_type)
    size = (5, 9)
    plain = rng.normal(size=size).astype(float_type)
    special = plain.copy()
    special.flat[:6] = [np.nan, np.inf, -np.inf, 0.0, -0.0, info.smallest_subnormal]
    special = special.view(bits_type)
    special.flat[6:9] = [bits_type(special.flat[0]) | bits_type(5),  # a NaN with a payload
                         bits_type(special.flat[2]) | bits_type(1),  # a signalling NaN
                         special.flat[1]]
    wide = plain.copy()
    wide.flat[0], wide.flat[1] = info.max, -info.max
    tiny = (plain * float_type(info.smallest_subnormal * 50)).astype(float_type)
    steps = np.nextafter(float_type(1.5), float_type(2)) - float_type(1.5)
    close = (float_type(1.5) + rng.integers(0, 9, size=size).astype(float_type) * steps).astype(float_type)
    zeros = np.where(rng.random(size) < 0.5, -0.0, 0.0).astype(float_type)
    zero_low = np.abs(plain)
    zero_low.flat[:2] = [0.0, -0.0]
    nothing = np.full(size, np.nan, float_type)
    random = rng.integers(0, np.iinfo(bits_type).max, size=size, dtype=bits_type, endpoint=True)
    values = [plain, special, wide, tiny, close, zeros, zero_low, nothing, random, np.full(size, info.max)]
    return np.stack([np.ascontiguousarray(v).view(bits_type) for v in values])


def dtype_cases():
    rng = np.random.default_rng(7)
    images = {"F32": float_cases(rng, "F32").astype("<u4"), "F64": float_cases(rng, "F64").astype("<u8")}
    for dtype in ("F16", "BF16"):
        codes = rng.integers(0, 1 << 16, size=(6, 5, 9), dtype=np.uint16)
        codes[0] &= 0x3FFF  # no NaN or infinity
        codes[1] = (codes[1] & 0x803F)  # subnormals
        codes[2] = 0x4248
        codes[3] = codes[3] | 0x7F81  # NaN only
        images[dtype] = codes.astype("<u2")
    for dtype in ("F8_E4M3", "F8_E5M2", "U8", "I8", "BOOL"):
        codes = np.stack([np.arange(256, dtype=np.uint8).reshape(8, 32),
                          rng.integers(0, 60, size=(8, 32), dtype=np.uint8),
                          np.full((8, 32), 3, np.uint8)])
        images[dtype] = codes
    for dtype, numpy_type in (("U16", "<u2"), ("I16", "<i2"), ("U32", "<u4"), ("I32", "<i4"), ("U64", "<u8"), ("I64", "<i8")):
        info = np.iinfo(numpy_type)
        full = rng.integers(info.min, info.max, size=(4, 5, 9), dtype=numpy_type, endpoint=True)
        full[0].flat[:2] = [info.min, info.max]
        full[1] = full[1] % 10
        full[2] = info.max
        full[3] = info.max - np.arange(45).reshape(5, 9).astype(numpy_type)
        images[dtype] = full
    inputs, expected = {}, {}
    for dtype, stack in images.items():
        inputs[dtype] = (dtype, stack.shape, stack.tobytes())
        pixels = np.stack([minmax(dtype, image.tobytes()).reshape(image.shape) for image in stack])
        expected[dtype] = ("F32", pixels.shape, pixels.astype("<u4").tobytes())
    save("tests/golden/dtypes.safetensors", inputs)
    save("tests/golden/dtypes_expected.safetensors", expected)


if __name__ == "__main__":
    original_cases()
    dtype_cases()
