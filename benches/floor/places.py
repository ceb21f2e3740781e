"""Where programs are measured: memory, and disks."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Bytes of a disk that stay free.
SPARE = 4 << 30
# File systems that are memory, as `stat` calls them.
MEMORY = ["tmpfs", "ramfs"]


class Place:
    """A folder in which programs run, each into a fresh folder below, and who starts them."""

    def __init__(self, folder, named, is_first, starter):
        self.folder, self.named, self.is_first, self.starter = folder, named, is_first, starter
        self.memory = filesystem(folder) in MEMORY
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


def roomy():
    """Memory where there is enough of it, as not in every container."""
    shm = Path("/dev/shm")
    there = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 3 << 30
    return shm if there else Path(tempfile.gettempdir())


def disk(folders):
    """The first of these folders that is on a disk, where one has to look for it."""
    for folder in folders:
        if folder.is_dir() and os.access(folder, os.W_OK):
            if filesystem(folder) not in MEMORY:
                return folder
    return None
