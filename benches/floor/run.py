#!/usr/bin/env python3
"""Measures tensortiff against the floor and against rivals, all in one run.

    benches/floor/run.py                          tensortiff and the floor, on /dev/shm
    benches/floor/run.py --rivals                 and everything else
    benches/floor/run.py --on DIR --sets MEDIUM,TINY --rounds 9 --json figures.json
    benches/floor/run.py --guard                  what CI runs

Every round runs every program once, one after the other, as a whole process into a folder of its
own, so that what else the machine does meets all of them. The table shows medians and ranges of
the times, and medians and ranges of the ratios to the floor of the same round. On a memory file
system outputs are deleted between runs, elsewhere only at the end: an ext4 without a journal makes
files slowly where others were deleted a moment ago. (The column MiB is the peak resident memory,
but not less than that of the Python that starts the program.)

The floor is the better of two copy programs (src/bin/floor.rs): `whole` reads an image and then
writes it; `steps` writes each 256 KiB as soon as they are read, which no program can do that must
know an image's extent before it writes.

Needs Rust, and Python 3.9; --rivals makes a virtual environment below target/floor and installs
requirements.txt there (PyTorch is some gigabytes).
"""
import argparse
import array
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TOOL = TARGET / "release/tensortiff"
BUILT = TARGET / "floor/release"
VENV = TARGET / "floor/venv"
SIZE = {"F32": 4, "F16": 2, "BF16": 2}

# What time each set may take, as a multiple of the floor's, on a memory file system.
TARGETS = {
    "MEDIUM": 1.1,
    "BF16": 1.1,
    "F16": 1.1,
    "LARGE": 1.15,
    "TINY": 1.3,
    "MIXED": 1.3,
}
# A lost vectorisation or another copy of the data costs more than this allows.
GUARD = 1.5


def vit():
    """Activations and weights of a vision transformer (ViT-B/16, a batch of 8)."""
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


def sets(quick):
    """Name -> tensors of each made set."""
    few = 16 if quick else 1
    return {
        "MEDIUM": [("t", "F32", [1024 // few, 512, 512])],
        "TINY": [("t", "F32", [100_000 // few, 28, 28])],
        "LARGE": [("t", "F32", [max(2, 16 // few), 4096, 4096])],
        "BF16": [("t", "BF16", [2048 // few, 256, 256])],
        "F16": [("t", "F16", [64 // few, 64, 112, 112])],
        "MIXED": list(vit())[: 10 if quick else None],
    }


def pattern(dtype):
    """Samples that repeat only after a prime number of them, so that images differ."""
    draw = random.Random(dtype)
    block = array.array("f", [draw.gauss(0, 1) for _ in range(100_003)])
    if dtype == "BF16":
        block = array.array("H", [x >> 16 for x in array.array("I", block.tobytes())])
    elif dtype == "F16":
        block = array.array("H", struct.unpack("<100003H", struct.pack("<100003e", *block)))
    return block.tobytes() * 16


def make(path, tensors):
    """Writes a dump of such samples."""
    header, at = {}, 0
    for name, dtype, shape in tensors:
        length = SIZE[dtype]
        for axis in shape:
            length *= axis
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header).encode()
    patterns = {dtype: pattern(dtype) for dtype in {dtype for _, dtype, _ in tensors}}
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in header.values():
            left = entry["data_offsets"][1] - entry["data_offsets"][0]
            block = patterns[entry["dtype"]]
            while left > 0:
                left -= file.write(block[:left])


def make_sample(path, megabytes):
    """The real sample, its tensors repeated under short names, for which headers are short."""
    with open(ROOT / "data/minilm.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    times = max(1, (megabytes << 20) // len(data))
    repeated = {}
    for k in range(times):
        for number, entry in enumerate(header.values()):
            begin, end = (place + k * len(data) for place in entry["data_offsets"])
            repeated[f"{k}.{number}"] = {**entry, "data_offsets": [begin, end]}
    text = json.dumps(repeated).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(times):
            file.write(data)


def built():
    """Builds tensortiff and the programs beside it."""
    for folder, target in [(ROOT, TARGET), (HERE, TARGET / "floor")]:
        command = ["cargo", "build", "--release", "--locked", "--quiet"]
        command += ["--target-dir", str(target)]
        subprocess.run(command, cwd=folder, check=True)


def environment():
    """A Python that has what the rivals import."""
    python = VENV / "bin/python"
    wanted = (HERE / "requirements.txt").read_text()
    stamp = VENV / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        command = [python, "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")]
        subprocess.run(command, check=True)
        stamp.write_text(wanted)
    return python


def programs(options):
    """Name -> command line for a dump, and a folder that is not there yet."""
    threads = str(options.threads)
    floor = [BUILT / "floor", "DUMP", "OUT", "--threads", threads, "--variant"]
    tool = [TOOL, "convert", "DUMP", "-o", "OUT", "-q", "-j", threads, "--device"]
    found = {
        "floor whole": [*floor, "whole"],
        "floor steps": [*floor, "steps"],
        "tensortiff cpu": [*tool, "cpu"],
    }
    if not options.guard:
        found["tensortiff auto"] = [*tool, "auto"]
        found["plain rayon"] = [BUILT / "plain", "DUMP", "OUT", "--threads", threads]
    if options.none:
        found["tensortiff none"] = [*tool, "cpu", "--norm", "none"]
    if options.rivals:
        python = environment()
        for name in ["numpy", "torch", "script"]:
            found[f"py {name}"] = [python, HERE / "rivals.py", name, "DUMP", "OUT", threads]
    return found


# Slow ones run in fewer rounds, and say so in the table.
ROUNDS = {"py script": 1, "py torch": 3, "py numpy": 3}


def run(command, dump, out):
    """Seconds, processor seconds and KiB of a whole process."""
    words = [str({"DUMP": dump, "OUT": out}.get(word, word)) for word in command]
    start = time.perf_counter()
    child = os.posix_spawn(words[0], words, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        raise SystemExit(f"{' '.join(words)} failed with status {status}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def files(folder):
    """Paths and lengths of all files below."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            yield path, path.stat().st_size


def expected(dump):
    """Number of images, and bytes of their pixels."""
    with open(dump, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    count = pixels = 0
    for entry in header.values():
        if len(entry["shape"]) >= 2:
            begin, end = entry["data_offsets"]
            *_, height, width = entry["shape"]
            samples = (end - begin) // SIZE[entry["dtype"]]
            count += samples // (height * width)
            pixels += 4 * samples
    return count, pixels


def check(name, dump, out, like):
    """Whether a program wrote as many files as there are images, each with all its pixels, and the
    floor as many bytes as tensortiff."""
    lengths = [length for _, length in files(out)]
    count, pixels = expected(dump)
    if len(lengths) != count or sum(lengths) < pixels:
        raise SystemExit(f"{name} wrote {len(lengths)} files of {sum(lengths)} bytes for {dump}")
    if name.startswith("floor") and like is not None and sum(lengths) != like:
        raise SystemExit(f"{name} wrote {sum(lengths)} bytes, tensortiff {like}")
    return sum(lengths)


def measure(options, dump, commands, work):
    """Figures of all programs on one dump, round by round."""
    memory = str(options.on).startswith("/dev/shm")
    figures = {name: [] for name in commands}
    like = None
    kept = []
    for number in range(options.rounds):
        # tensortiff first: the floor's bytes are held against its own.
        order = sorted(commands, key=lambda name: not name.startswith("tensortiff"))
        for name in order if number == 0 else commands:
            if number >= ROUNDS.get(name, options.rounds):
                continue
            out = work / f"{dump.stem}-{name.replace(' ', '-')}-{number}"
            figures[name].append(run(commands[name], dump, out))
            if number == 0:
                total = check(name, dump, out, like)
                if name == "tensortiff cpu":
                    like = total
                if name != "floor" and not name.startswith("floor") and not options.guard:
                    compare(name, dump, out)
            if memory:
                shutil.rmtree(out)
            else:
                kept.append(out)
    return figures


def compare(name, dump, out):
    """Holds some images against NumPy, bit for bit where tensortiff wrote them."""
    script = HERE / "compare.py"
    python = VENV / "bin/python"
    if python.exists():
        exact = "exact" if name.startswith("tensortiff") else "near"
        norm = "none" if name.endswith("none") else "minmax"
        subprocess.run([python, script, dump, out, exact, norm], check=True)


def best_floor(figures):
    """The floor's better variant."""
    variants = ["floor whole", "floor steps"]
    return min(variants, key=lambda name: statistics.median(row[0] for row in figures[name]))


def ratios(figures, name, floor):
    """Times over the floor's of the same round."""
    return [mine[0] / its[0] for mine, its in zip(figures[name], figures[floor])]


def table(name, figures):
    """Prints one set's figures; the ratios are to the better floor and to `whole`."""
    floor = best_floor(figures)
    print(f"\n{name}: the floor is {floor!r}")
    print(f"{'':18}{'s':>8}{'range':>16}{'x floor':>9}{'range':>14}{'x whole':>9}{'cpu s':>8}{'MiB':>7}")
    for program, rows in figures.items():
        seconds = [row[0] for row in rows]
        x, whole = ratios(figures, program, floor), ratios(figures, program, "floor whole")
        print(
            f"{program:18}{statistics.median(seconds):8.3f}"
            f"{f'{min(seconds):.3f}-{max(seconds):.3f}':>16}"
            f"{statistics.median(x):9.2f}{f'{min(x):.2f}-{max(x):.2f}':>14}"
            f"{statistics.median(whole):9.2f}"
            f"{statistics.median(row[1] for row in rows):8.2f}"
            f"{max(row[2] for row in rows) / 1024:7.0f}"
            + (f"  ({len(rows)} rounds)" if len(rows) < len(figures[floor]) else "")
        )


def verdicts(all_figures):
    """Says which targets are met."""
    print("\ntarget: median of the ratios to the better floor / to `whole`")
    for name, figures in all_figures.items():
        if name not in TARGETS:
            continue
        floor = best_floor(figures)
        best, whole = (
            statistics.median(ratios(figures, "tensortiff cpu", f)) for f in [floor, "floor whole"]
        )
        allowed = TARGETS[name]
        met = lambda ratio: "met" if ratio <= allowed else "missed"
        print(f"{name:8} <= {allowed}: {best:.2f} {met(best)} / {whole:.2f} {met(whole)}")


def guard(options, work):
    """Fails if tensortiff is slower than the floor by more than the guard allows."""
    held = {"MEDIUM": [("t", "F32", [192, 512, 512])], "BF16": [("t", "BF16", [512, 256, 256])]}
    failed = False
    for name, tensors in held.items():
        dump = work / f"{name}.safetensors"
        make(dump, tensors)
        for attempt in range(3):
            figures = measure(options, dump, programs(options), work)
            # A busy machine can only make a round slower: the best rounds are compared too.
            best = [min(row[0] for row in figures[p]) for p in ["tensortiff cpu", "floor whole"]]
            ratio = min(
                statistics.median(ratios(figures, "tensortiff cpu", "floor whole")),
                best[0] / best[1],
            )
            print(f"guard: {name}: {ratio:.2f} times the floor, {GUARD} allowed", flush=True)
            if ratio <= GUARD:
                break
        failed |= ratio > GUARD
        dump.unlink()
    return int(failed)


def arguments():
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", type=Path, default=Path("/dev/shm"), help="where to work")
    parser.add_argument("--sets", help="some of MEDIUM,TINY,LARGE,BF16,F16,MIXED,SAMPLE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rivals", action="store_true", help="with the Python programs")
    parser.add_argument("--none", action="store_true", help="with --norm none")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the data")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--guard", action="store_true", help="only hold the CPU path to its ratio")
    options = parser.parse_args()
    known = [*sets(False), "SAMPLE"]
    options.sets = options.sets.split(",") if options.sets else known
    for name in options.sets:
        if name not in known:
            parser.error(f"there is no set {name}; there are {', '.join(known)}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads begin at 1")
    if not options.on.is_dir():
        parser.error(f"--on {options.on}: there is no such folder")
    return options


def main():
    """See above."""
    options = arguments()
    built()
    with tempfile.TemporaryDirectory(prefix="tensortiff-floor-", dir=options.on) as work:
        work = Path(work)
        if options.guard:
            return guard(options, work)
        load = os.getloadavg()[0]
        print(f"{options.threads} threads on {options.on}, load average {load:.1f} before")
        all_figures = {}
        for name in options.sets:
            dump = work / f"{name}.safetensors"
            if name == "SAMPLE":
                make_sample(dump, 16 if options.quick else 256)
            else:
                make(dump, sets(options.quick)[name])
            all_figures[name] = measure(options, dump, programs(options), work)
            table(name, all_figures[name])
            sys.stdout.flush()
            dump.unlink()
        verdicts(all_figures)
        if options.json:
            options.json.write_text(json.dumps(all_figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
