#!/usr/bin/env python3
"""Measures tensortiff against the floor and against rivals, all in one run.

    benches/floor/run.py                          floor, tensortiff, the plain program; on /dev/shm
    benches/floor/run.py --rivals                 and the Python programs (or --rivals numpy,torch)
    benches/floor/run.py --on DIR --sets MEDIUM,TINY --rounds 9 --json figures.json
    benches/floor/run.py --guard                  what CI runs

README.md beside this file says what is compared, and how.
"""
import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import dumps
from verdicts import FLOORS, FREE_FLOORS, best, ratios, report, seconds, verdicts

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
# No program's header is longer, but for lists of strips, which are less than this share of the pixels.
HEADER, STRIPS = 4096, 1 / 256
# Bytes of a disk that stay free.
SPARE = 4 << 30

# A lost vectorisation or another copy of the data costs more than this times the floor.
GUARD = 1.5
GUARD_ROUNDS = 11
# Of many small files processor time is mostly that of threads in line for a folder's lock, and grows
# with what else runs: 1.05 times the floor's on a quiet machine, 1.2 to 1.6 on a crowded one.
BY_TIME_ALONE = ["TINY"]
GUARD_SETS = {
    "MEDIUM": [("t", "F32", [384, 512, 512])],
    "BF16": [("t", "BF16", [1024, 256, 256])],
    "LARGE": [("t", "F32", [6, 4096, 4096])],
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
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
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
    found = {name: [*floor, name.split("-")[1]] for name in FREE_FLOORS}
    found |= {f"tensortiff-{device}": [*tool, device] for device in ["cpu", "auto", "gpu"]}
    found["tensortiff-none"] = [*tool, "cpu", "--norm", "none"]
    found["plain"] = [BUILT / "plain", "DUMP", "OUT", "--threads", n]
    python = [VENV / "bin/python", HERE / "rivals.py"]
    return found | {f"py-{name}": [*python, name, "DUMP", "OUT", n] for name in RIVALS}


# What runs where nothing else is asked for. `vector` was never faster than `whole`, and without a
# card there is nothing to measure on a GPU alone.
USUAL = ["floor-whole", "floor-twice", "floor-steps", "tensortiff-cpu", "tensortiff-auto",
         "tensortiff-none", "plain"]


class Place:
    """A folder in which programs run, each into a fresh folder below."""

    def __init__(self, folder):
        self.folder = folder
        self.memory = filesystem(folder) in ["tmpfs", "ramfs"]
        self.kept = []

    def before(self, dump, needed):
        """Everything that a run should not wait for. On a disk: what earlier runs have yet to
        write, and reading the dump."""
        if self.memory:
            return
        while self.kept and shutil.disk_usage(self.folder).free < needed + SPARE:
            # Not deleted: ext4 without a journal makes files slowly for minutes after that.
            for path, _ in files(self.kept.pop(0)):
                os.truncate(path, 0)
        os.sync()
        with open(dump, "rb", buffering=0) as file:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass

    def after(self, path):
        """Memory is freed at once, a disk's files only with the folder."""
        if self.memory:
            shutil.rmtree(path)
        else:
            self.kept.append(path)

    def room(self, needed):
        """Ends the run if a dump and what it becomes do not fit."""
        free = shutil.disk_usage(self.folder).free
        if self.memory:
            lines = Path("/proc/meminfo").read_text().splitlines()
            values = dict(line.split(":") for line in lines)
            free = min(free, int(values["MemAvailable"].split()[0]) << 10)
        if free < needed:
            sys.exit(f"{self.folder} has room for {free >> 20} MiB; {needed >> 20} MiB are needed")


def filesystem(folder):
    """The type of the file system that a folder is on."""
    command = ["stat", "-f", "-c", "%T", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def files(folder):
    """Path and stat of all files below."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files(entry.path)
            else:
                yield entry.path, entry.stat(follow_symlinks=False)


def run(command, dump, out):
    """A whole process: seconds, processor seconds, peak KiB, and when it was started."""
    words = [str({"DUMP": dump, "OUT": out}.get(word, word)) for word in command]
    begun, start = time.time(), time.perf_counter()
    child = os.posix_spawn(words[0], words, os.environ)
    try:
        _, status, usage = os.wait4(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    took = time.perf_counter() - start
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        sys.exit(f"{' '.join(words)} failed with {code}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": took, "cpu": cpu, "rss_kib": usage.ru_maxrss, "begun": begun}


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
    if found != count or not pixels <= total <= pixels * (1 + STRIPS) + HEADER * count:
        sys.exit(f"{program} wrote {found} files of {total} bytes for {dump.name}, "
                 f"which holds {count} images of {pixels} bytes")
    return sizes


def compare(program, dump, out):
    """Holds some images against NumPy, bit for bit where tensortiff wrote them."""
    norm = "none" if program == "tensortiff-none" else "minmax"
    family = "tensortiff" if program.startswith("tensortiff") else "other"
    command = [VENV / "bin/python", HERE / "compare.py", dump, out, family, norm]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"{program} wrote wrong pixels for {dump.name}")


def measure(place, dump, commands, rounds, checked):
    """Figures of all programs on one dump. Each round runs every program once, and each begins
    with another one, so that what else the machine does meets all of them alike."""
    figures = {name: [] for name in commands}
    names = list(commands)
    needed = dumps.pixels(dump) + HEADER * sum(dumps.images(dump).values())
    for number in range(rounds):
        sizes = {}
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if number >= ROUNDS.get(name, rounds):
                continue
            out = place.folder / f"{dump.stem}-{name}-{number}"
            place.before(dump, needed)
            row = run(commands[name], dump, out)
            figures[name].append(row)
            sizes[name] = look(name, dump, out, row)
            if checked and number == 0 and not name.startswith("floor"):
                compare(name, dump, out)
            place.after(out)
        for name in sizes:
            wanted = sizes.get("tensortiff-cpu")
            if name.startswith("floor") and wanted not in (None, sizes[name]):
                sys.exit(f"{name} wrote files of other sizes than tensortiff for {dump.name}: "
                         f"{sorted(sizes[name].items())[:3]}, {sorted(wanted.items())[:3]}")
    return figures


def span(values, digits):
    """Least and greatest."""
    return f"{min(values):.{digits}f}-{max(values):.{digits}f}"


def table(name, figures):
    """Prints one set's figures."""
    free, floor = best(figures, FREE_FLOORS), best(figures, FLOORS)
    print(f"\n{name}: the floor is {free}, of those that know extents {floor};"
          f" load average {os.getloadavg()[0]:.1f}")
    print(f"{'':17}{'s':>8}{'range':>16}{'x floor':>9}{'paired':>8}{'range':>15}"
          f"{'x extent':>10}{'first ms':>10}{'cpu s':>7}{'MiB':>6}")
    for program, rows in figures.items():
        mine = seconds(rows)
        paired = ratios(figures, program, free)
        few = f"  ({len(rows)} rounds)" if len(rows) < len(figures[floor]) else ""
        print(
            f"{program:17}{median(mine):8.3f}{span(mine, 3):>16}"
            f"{median(mine) / median(seconds(figures[free])):9.2f}"
            f"{median(paired):8.2f}{span(paired, 2):>15}"
            f"{median(ratios(figures, program, floor)):10.2f}"
            f"{1000 * median(row['first'] for row in rows):10.1f}"
            f"{median(row['cpu'] for row in rows):7.2f}"
            f"{max(row['rss_kib'] for row in rows) / 1024:6.0f}{few}"
        )


def scaling(place, dump, options):
    """Times of floor and CPU path on one thread, two, four... as many as asked for."""
    counts = [1]
    while counts[-1] < options.threads:
        counts.append(min(2 * counts[-1], options.threads))
    names = ["floor-whole", "tensortiff-cpu"]
    commands = {f"{name} -j {n}": programs(n)[name] for n in counts for name in names}
    figures = measure(place, dump, commands, min(options.rounds, 5), False)
    for name in names:
        one = median(seconds(figures[f"{name} -j 1"]))
        times = [median(seconds(figures[f"{name} -j {n}"])) for n in counts]
        shown = [f"{n}: {t:.3f} s ({one / t:.2f}x)" for n, t in zip(counts, times)]
        print(f"threads, {name:15}" + "   ".join(shown))
    return figures


def guard(place, options):
    """Fails if tensortiff needs more than GUARD times the floor on any set, in time or in processor
    time.

    What else runs makes single rounds slower, of either program; the median of many pairs holds
    against that, and a set is tried three times. On a crowded machine time says little about work:
    there processor time, which hardly changes, shows a loss that time hides.
    """
    names = ["floor-whole", "floor-twice", "tensortiff-cpu"]
    commands = {name: programs(options.threads)[name] for name in names}
    failed = False
    for name, tensors in GUARD_SETS.items():
        dump = place.folder / f"{name}.safetensors"
        dumps.make(BUILT / "make", dump, tensors)
        for _ in range(3):
            figures = measure(place, dump, commands, GUARD_ROUNDS, False)
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


def roomy():
    """Memory where there is enough of it, as not in every container."""
    shm = Path("/dev/shm")
    there = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 3 << 30
    return shm if there else Path(tempfile.gettempdir())


def arguments():
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", type=Path, metavar="DIR",
                        help="where to work; /dev/shm if it has 3 GiB, else a temporary folder")
    parser.add_argument("--sets", default=",".join(dumps.NAMES), help="by default %(default)s")
    parser.add_argument("--programs", default=",".join(USUAL),
                        help="by default %(default)s; the floors run in any case")
    parser.add_argument("--rivals", nargs="?", const=",".join(RIVALS), metavar="NAMES",
                        help="with the Python programs, or some of them (PyTorch takes 5 GB)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scaling", action="store_true", help="with 1, 2, 4... threads, too")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the data")
    parser.add_argument("--unchecked", action="store_true",
                        help="do not look at pixels, for which NumPy is installed; sizes always are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--guard", action="store_true", help="hold the CPU path to its ratio")
    options = parser.parse_args()
    options.sets = listed(options.sets, dumps.NAMES, parser, "--sets")
    known = list(programs(1))
    chosen = listed(options.programs, known, parser, "--programs")
    if options.rivals:
        chosen += [f"py-{name}" for name in listed(options.rivals, RIVALS, parser, "--rivals")]
    chosen += [name for name in USUAL if name.startswith("floor")]
    options.programs = [name for name in known if name in chosen]
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads begin at 1")
    options.on = options.on or roomy()
    if not options.on.is_dir():
        parser.error(f"--on {options.on}: there is no such folder")
    if options.json and not options.json.resolve().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    return options


def everything(place, options):
    """Every set in turn; figures are saved after each."""
    kind = "memory" if place.memory else "disk"
    print(f"{options.threads} threads on {options.on} ({kind}), {options.rounds} rounds")
    print(f"{machine()['cpu']}, {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}")
    saved = {**machine(), "on": str(options.on), "filesystem": filesystem(options.on),
             "threads": options.threads, "quick": options.quick, "sets": {}}
    all_verdicts = {}
    few = 16 if options.quick else 1
    for name in options.sets:
        dump = place.folder / f"{name}.safetensors"
        place.room((3 << 30) // few)
        if name == "SAMPLE":
            dumps.make_sample(ROOT / "data/minilm.safetensors", dump, 256 // few)
        else:
            tensors = dumps.MADE[name]
            tensors = dumps.smaller(tensors, few) if options.quick else tensors
            dumps.make(BUILT / "make", dump, tensors)
        commands = {p: command for p, command in programs(options.threads).items()
                    if p in options.programs}
        load = os.getloadavg()
        figures = measure(place, dump, commands, options.rounds, not options.unchecked)
        table(name, figures)
        more = scaling(place, dump, options) if options.scaling else {}
        all_verdicts[name] = verdicts(name, figures, memory=place.memory, threads=options.threads,
                                      image=max(dumps.images(dump)))
        saved["sets"][name] = {"load": [load, os.getloadavg()], "figures": figures,
                               "scaling": more, "verdicts": all_verdicts[name]}
        if options.json:
            options.json.write_text(json.dumps(saved, indent=1))
        sys.stdout.flush()
        if place.memory:
            dump.unlink()
    print("\nTargets" + (" (which --quick says nothing about)" if options.quick else ""))
    for name, found in all_verdicts.items():
        report(name, found)


def main():
    """See above."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    built()
    if not options.guard and not (options.unchecked and not options.rivals):
        rivals = any(name.startswith("py-") for name in options.programs)
        environment(["requirements.txt", "requirements-rivals.txt"][: 1 + rivals])
    with tempfile.TemporaryDirectory(prefix="tensortiff-floor-", dir=options.on) as folder:
        try:
            place = Place(Path(folder))
            if options.guard:
                return guard(place, options)
            everything(place, options)
        finally:
            # To delete takes long on some disks; who ends it then would leave gigabytes.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
