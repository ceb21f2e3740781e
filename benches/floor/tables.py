"""Figures as text: for the eye while they come, and as Markdown for a record."""
import os
from statistics import median

from verdicts import FLOORS, FREE_FLOORS, best, ratios, seconds


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


def scaled(figures):
    """Lines that say how much faster more threads are; figures by `PROGRAM -j THREADS`."""
    found = {}
    for key, rows in figures.items():
        name, threads = key.split(" -j ")
        found.setdefault(name, {})[threads] = median(seconds(rows))
    for name, times in found.items():
        one = times["1"]
        shown = [f"{n}: {t:.3f} s ({one / t:.2f}x)" for n, t in times.items()]
        yield f"threads, {name:15}" + "   ".join(shown)


def markdown(saved):
    """What a record needs of a whole run."""
    command = " ".join(saved["command"])
    lines = [
        f"{saved['cpu']}, {saved['cores']} cores, {saved['memory'] >> 30} GiB, {saved['system']}; commit "
        f"{saved['commit']}, {saved['date']}.",
        f"`{command}`: seconds of whole processes with {saved['threads']} threads, median (range) of"
        f" {saved['rounds']} interleaved rounds, of fewer where the number is told in brackets.",
    ]
    if saved["quick"]:
        lines.append("**A sixteenth of the data: a check that this works, no measurement.**")
    for place in saved["places"]:
        lines += ["", *of_place(place, saved["rounds"])]
    return "\n".join(lines) + "\n"


def of_place(place, rounds):
    """One place's times, ratios and verdicts."""
    sets = {name: one["figures"] for name, one in place["sets"].items()}
    programs = list(dict.fromkeys(program for figures in sets.values() for program in figures))
    kind = "in memory" if place["memory"] else "on a disk"
    yield f"## {kind.capitalize()} ({place['on']}, {place['filesystem']})"
    yield ""
    yield from rows(["s", *programs], [
        [name, *[timed(figures.get(program), rounds) for program in programs]]
        for name, figures in sets.items()
    ])
    yield ""
    yield "Median ratio in a round (range) to the floor of the least median, and to that of those that know extents:"
    yield ""
    others = [program for program in programs if not program.startswith("floor")]
    yield from rows(["x", "floor, of those that know", "load average", *others], [
        [name, f"{best(figures, FREE_FLOORS)}, {best(figures, FLOORS)}",
         " to ".join(f"{load[0]:.1f}" for load in place["sets"][name]["load"]),
         *[compared(figures, program) for program in others]]
        for name, figures in sets.items()
    ])
    lines = [(name, line) for name, one in place["sets"].items() if one["scaling"]
             for line in scaled(one["scaling"])]
    if lines:
        yield ""
        yield from rows(["set", "threads"], [[name, line] for name, line in lines])
    yield ""
    yield from rows(["set", "target", "measured", "allowed", ""], [
        [name, what, f"{measured:.3g} {unit}", f"{allowed:.3g} {unit}", "met" if met else "**missed**"]
        for name, one in place["sets"].items()
        for what, measured, allowed, unit, met in one["verdicts"]
    ])


def rows(head, body):
    """A table's lines; all columns but the first are numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for row in body:
        yield "| " + " | ".join(row) + " |"


def timed(figures, rounds):
    """Median and range of a program's times; nothing of one that did not run on a set."""
    if not figures:
        return ""
    times = seconds(figures)
    few = f" [{len(times)}]" if len(times) < rounds else ""
    return f"{median(times):.3f} ({span(times, 3)}){few}"


def compared(figures, program):
    """Ratios to both floors."""
    if program not in figures:
        return ""
    free, floor = (ratios(figures, program, best(figures, floors)) for floors in [FREE_FLOORS, FLOORS])
    return f"{median(free):.2f} ({span(free, 2)}), {median(floor):.2f}"
