"""What is asked of tensortiff, and whether a run's figures meet it."""
from statistics import median

# Time on a memory file system, as a multiple of the floor's.
TIMES = {"MEDIUM": 1.1, "BF16": 1.1, "F16": 1.1, "LARGE": 1.15, "TINY": 1.3, "MIXED": 1.3}
# Time as a multiple of the plain program's; more where "whole or absent" costs system calls.
PLAIN, PLAIN_MEMORY = 1.0, {"TINY": 1.1, "MIXED": 1.1}
# `auto` as a multiple of the better of these: the same, but for what two runs differ by.
AUTO, ALONE = 1.05, ["tensortiff-cpu", "tensortiff-gpu"]
# Peak memory: this, and two images for each thread.
MEMORY = 64 << 20
# Seconds from the start to the first file.
FIRST = 0.020

# That of a program whose images share a range: everything is read once before.
AGAIN = "floor-again"
# Time as a multiple of it.
WIDE = 1.1
# Compressed files: their floor is the codec (benches/packing.py), not a copy.
PACKED = "tensortiff-deflate"
# Programs that have no target here.
UNJUDGED = ["tensortiff-percentile", PACKED]
# Floors that a program can reach which must know an image's extent before it writes.
FLOORS = ["floor-whole", "floor-vector", "floor-twice"]
# And those that it can reach where it need not.
FREE_FLOORS = [*FLOORS, "floor-steps"]


def seconds(rows):
    """Times of all rounds."""
    return [row["seconds"] for row in rows]


def ratios(figures, program, other, what="seconds"):
    """A program's times, or processor times (`cpu`), over another's in the same round."""
    return [a[what] / b[what] for a, b in zip(figures[program], figures[other])]


def best(figures, floors, what="seconds"):
    """The floor of the least median."""
    there = [name for name in floors if name in figures]
    return min(there, key=lambda name: median(row[what] for row in figures[name]))


def verdicts(name, figures, *, memory, threads, image):
    """(what, measured, allowed, met) for a set whose largest image has `image` bytes of pixels.

    Of a ratio to a floor there are two: to the best that knows extents, and to the best of all.
    """
    found = []

    def add(what, measured, allowed, unit="x"):
        found.append((what, measured, allowed, unit, measured <= allowed))

    floors = {"floor": best(figures, FREE_FLOORS), "extent floor": best(figures, FLOORS)}
    for program in [p for p in figures if p.startswith("tensortiff")]:
        mine = figures[program]
        if program in UNJUDGED:
            continue
        if program == "tensortiff-wide":
            if AGAIN in figures and memory:
                add(f"{program} / {AGAIN}", median(ratios(figures, program, AGAIN)), WIDE)
            continue
        none = program == "tensortiff-none"
        for word, floor in floors.items():
            if none and word != "floor":
                continue
            if memory and not none and name in TIMES:
                add(f"{program} / {word}", median(ratios(figures, program, floor)), TIMES[name])
            elif none or not memory:
                # Within its spread, of which the slowest round is left out where there are five: what
                # else the disk did in it says nothing of the floor.
                times = sorted(seconds(figures[floor]))
                slowest = times[-2 if len(times) >= 5 else -1]
                add(f"{program}, {word}'s slow rounds", median(seconds(mine)), slowest, "s")
        if "plain" in figures and not none:
            allowed = PLAIN_MEMORY.get(name, PLAIN) if memory else PLAIN
            add(f"{program} / plain", median(ratios(figures, program, "plain")), allowed)
        peak = max(row["rss_kib"] for row in mine) / 1024
        if program == "tensortiff-cpu":
            add(f"{program}, peak memory", peak, (MEMORY + 2 * threads * image) / 2**20, "MiB")
        if not none:
            first = median(row["first"] for row in mine)
            add(f"{program}, first file", 1000 * first, 1000 * FIRST, "ms")
    alone = [program for program in ALONE if program in figures]
    if alone and "tensortiff-auto" in figures:
        better = best(figures, alone)
        both = ratios(figures, "tensortiff-auto", better)
        add(f"tensortiff-auto / {better}", median(both), AUTO)
    return found


def report(name, found):
    """Prints a set's verdicts."""
    for what, measured, allowed, unit, met in found:
        digits = {"x": 2, "s": 3, "ms": 1, "MiB": 0}[unit]
        text = f"{measured:.{digits}f} of {allowed:.{digits}f} {unit}"
        print(f"{name:8}{what:36}{text:>22}  {'met' if met else 'MISSED'}")
