"""The dumps that programs are measured on."""
import json
import struct
import subprocess
from pathlib import Path

SIZE = {"F32": 4, "F16": 2, "BF16": 2}
SEED = 1


def vit():
    """Activations and weights of a vision transformer (ViT-B/16 behind a convolution, a batch of 8)."""
    yield "patches", "F32", [8, 196, 768]
    yield "stem", "F16", [8, 64, 56, 56]
    for layer in range(12):
        name = f"h.{layer}"
        yield f"{name}.attn", "F16", [8, 12, 197, 197]
        yield f"{name}.out", "BF16", [8, 197, 768]
        yield f"{name}.mlp", "BF16", [8, 197, 3072]
        yield f"{name}.qkv", "F32", [2304, 768]
        yield f"{name}.proj", "F32", [768, 768]
        yield f"{name}.fc1", "F32", [3072, 768]
        yield f"{name}.fc2", "F32", [768, 3072]
        yield f"{name}.bias", "F32", [3072]


MADE = {
    "MEDIUM": [("t", "F32", [1024, 512, 512])],
    "TINY": [("t", "F32", [100_000, 28, 28])],
    "LARGE": [("t", "F32", [16, 4096, 4096])],
    "BF16": [("t", "BF16", [2048, 256, 256])],
    "F16": [("t", "F16", [64, 64, 112, 112])],
    "MIXED": list(vit()),
    "NHWC": [("t", "F32", [16, 256, 256, 64])],
}
# Of which the last axis counts images: not for programs that know nothing of layouts.
NHWC = "NHWC"
NAMES = [*MADE, "SAMPLE"]


def smaller(tensors, times):
    """The same tensors with fewer images, or fewer tensors where there are many."""
    if len(tensors) > 1:
        return tensors[: max(3, len(tensors) // times)]
    return [(name, dtype, [max(2, shape[0] // times), *shape[1:]]) for name, dtype, shape in tensors]


def make(tool, path, tensors):
    """Writes a dump by seed."""
    words = [f"{name}:{dtype}:{','.join(map(str, shape))}" for name, dtype, shape in tensors]
    subprocess.run([tool, path, str(SEED), *words], check=True)


def make_sample(sample, path, megabytes):
    """A real dump's tensors repeated under short names, for which headers are as the floor's."""
    with open(sample, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    times = max(1, (megabytes << 20) // len(data))
    repeated = {}
    for k in range(times):
        for number, entry in enumerate(header.values()):
            offsets = [place + k * len(data) for place in entry["data_offsets"]]
            repeated[f"{k}.{number}"] = {**entry, "data_offsets": offsets}
    text = json.dumps(repeated).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(times):
            file.write(data)


def tensors(dump, every=False):
    """Name, dtype, shape (the image's axes last) and place of each tensor of two axes or more; of `every`
    one where that is asked for."""
    with open(dump, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        shape = entry["shape"]
        if Path(dump).stem == NHWC:
            shape = [shape[0], shape[3], *shape[1:3]]
        if every or len(shape) >= 2:
            yield name, entry["dtype"], shape, 8 + length + entry["data_offsets"][0]


def images(dump):
    """How many images there are of each number of bytes as pixels."""
    counts = {}
    for _, _, shape, _ in tensors(dump):
        count = 1
        for axis in shape[:-2]:
            count *= axis
        pixels = 4 * shape[-2] * shape[-1]
        counts[pixels] = counts.get(pixels, 0) + count
    return counts


def stored(dump):
    """Bytes of an image of each tensor, as they are read."""
    return [SIZE[dtype] * shape[-2] * shape[-1] for _, dtype, shape, _ in tensors(dump)]


def is_widened(dump):
    """Whether every sample has fewer bytes than its pixel."""
    return all(SIZE[dtype] < 4 for _, dtype, _, _ in tensors(dump))


def pixels(dump):
    """Bytes of all pixels."""
    return sum(size * count for size, count in images(dump).items())


def place(program, dump, name, shape, index):
    """Where a program puts an image, below its folder: `tensortiff` by its template, others in a
    folder for each tensor."""
    if program != "tensortiff":
        return Path(name, f"{index}.tif")
    digits = []
    for axis in reversed(shape[:-2]):
        index, at = divmod(index, axis)
        digits.insert(0, str(at).zfill(len(str(axis - 1))))
    stem = Path(Path(dump).stem)
    return stem / name / f"{'_'.join(digits)}.tif" if digits else stem / f"{name}.tif"
