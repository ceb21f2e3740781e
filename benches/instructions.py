#!/usr/bin/env python3
"""Counts the instructions of the CPU's hot loops with valgrind (Debian: `apt-get install valgrind`).

    cargo build --release && benches/instructions.py

Counts do not depend on what else the machine does, so that a lost vectorisation shows at once. The
whole program runs on one thread over made images of each type; the table gives instructions per
sample of the functions that look at every sample, and of everything. valgrind knows AVX2 and not
AVX-512: the figures are those of the AVX2 versions.
"""
import array
import json
import random
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "target/release/tensortiff"
IMAGES, SIDE = 8, 512
SAMPLES = IMAGES * SIDE * SIDE
HOT = {
    "extent": r"::extent::extent",
    "normalize": r"::normalize::normalize_",
    "decode": r"::decode::",
}


def raw(dtype: str) -> bytes:
    """Finite samples of a type, by a seed."""
    draw = random.Random(1)
    values = [draw.gauss(0, 1) for _ in range(SAMPLES)]
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


def count(folder: Path, dtype: str) -> dict[str, float]:
    """Instructions per sample, by stage."""
    data = raw(dtype)
    entry = {"dtype": dtype, "shape": [IMAGES, SIDE, SIDE], "data_offsets": [0, len(data)]}
    header = json.dumps({"t": entry}).encode()
    dump = folder / f"{dtype}.safetensors"
    dump.write_bytes(struct.pack("<Q", len(header)) + header + data)
    profile = folder / "callgrind.out"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", TOOL, "convert"]
    command += [dump, "-o", folder / dtype, "-q", "--device", "cpu", "-j", "1"]
    subprocess.run(command, check=True, capture_output=True)
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
    return {stage: number / SAMPLES for stage, number in counts.items()}


def main() -> int:
    if not TOOL.exists():
        print(f"{TOOL} is not there: run cargo build --release first", file=sys.stderr)
        return 2
    print(f"{'instructions per sample':24}" + "".join(f"{s:>12}" for s in [*HOT, "everything"]))
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ["F32", "BF16", "F16", "U8", "F8_E4M3", "F64"]:
            try:
                counts = count(Path(folder), dtype)
            except FileNotFoundError:
                print("valgrind is not there; Debian: apt-get install valgrind", file=sys.stderr)
                return 2
            print(f"{dtype:24}" + "".join(f"{number:12.2f}" for number in counts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
