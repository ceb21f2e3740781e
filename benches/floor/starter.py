"""Starts programs and says what they took: a process of its own, as the peak of memory that the system
tells of a program is never less than that of who started it.

    python3 -I -S starter.py

Reads command lines from stdin, each a line of JSON, and answers each with a line: status, seconds from
`posix_spawn` to `wait4`, processor seconds, peak KiB, and when it was started.
"""
import json
import os
import signal
import sys
import time


def main():
    """See above."""
    child = None

    def end(*_):
        if child is not None:
            os.kill(child, signal.SIGKILL)
        os._exit(143)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        words = json.loads(line)
        begun, start = time.time(), time.perf_counter()
        child = os.posix_spawn(words[0], words, os.environ, setsigdef=[signal.SIGINT])
        _, status, usage = os.wait4(child, 0)
        took, child = time.perf_counter() - start, None
        answer = [status, took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, begun]
        print(json.dumps(answer), flush=True)


main()
