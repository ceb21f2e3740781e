#!/usr/bin/env python3
"""Measures tensortiff against the floor and against rivals, all in one run.

    benches/floor/run.py                          floor, tensortiff, the plain program; on /dev/shm
    benches/floor/run.py --rivals                 and the Python programs (or --rivals numpy,torch)
    benches/floor/run.py --on DIR --sets MEDIUM,TINY --rounds 9 --json figures.json
    benches/floor/run.py --all --markdown table.md --json figures.json
                                                  every set and program, in memory and on a disk
    benches/floor/run.py --guard                  what CI runs

README.md beside this file says what is compared, and how.
"""
import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import dumps
from places import MEMORY, Place, disk, files, filesystem, roomy
from tables import markdown, scaled, span, table
from verdicts import AGAIN, FLOORS, FREE_FLOORS, PACKED, best, ratios, report, verdicts

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TOOL = TARGET / "release/tensortiff"
BUILT = TARGET / "floor/release"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
VENV = CACHE / "tensortiff-floor/venv"

RIVALS = ["numpy", "torch", "script"]
# Slow ones run in fewer rounds; the table says so.
ROUNDS = {"py-script": 1, "py-torch": 3, "py-numpy": 3}
# Bytes that the floor reads at once, unless told otherwise.
STEP = 256 << 10
# No program's header is longer, but for lists of strips, which are less than this share of the pixels.
HEADER, STRIPS = 4096, 1 / 256

# A lost vectorisation costs more than this times the floor. Another copy of an image in cache does
# not (1.2 times the processor time): instructions.py finds it.
GUARD = 1.5
GUARD_ROUNDS = 11
# Of many small files processor time is mostly that of threads in line for a folder's lock, and grows
# with what else runs: 1.05 times the floor's on a quiet machine, 1.2 to 1.6 on a crowded one.
BY_TIME_ALONE = ["TINY"]
MANY_FILES = ["SAMPLE", "TINY"]
GUARD_SETS = {
    "MEDIUM": [("t", "F32", [384, 512, 512])],
    "BF16": [("t", "BF16", [1024, 256, 256])],
    "LARGE": [("t", "F32", [6, 4096, 4096])],
    "F16": [("t", "F16", [64, 64, 112, 112])],
    "MIXED": dumps.smaller(dumps.MADE["MIXED"], 2),
    "TINY": [("t", "F32", [30_000, 28, 28])],
}


def built():
    """Builds tensortiff and the programs beside it."""
    for folder, target in [(ROOT, TARGET), (HERE, TARGET / "floor")]:
        command = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", target]
        if subprocess.run(command, cwd=folder).returncode != 0:
            sys.exit(f"cannot build what is in {folder}")


def environment(wanted):
    """Makes a Python environment that has what these lists name; each is installed once."""
    python = VENV / "bin/python"
    if not python.exists() or subprocess.run([python, "-c", ""]).returncode != 0:
        if subprocess.run([sys.executable, "-m", "venv", "--clear", VENV]).returncode != 0:
            sys.exit(f"cannot make {VENV} (Debian: apt-get install python3-venv); "
                     "--unchecked without --rivals needs nothing")
    for name in wanted:
        stamp = VENV / name
        text = (HERE / name).read_text()
        if not stamp.exists() or stamp.read_text() != text:
            print(f"installing {name} in {VENV}", flush=True)
            command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            if subprocess.run([*command, "-r", HERE / name]).returncode != 0:
                sys.exit(f"cannot install {name}; --unchecked without --rivals needs nothing")
            stamp.write_text(text)  # last: a broken installation is made again


def programs(threads):
    """Name -> command line for a dump, and a folder that is not there yet."""
    n = str(threads)
    floor = [BUILT / "floor", "DUMP", "OUT", "--threads", n, "--variant"]
    tool = [TOOL, "convert", "DUMP", "-o", "OUT", "-q", "-j", n, "--device"]
    found = {name: [*floor, name.split("-")[1]] for name in [*FREE_FLOORS, AGAIN]}
    found |= {f"tensortiff-{device}": [*tool, device] for device in ["cpu", "auto", "gpu"]}
    for name, (_, options) in RULES.items():
        found[name] = [*tool, "cpu", *options]
    found["plain"] = [BUILT / "plain", "DUMP", "OUT", "--threads", n]
    python = [VENV / "bin/python", HERE / "rivals.py"]
    return found | {f"py-{name}": [*python, name, "DUMP", "OUT", n] for name in RIVALS}


# Programs that do something else than the others, what `compare.py` calls it, and their options.
RULES = {
    "tensortiff-none": ("none", ["--norm", "none"]),
    "tensortiff-wide": ("wide", ["--scope", "tensor"]),
    "tensortiff-percentile": ("percentile", ["--norm", "percentile"]),
    PACKED: ("minmax", ["--compress", "deflate:1"]),
}

# What runs where nothing else is asked for. Without a card there is nothing to measure on a GPU alone.
USUAL = ["floor-whole", "floor-vector", "floor-twice", "floor-steps", "floor-again", "tensortiff-cpu",
         "tensortiff-auto", "tensortiff-none", "tensortiff-wide", "tensortiff-percentile", PACKED, "plain"]


def fitting(dump, commands):
    """The programs that can convert a set, with the options that it needs; of floors that do the same
    to it, one: the fastest of some runs of one program would be no floor."""
    if 2 * max(dumps.stored(dump)) <= STEP:
        same = ["floor-twice", "floor-steps"]
        same += ["floor-vector"] if dumps.is_widened(dump) else []
        commands = {name: command for name, command in commands.items() if name not in same}
    if dump.stem != dumps.NHWC:
        return commands
    return {program: [*command, "--layout", dump.stem] for program, command in commands.items()
            if program.startswith(("floor", "tensortiff")) and program != AGAIN}


class Starter:
    """Runs programs from a process that stays small: see starter.py."""

    def __init__(self):
        command = [sys.executable, "-I", "-S", HERE / "starter.py"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def run(self, command, dump, out):
        """A whole process: seconds, processor seconds, peak KiB, and when it was started."""
        words = [str({"DUMP": dump, "OUT": out}.get(word, word)) for word in command]
        print(json.dumps(words), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{' '.join(words)} could not be started")
        status, took, cpu, peak, begun = json.loads(answer)
        if status != 0:
            code = os.waitstatus_to_exitcode(status)
            sys.exit(f"{' '.join(words)} failed with {code}")
        return {"seconds": took, "cpu": cpu, "rss_kib": peak, "begun": begun}


def look(program, dump, out, row):
    """Checks number and size of the files that a program wrote, and notes when it had the first:
    by the file system's clock, which lags by up to a tick (1 to 4 ms)."""
    sizes, first = Counter(), float("inf")
    for path, stat in files(out):
        if path == os.path.join(out, "manifest.jsonl"):
            continue  # tensortiff's own account of its run
        sizes[stat.st_size] += 1
        first = min(first, stat.st_ctime)
    row["first"] = first - row.pop("begun")
    count, pixels = sum(dumps.images(dump).values()), dumps.pixels(dump)
    total = sum(size * times for size, times in sizes.items())
    found = sum(sizes.values())
    least = 1 if program == PACKED else pixels
    if found != count or not least <= total <= pixels * (1 + STRIPS) + HEADER * count:
        sys.exit(f"{program} wrote {found} files of {total} bytes for {dump.name}, "
                 f"which holds {count} images of {pixels} bytes")
    return sizes


def compare(program, dump, out, seed):
    """Holds some images against NumPy, bit for bit where tensortiff wrote them."""
    norm = RULES[program][0] if program in RULES else "minmax"
    family = program.split("-")[0]
    family = family if family in ["floor", "tensortiff"] else "other"
    command = [VENV / "bin/python", HERE / "compare.py", dump, out, family, norm, str(seed)]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"{program} wrote wrong pixels for {dump.name}")


def measure(place, dump, commands, rounds, *, checked=False, fewer=ROUNDS):
    """Figures of all programs on one dump. Each round runs every program once, but for those that
    have `fewer`, in another order (by a seed), so that what else the machine does, and what runs before
    left behind, meets all of them alike."""
    figures = {name: [] for name in commands}
    needed = dumps.pixels(dump) + HEADER * sum(dumps.images(dump).values())
    for number in range(rounds):
        sizes = {}
        for name in random.Random(number).sample(list(commands), len(commands)):
            if number >= fewer.get(name, rounds):
                continue
            out = place.folder / f"{dump.stem}-{name}-{number}"
            place.before(dump, needed)
            row = place.starter.run(commands[name], dump, out)
            figures[name].append(row)
            sizes[name] = look(name, dump, out, row)
            if checked and number in [0, min(rounds, fewer.get(name, rounds)) - 1]:
                compare(name, dump, out, number)
            place.after(out)
        for name in sizes:
            wanted = sizes.get("tensortiff-cpu")
            if name.startswith("floor") and wanted not in (None, sizes[name]):
                sys.exit(f"{name} wrote files of other sizes than tensortiff for {dump.name}: "
                         f"{sorted(sizes[name].items())[:3]}, {sorted(wanted.items())[:3]}")
    return figures


def scaling(place, dump, options):
    """Figures of floor and CPU path on one thread, two, four... as many as asked for."""
    counts = [1]
    while counts[-1] < options.threads:
        counts.append(min(2 * counts[-1], options.threads))
    names = ["floor-whole", "tensortiff-cpu"]
    commands = {f"{name} -j {n}": fitting(dump, programs(n))[name] for n in counts for name in names}
    figures = measure(place, dump, commands, min(options.rounds, 5))
    for line in scaled(figures):
        print(line)
    return figures


def guard(place, options):
    """Fails if tensortiff needs more than GUARD times the floor on any set, in time or in processor
    time.

    What else runs makes single rounds slower, of either program; the median of many pairs holds
    against that, and a set is tried three times. On a crowded machine time says little about work:
    there processor time, which hardly changes, shows a loss that time hides.
    """
    names = ["floor-whole", "floor-twice", "tensortiff-cpu"]
    all_commands = {name: programs(options.threads)[name] for name in names}
    failed = False
    print(f"guard: {options.threads} threads on {place.named}"
          f" ({'memory' if place.memory else 'disk'})", flush=True)
    for name, tensors in GUARD_SETS.items():
        dump = place.folder / f"{name}.safetensors"
        dumps.make(BUILT / "make", dump, tensors)
        commands = fitting(dump, all_commands)
        for _ in range(3):
            figures = measure(place, dump, commands, GUARD_ROUNDS)
            pairs = {}
            for what in ["seconds", "cpu"]:
                floor = best(figures, FLOORS, what)
                pairs[what] = ratios(figures, "tensortiff-cpu", floor, what)
            judged = ["seconds"] if name in BY_TIME_ALONE else ["seconds", "cpu"]
            met = all(median(pairs[what]) <= GUARD for what in judged)
            print(f"guard: {name}: {median(pairs['seconds']):.2f} times the floor's time"
                  f" ({span(pairs['seconds'], 2)}), {median(pairs['cpu']):.2f} times its processor"
                  f" time ({span(pairs['cpu'], 2)}); {GUARD} allowed;"
                  f" load average {os.getloadavg()[0]:.1f}", flush=True)
            if met:
                break
        failed |= not met
        dump.unlink()
    return int(failed)


def machine():
    """What figures should not be read without."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.split(": ")[1] for line in cpuinfo if line.startswith("model name")]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT,
                            capture_output=True, text=True).stdout.strip()
    return {"cpu": (model or [platform.processor()])[0], "cores": os.cpu_count(),
            "system": platform.platform(), "python": platform.python_version(),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "commit": commit,
            "command": sys.argv, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def listed(text, known, parser, option):
    """The words of a comma-separated option."""
    words = text.split(",")
    for word in words:
        if word not in known:
            parser.error(f"{option}: there is no {word!r}; there are {', '.join(known)}")
    return words


def arguments():
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", type=Path, metavar="DIR", action="append",
                        help="where to work, one place after the other if given again; /dev/shm if"
                        " it has 3 GiB, else a temporary folder")
    parser.add_argument("--sets", default=",".join(dumps.NAMES), help="by default %(default)s")
    parser.add_argument("--programs", default=",".join(USUAL),
                        help="by default %(default)s; the floors run in any case")
    parser.add_argument("--rivals", nargs="?", const=",".join(RIVALS), metavar="NAMES",
                        help="with the Python programs, or some of them (PyTorch takes 5 GB)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--even", action="store_true", help="slow programs in every round, too")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scaling", action="store_true",
                        help="with 1, 2, 4... threads, too, in the first place")
    parser.add_argument("--all", action="store_true",
                        help="--rivals --scaling --even, on /dev/shm and on a disk")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the data")
    parser.add_argument("--unchecked", action="store_true",
                        help="do not look at pixels, for which NumPy is installed; sizes always are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE",
                        help="write there what a record needs: machine, command, tables")
    parser.add_argument("--guard", action="store_true", help="hold the CPU path to its ratio")
    options = parser.parse_args()
    if options.guard:
        mine = ["sets", "programs", "rivals", "rounds", "even", "scaling", "all", "quick", "unchecked",
                "json", "markdown"]
        for name in mine:
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--guard has sets, programs and rounds of its own: no --{name}")
    options.sets = listed(options.sets, dumps.NAMES, parser, "--sets")
    known = list(programs(1))
    chosen = listed(options.programs, known, parser, "--programs")
    if options.all:
        options.rivals = options.rivals or ",".join(RIVALS)
        options.scaling = options.even = True
    if options.rivals:
        chosen += [f"py-{name}" for name in listed(options.rivals, RIVALS, parser, "--rivals")]
    chosen += [name for name in USUAL if name.startswith("floor")]
    options.programs = [name for name in known if name in chosen]
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads begin at 1")
    options.on = options.on or both(parser) if options.all else options.on or [roomy()]
    for folder in options.on:
        if not folder.is_dir():
            parser.error(f"--on {folder}: there is no such folder")
    for option in ["json", "markdown"]:
        file = getattr(options, option)
        if file and not file.resolve().parent.is_dir():
            parser.error(f"--{option} {file}: there is no such folder")
    return options


def both(parser):
    """Memory and a disk."""
    memory, on_disk = roomy(), disk([Path(tempfile.gettempdir()), ROOT])
    if filesystem(memory) not in MEMORY or on_disk is None:
        parser.error("--all: no room in /dev/shm, or no disk was found; name both with --on")
    return [memory, on_disk]


def one_set(name, place, options):
    """Figures of one set in one place, and the verdicts."""
    few = 16 if options.quick else 1
    dump = place.folder / f"{name}.safetensors"
    place.room((3 << 30) // few)
    if name == "SAMPLE":
        dumps.make_sample(ROOT / "data/minilm.safetensors", dump, 256 // few)
    else:
        tensors = dumps.MADE[name]
        tensors = dumps.smaller(tensors, few) if options.quick else tensors
        dumps.make(BUILT / "make", dump, tensors)
    commands = {program: command
                for program, command in fitting(dump, programs(options.threads)).items()
                if program in options.programs}
    load = os.getloadavg()
    figures = measure(place, dump, commands, options.rounds, checked=not options.unchecked,
                      fewer={} if options.even else ROUNDS)
    table(name, figures)
    more = scaling(place, dump, options) if options.scaling and place.is_first else {}
    found = verdicts(name, figures, memory=place.memory, threads=options.threads,
                     image=max(dumps.images(dump)))
    sys.stdout.flush()
    if place.memory:
        dump.unlink()
    return {"load": [load, os.getloadavg()], "figures": figures, "scaling": more,
            "verdicts": found}


def everything(place, options, saved):
    """Every set in turn; figures are saved after each."""
    kind = "memory" if place.memory else "disk"
    print(f"\n{options.threads} threads on {place.named} ({kind}), {options.rounds} rounds")
    print(f"{saved['cpu']}, {saved['cores']} cores; load average {os.getloadavg()[0]:.1f}")
    sets = {}
    saved["places"].append({"on": str(place.named), "filesystem": filesystem(place.named),
                            "memory": place.memory, "sets": sets})
    # On a disk sets of many files come last: to empty millions of them for room takes longer than all else.
    many = [] if place.memory else [name for name in options.sets if name in MANY_FILES]
    for name in [name for name in options.sets if name not in many] + many:
        sets[name] = one_set(name, place, options)
        if options.json:
            options.json.write_text(json.dumps(saved, indent=1))
        if options.markdown:
            options.markdown.write_text(markdown(saved))
    print("\nTargets" + (" (which --quick says nothing about)" if options.quick else ""))
    for name, found in sets.items():
        report(name, found["verdicts"])


def main():
    """See above."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    built()
    if not options.guard and not (options.unchecked and not options.rivals):
        rivals = any(name.startswith("py-") for name in options.programs)
        environment(["requirements.txt", "requirements-rivals.txt"][: 1 + rivals])
    saved = {**machine(), "threads": options.threads, "rounds": options.rounds,
             "quick": options.quick, "places": []}
    for number, on in enumerate(options.on):
        with tempfile.TemporaryDirectory(prefix="tensortiff-floor-", dir=on) as folder:
            try:
                with Starter() as starter:
                    place = Place(Path(folder), on, number == 0, starter)
                    if options.guard:
                        return guard(place, options)
                    everything(place, options, saved)
            finally:
                # To delete takes long on some disks; who ends it then would leave gigabytes.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
