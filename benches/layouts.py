#!/usr/bin/env python3
"""Times dumps whose images lie among each other (NHWC) against the same images one after the other (NCHW).

    benches/layouts.py [--on DIR] [--rounds 9] [--quick]

Whole processes of target/release/tensortiff on the CPU, into a fresh folder each, in turn; every file of the
one is held against the other's, byte for byte. Needs NumPy. Prints medians with ranges, and the median and
range of the ratios in the same round; processor seconds as well, which other work on the machine disturbs less.
"""
import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

TOOL = Path(__file__).resolve().parent.parent / "target/release/tensortiff"
# Name, dtype, N, C, H, W.
SETS = [
    ("64 channels of 256x256, f32", "f4", 16, 64, 256, 256),
    ("3 channels of 2048x2048, f32", "f4", 4, 3, 2048, 2048),
    ("3 channels of 512x512, u8", "u1", 64, 3, 512, 512),
    ("64 channels of 112x112, f16", "f2", 64, 64, 112, 112),
    ("768 channels of 14x14, f32", "f4", 256, 768, 14, 14),
]


def run(dump, layout, out):
    # The name of a dump is part of its images' names otherwise.
    command = [TOOL, "convert", dump, "-o", out, "-q", "--device", "cpu", "--layout", layout,
               "--name", "{index}.tif", "--no-manifest"]
    words = [str(word) for word in command]
    start = time.perf_counter()
    child = os.posix_spawn(words[0], words, os.environ)
    _, status, usage = os.wait4(child, 0)
    took = time.perf_counter() - start
    if status != 0:
        sys.exit(f"{' '.join(words)} failed")
    return took, usage.ru_utime + usage.ru_stime


def span(values, digits=3):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", default="/dev/shm")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true",
                        help="few images in one round: whether it works, no measurement")
    args = parser.parse_args()
    if not TOOL.exists():
        sys.exit("cargo build --release first")
    print("| images | NCHW s | NHWC s | ratio | ratio of processor time |\n|---|---|---|---|---|")
    for name, dtype, n, c, h, w in SETS:
        n = 1 if args.quick else n
        with tempfile.TemporaryDirectory(dir=args.on) as folder:
            folder = Path(folder)
            values = np.random.default_rng(1).integers(0, 255, size=(n, h, w, c), dtype="u1").astype(dtype)
            dumps = {"NHWC": folder / "nhwc.npy", "NCHW": folder / "nchw.npy"}
            np.save(dumps["NHWC"], values)
            np.save(dumps["NCHW"], np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
            times = {"NHWC": [], "NCHW": []}
            for round_ in range(2 if args.quick else args.rounds + 1):
                order = list(dumps) if round_ % 2 else list(dumps)[::-1]
                outs = {layout: folder / layout for layout in order}
                for layout in order:
                    times[layout].append(run(dumps[layout], layout, outs[layout]))
                if round_ == 0:
                    names = sorted(os.listdir(outs["NHWC"]))
                    _, wrong, errors = filecmp.cmpfiles(*outs.values(), names, shallow=False)
                    # The tensor's name is in each file: what differs is that alone.
                    if names != sorted(os.listdir(outs["NCHW"])) or errors or len(names) != n * c:
                        sys.exit(f"{name}: the files are others")
                    for file in wrong:
                        one, other = [(out / file).read_bytes() for out in outs.values()]
                        if len(one) != len(other) or one.replace(b"nhwc", b"nchw") != other.replace(b"nhwc", b"nchw"):
                            sys.exit(f"{name}: {file} differs")
                for out in outs.values():
                    shutil.rmtree(out)
            one, other = [times[layout][1:] for layout in ("NCHW", "NHWC")]
            wall, cpu = [[b[k] / a[k] for a, b in zip(one, other)] for k in (0, 1)]
            print(f"| {name} | {span([a[0] for a in one])} | {span([b[0] for b in other])} | {span(wall, 2)} | "
                  f"{span(cpu, 2)} |", flush=True)


main()
