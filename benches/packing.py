#!/usr/bin/env python3
"""Measures how fast tensortiff packs, against tifffile with imagecodecs, against libvips, and against the
codec alone on all cores.

    cargo build --release && scripts/test --setup && .venv/bin/python benches/packing.py

Each round runs every program once on the same samples in a fresh folder, and begins with another one. Every
file is read back by tifffile once and must have the pixels. MB/s are of pixels (10^6 bytes); `codec` packs
strips of 512 KiB that are in memory by imagecodecs on as many threads, and writes nothing: no writer can be
faster with that codec. Its libdeflate and zstd are those of imagecodecs, and tensortiff's its own.
"""
import argparse
import concurrent.futures
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imagecodecs
import numpy
import pyvips
import tifffile

ROOT = Path(__file__).resolve().parent.parent
TOOL = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release/tensortiff"
STRIP = 512 << 10
# Smooth images with noise in their last bits, noise as weights have it, and what a ReLU leaves.
KINDS = ["smooth", "weights", "sparse"]
SHAPES = {"images": (64, 512, 512), "one": (1, 4096, 4096)}
QUICK = {"images": (3, 128, 128), "one": (1, 512, 512)}
CODECS = ["deflate:1", "deflate:6", "zstd:1", "zstd:3"]


def samples(kind, shape):
    """Normalized already, so that all programs store the same pixels."""
    random = numpy.random.default_rng(7)
    n, h, w = shape
    if kind == "smooth":
        y, x = numpy.mgrid[0:h, 0:w].astype("f4")
        made = numpy.sin(x / 70) * numpy.cos(y / 90)
        made = made + 1e-5 * random.standard_normal(shape, "f4")
    elif kind == "weights":
        made = 0.02 * random.standard_normal(shape, "f4")
    else:
        made = numpy.maximum(random.standard_normal(shape, "f4") - 1, 0)
    made = made.astype("f4").reshape(n, -1)
    low, high = made.min(axis=1, keepdims=True), made.max(axis=1, keepdims=True)
    return ((made - low) / (high - low)).astype("f4").reshape(shape)


def write_dump(path, pixels):
    """A safetensors file of one tensor."""
    header = json.dumps({"t": {"dtype": "F32", "shape": pixels.shape,
                               "data_offsets": [0, pixels.nbytes]}}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        pixels.tofile(file)


def by_tensortiff(dump, _pixels, out, codec, predictor, threads):
    command = [TOOL, "convert", dump, "-o", out, "-q", "--device", "cpu", "-j", str(threads),
               "--compress", codec, "--predictor", predictor]
    if subprocess.run(command).returncode != 0:
        sys.exit("tensortiff failed")


def by_tifffile(_dump, pixels, out, codec, predictor, threads):
    name, level = codec.split(":")
    out.mkdir()
    for at, image in enumerate(pixels):
        tifffile.imwrite(out / f"{at}.tif", image, compression="zlib" if name == "deflate" else name,
                         compressionargs={"level": int(level)}, predictor=predictor == "float",
                         rowsperstrip=max(1, STRIP // (4 * image.shape[1])), maxworkers=threads,
                         metadata=None)


def by_tifffile_pool(_dump, pixels, out, codec, predictor, threads):
    """An image for each thread."""
    out.mkdir()
    name, level = codec.split(":")

    def one(at):
        tifffile.imwrite(out / f"{at}.tif", pixels[at],
                         compression="zlib" if name == "deflate" else name,
                         compressionargs={"level": int(level)}, predictor=predictor == "float",
                         rowsperstrip=max(1, STRIP // (4 * pixels.shape[2])), maxworkers=1,
                         metadata=None)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(pixels))))


def by_libvips(_dump, pixels, out, codec, predictor, threads):
    """An image for each thread: libvips packs one on one."""
    out.mkdir()
    name, level = codec.split(":")

    def one(at):
        h, w = pixels[at].shape
        image = pyvips.Image.new_from_memory(pixels[at].data, w, h, 1, "float")
        image.tiffsave(str(out / f"{at}.tif"), compression=name, level=int(level),
                       predictor="float" if predictor == "float" else "none")
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(pixels))))


def codec_alone(_dump, pixels, _out, codec, predictor, threads):
    name, level = codec.split(":")
    encode = imagecodecs.deflate_encode if name == "deflate" else imagecodecs.zstd_encode
    rows = max(1, STRIP // (4 * pixels.shape[2]))
    strips = [image[at:at + rows] for image in pixels for at in range(0, len(image), rows)]

    def one(strip):
        if predictor == "float":
            strip = imagecodecs.floatpred_encode(strip, axis=-1)
        return len(encode(strip, level=int(level)))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, strips))


PROGRAMS = {"codec": codec_alone, "tensortiff": by_tensortiff, "tifffile": by_tifffile,
            "tifffile-pool": by_tifffile_pool, "libvips": by_libvips}


def check(out, pixels):
    """That files have the pixels; their bytes."""
    files = sorted(out.rglob("*.tif"), key=lambda path: int(path.stem) if path.stem.isdigit() else 0)
    if len(files) != len(pixels):
        sys.exit(f"{out}: {len(files)} files of {len(pixels)}")
    for file, image in zip(files, pixels):
        if not numpy.array_equal(tifffile.imread(file), image):
            sys.exit(f"{file}: other pixels")
    return sum(file.stat().st_size for file in files)


def one_case(folder, kind, shape, codec, predictor, options):
    pixels = samples(kind, (QUICK if options.quick else SHAPES)[shape])
    dump = folder / "d.safetensors"
    write_dump(dump, pixels)
    # libvips of pip has no zstd.
    names = [name for name in PROGRAMS if not (name == "libvips" and codec.startswith("zstd"))]
    took, size = {name: [] for name in names}, {}
    for number in range(options.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            out = folder / f"{name}-{number}"
            started = time.perf_counter()
            PROGRAMS[name](dump, pixels, out, codec, predictor, options.threads)
            took[name].append(time.perf_counter() - started)
            if name != "codec":
                if number == 0:
                    size[name] = check(out, pixels)
                shutil.rmtree(out)
    speed = {name: pixels.nbytes / 1e6 / statistics.median(took[name]) for name in names}
    ratios = [one / other for one, other in zip(took["tensortiff"], took["codec"])]
    print(f"| {kind} | {shape} | {codec} | {predictor} | {size['tensortiff'] / pixels.nbytes:.2f} | "
          + " | ".join(f"{speed[name]:.0f}" if name in speed else "" for name in PROGRAMS)
          + f" | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--on", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--quick", action="store_true",
                        help="small images in one round: whether it works, no measurement")
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    os.environ["VIPS_CONCURRENCY"] = "1"
    print(f"{options.threads} threads, {options.rounds} rounds; MB/s of pixels\n")
    print("| samples | shape | codec | predictor | size | " + " | ".join(PROGRAMS) + " | tensortiff / codec |")
    print("| --- " * 4 + "| ---: " * (len(PROGRAMS) + 2) + "|")
    with tempfile.TemporaryDirectory(prefix="tensortiff-packing-", dir=options.on) as folder:
        for kind in options.kinds.split(","):
            for shape in SHAPES:
                for codec in options.codecs.split(","):
                    for predictor in ["none", "float"]:
                        one_case(Path(folder), kind, shape, codec, predictor, options)


if __name__ == "__main__":
    main()
