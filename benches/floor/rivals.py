#!/usr/bin/env python3
"""Programs that people would write in Python for the same job.

    rivals.py script|torch|numpy DUMP OUT THREADS

script  the ten lines that tensortiff grew out of: one image at a time, PIL mode F
torch   batches normalized by torch, written by tifffile in a pool of processes
numpy   NumPy and OpenCV in threads, each reading only what it needs
"""
import math
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dumps import SIZE, tensors


def script(dump, out, _threads):
    """As it was, but for the loop over a dump's tensors."""
    from PIL import Image
    from safetensors.torch import load_file

    for name, tensor in load_file(dump).items():
        if tensor.dim() < 2:
            continue
        folder = Path(out, name)
        folder.mkdir(parents=True)
        for index, image in enumerate(tensor.reshape(-1, *tensor.shape[-2:])):
            image = image.float()
            low, high = image.min(), image.max()
            if high > low:
                image = (image - low) / (high - low)
            Image.fromarray(image.numpy(), mode="F").save(folder / f"{index}.tif")


def write_tiffs(folder, first, images):
    """One process's share of a batch."""
    import tifffile

    for k, image in enumerate(images):
        tifffile.imwrite(Path(folder, f"{first + k}.tif"), image)


def torch_batched(dump, out, threads):
    """Batches of about 64 MiB."""
    import torch
    from safetensors import safe_open

    torch.set_num_threads(threads)
    with ProcessPoolExecutor(threads) as pool, safe_open(dump, "pt") as file:
        jobs = []
        for name in file.keys():
            tensor = file.get_tensor(name)
            if tensor.dim() < 2:
                continue
            folder = Path(out, name)
            folder.mkdir(parents=True)
            images = tensor.reshape(-1, *tensor.shape[-2:])
            batch = max(1, (16 << 20) // images[0].numel())
            for first in range(0, len(images), batch):
                part = images[first : first + batch].float()
                low = part.amin((1, 2), keepdim=True)
                span = part.amax((1, 2), keepdim=True) - low
                part = torch.where(span > 0, (part - low) / span, part).numpy()
                share = -(-len(part) // threads)
                for k in range(0, len(part), share):
                    jobs.append(pool.submit(write_tiffs, folder, first + k, part[k : k + share]))
        for job in jobs:
            job.result()


def numpy_threads(dump, out, threads):
    """A careful one: reads some images at once into a buffer of its own, float32 arithmetic in place
    over all of them, OpenCV's writer, which lets go of the interpreter's lock."""
    import cv2

    cv2.setNumThreads(1)
    file = os.open(dump, os.O_RDONLY)
    uncompressed = [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    kept = threading.local()

    def work(folder, dtype, shape, begin, indices):
        raw = getattr(kept, "raw", None)
        each = math.prod(shape) * SIZE[dtype]
        size = each * len(indices)
        if raw is None or raw.size < size:
            raw = kept.raw = np.empty(size, np.uint8)
        raw = raw[:size]
        if os.preadv(file, [raw], begin + indices[0] * each) != size:
            raise OSError(f"{dump} ends early")
        if dtype == "F32":
            images = raw.view(np.float32)
        elif dtype == "F16":
            images = raw.view(np.float16).astype(np.float32)
        else:
            images = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        images = images.reshape(len(indices), -1)
        low = images.min(1, keepdims=True)
        span = images.max(1, keepdims=True) - low
        # (x - 0) / 1 of a constant image.
        low[span == 0], span[span == 0] = 0, 1
        images -= low
        images /= span
        for index, image in zip(indices, images):
            cv2.imwrite(f"{folder}/{index}.tif", image.reshape(shape), uncompressed)

    with ThreadPoolExecutor(threads) as pool:
        jobs = []
        for name, dtype, shape, begin in tensors(dump):
            folder = Path(out, name)
            folder.mkdir(parents=True)
            count = math.prod(shape[:-2])
            at_once = (1 << 20) // (math.prod(shape[-2:]) * SIZE[dtype])
            each = max(1, min(at_once, count // (4 * threads)))
            for first in range(0, count, each):
                indices = range(first, min(count, first + each))
                jobs.append(pool.submit(work, folder, dtype, shape[-2:], begin, indices))
        for job in jobs:
            job.result()


def main():
    """See above."""
    programs = {"script": script, "torch": torch_batched, "numpy": numpy_threads}
    if len(sys.argv) != 5 or sys.argv[1] not in programs:
        sys.exit(__doc__)
    programs[sys.argv[1]](sys.argv[2], sys.argv[3], int(sys.argv[4]))


if __name__ == "__main__":
    main()
