"""Writes tests/golden/numpy/: arrays as numpy.savez_compressed packs them, bfloat16 as NumPy writes it
(|V2), raw samples; and what is in all of them, by numpy.savez, as plain little-endian arrays in C order.

    python scripts/make-numpy-golden.py        (NumPy 2.3.5, zlib 1.2.13; other versions pack otherwise)
"""

import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent.parent / "tests/golden/numpy"
HERE.mkdir(exist_ok=True)
random = np.random.default_rng(7)
# Of more than one chunk (256 KiB) when unpacked, and little when packed.
smooth = np.add.outer(np.arange(400), np.arange(300)).astype("<f4")
arrays = {
    "smooth": smooth,
    "columns": np.asfortranarray(random.integers(-9, 9, (30, 40)).astype("<i2")),
    "swapped": random.normal(size=(2, 5, 6)).astype(">f8"),
    "flags": random.integers(0, 2, (7, 9)).astype("?"),
    "bf16": (random.normal(size=(3, 8, 9)).astype("<f4").view("<u4") >> 16).astype("<u2"),
}
np.savez_compressed(HERE / "packed.npz", **{**arrays, "bf16": arrays["bf16"].view("V2")})
np.savez(HERE / "bf16.npz", bf16=np.asfortranarray(arrays["bf16"].view("V2")))
np.savez(HERE / "expected.npz", **{name: np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
                                   for name, array in arrays.items() if name != "smooth"})
with open(HERE / "swapped.bin", "wb") as file:
    file.write(b"header")
    arrays["swapped"].tofile(file)
