#!/usr/bin/env python3
"""Counts the instructions of the CPU's hot loops with valgrind (Debian: `apt-get install valgrind`).

    cargo build --release && benches/instructions.py
    benches/instructions.py --guard                     what CI runs: fails above ALLOWED

Counts do not depend on what else the machine does, so that a lost vectorisation shows at once, and
so does another copy of the pixels: valgrind counts each step of a copy as an instruction. The whole
program runs on one thread over made images of each type, and of f32 by each norm; the table gives
instructions per sample of the functions that look at every sample, and of everything. Tiny images
tell what each image costs beside its samples: names, headers, the record. Hot loops have a version for AVX2,
which valgrind knows.
"""
import array
import functools
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOL = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release/tensortiff"
SHAPE, TINY = (8, 512, 512), (2000, 28, 28)
HOT = {
    "extent": r"::extent::extent",
    "normalize": r"::normalize::normalize_|cpu::map::",
    "decode": r"::decode::",
    "gather": r"::gather::|::quantiles::|::sums::|slice::select|slice::sort",
}
# Most instructions per sample that --guard lets pass: a sixth more than was counted, of everything a twelfth
# (processors of other makers copy memory by other instructions). A normalization of scalar code made 9 to 11
# of 0.6 to 1, one more copy of the pixels 6 to 8 of 2 to 3 in everything.
ALLOWED = {
    "F32": {"extent": 0.92, "normalize": 0.69, "everything": 2.4},
    "BF16": {"extent": 0.57, "normalize": 1.19, "everything": 2.6},
    "F16": {"extent": 0.57, "normalize": 2.08, "everything": 3.7},
    "U8": {"extent": 1.05, "normalize": 0.73, "decode": 1.14, "everything": 3.8},
    "F8_E4M3": {"extent": 3.8, "normalize": 1.35, "decode": 6.2, "everything": 12.2},
    "F64": {"extent": 2.6, "normalize": 5.6, "everything": 27.5},
    "F32 --norm percentile": {"normalize": 2.92, "gather": 48.4, "everything": 49.5},
    "F32 --norm symmetric": {"extent": 0.92, "normalize": 0.69, "everything": 2.5},
    "F32 --norm zscore": {"normalize": 2.2, "gather": 31.8, "everything": 33.4},
    "F32 --norm fixed --range 0,1": {"extent": 0.92, "normalize": 2.92, "everything": 4.8},
    "F32 --norm none": {"extent": 0.92, "everything": 1.8},
    "F32 --scope tensor": {"extent": 1.85, "normalize": 0.69, "everything": 3.5},
    "F32 --scope tensor --norm percentile": {"gather": 67.9, "everything": 68.5},
    "F32 tiny": {"extent": 2.1, "normalize": 0.81, "everything": 14.0},
}


@functools.cache
def raw(dtype: str, count: int) -> bytes:
    """Finite samples of a type, by a seed."""
    draw = random.Random(1)
    values = [draw.gauss(0, 1) for _ in range(count)]
    if dtype == "F64":
        return array.array("d", values).tobytes()
    floats = array.array("f", values)
    if dtype == "F32":
        return floats.tobytes()
    if dtype == "BF16":
        return array.array("H", [x >> 16 for x in array.array("I", floats.tobytes())]).tobytes()
    if dtype == "F16":
        return b"".join(struct.pack("<e", x) for x in values)
    return bytes(int(x * 32) & 0xFF for x in values)


def count(folder: Path, dtype: str, shape: tuple[int, int, int], more: list[str]) -> dict[str, float]:
    """Instructions per sample, by stage."""
    samples = math.prod(shape)
    data = raw(dtype, samples)
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"t": entry}).encode()
    dump, out = folder / "d.safetensors", folder / "out"
    dump.write_bytes(struct.pack("<Q", len(header)) + header + data)
    profile = folder / "callgrind.out"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", TOOL, "convert"]
    command += [dump, "-o", out, "-q", "--device", "cpu", "-j", "1", *more]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(out)
    shown = ["callgrind_annotate", "--threshold=100", "--auto=no", profile]
    text = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
    counts = dict.fromkeys([*HOT, "everything"], 0)
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+) \([ \d.]+%\)\s+(.*)", line)
        if not found:
            continue
        number, what = int(found[1].replace(",", "")), found[2]
        if what == "PROGRAM TOTALS":
            counts["everything"] = number
        for stage, pattern in HOT.items():
            if re.search(pattern, what):
                counts[stage] += number
                break
    return {stage: number / samples for stage, number in counts.items()}


def main() -> int:
    if sys.argv[1:] not in ([], ["--guard"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not TOOL.exists():
        print(f"{TOOL} is not there: run cargo build --release first", file=sys.stderr)
        return 2
    wrong = []
    print(f"{'instructions per sample':36}" + "".join(f"{s:>12}" for s in [*HOT, "everything"]))
    with tempfile.TemporaryDirectory() as folder:
        for case, allowed in ALLOWED.items():
            dtype, *more = case.split()
            shape = TINY if "tiny" in more else SHAPE
            more = [word for word in more if word != "tiny"]
            try:
                counts = count(Path(folder), dtype, shape, more)
            except FileNotFoundError:
                print("valgrind is not there; Debian: apt-get install valgrind", file=sys.stderr)
                return 2
            print(f"{case:36}" + "".join(f"{number:12.2f}" for number in counts.values()))
            for stage, most in allowed.items():
                # None at all: a function has another name now, and nobody would notice its loss.
                if not 0.1 < counts[stage] <= most:
                    wrong.append(f"{case}, {stage}: {counts[stage]:.2f}, {most} allowed")
    if sys.argv[1:] == ["--guard"]:
        print("\n".join(wrong), file=sys.stderr)
        return int(bool(wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main())
