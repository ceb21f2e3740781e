#!/usr/bin/env python3
"""Makes tests/golden/small.safetensors and small_expected.safetensors: floats of at most 8 bits, and what ml_dtypes makes of them.

    python scripts/make-small-golden.py        (ml_dtypes 0.6.0, NumPy 2.4.6; from the repository's root)

Of each type there are all its codes, `TYPE.codes`, and planes of an odd number of samples, `TYPE.planes`, most of which begin within a byte.
Codes are packed here bit by bit. ml_dtypes says what they stand for, NumPy does the arithmetic; nothing is shared with the Rust code.
"""

import json
import struct

import ml_dtypes
import numpy as np

QUIET = np.uint32(0x7FC00000)
TYPES = {
    "F8_E8M0": (8, ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": (8, ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": (8, ml_dtypes.float8_e5m2fnuz),
    "F6_E2M3": (6, ml_dtypes.float6_e2m3fn),
    "F6_E3M2": (6, ml_dtypes.float6_e3m2fn),
    "F4": (4, ml_dtypes.float4_e2m1fn),
}


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


def packed(codes, bits):
    """One large number, of which the first code has the lowest bits."""
    number = sum(int(code) << (bits * place) for place, code in enumerate(codes.flat))
    assert codes.size * bits % 8 == 0, "safetensors takes whole bytes"
    return number.to_bytes(codes.size * bits // 8, "little")


def values(codes, kind):
    """float32, where every NaN is the same."""
    wide = codes.view(kind).astype(np.float32)
    return np.where(np.isnan(wide), QUIET, wide.view(np.uint32)).astype("<u4").view("<f4")


def minmax(image):
    """The pixels of an image, of which some sample is no NaN."""
    finite = ~np.isnan(image)
    lo, hi = image[finite].min(), image[finite].max()
    if lo == hi:
        return image
    with np.errstate(invalid="ignore"):
        pixels = (image - lo) / (hi - lo) + np.float32(0)
    # Bit by bit: arithmetic would not keep a NaN.
    return np.where(finite, pixels.view(np.uint32), QUIET).view("<f4")


def main():
    rng = np.random.default_rng(5)
    inputs, expected = {}, {}
    for name, (bits, kind) in TYPES.items():
        every = np.arange(1 << bits, dtype=np.uint8).reshape(2, -1)
        # 8 planes of 3 x 7: a plane takes 10.5 bytes of F4 and 15.75 of F6.
        planes = rng.integers(0, 1 << bits, size=(8, 3, 7), dtype=np.uint8)
        planes[5] = planes[5].flat[0]
        for what, codes in {"codes": every, "planes": planes}.items():
            wide = values(codes, kind)
            inputs[f"{name}.{what}"] = (name, codes.shape, packed(codes, bits))
            expected[f"{name}.{what}"] = ("F32", codes.shape, wide.tobytes())
            images = wide.reshape(-1, *codes.shape[-2:])
            pixels = np.stack([minmax(image) for image in images])
            assert pixels.dtype == np.float32
            expected[f"{name}.{what}.minmax"] = ("F32", codes.shape, pixels.tobytes())
    save("tests/golden/small.safetensors", inputs)
    save("tests/golden/small_expected.safetensors", expected)


if __name__ == "__main__":
    main()
