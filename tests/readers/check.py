#!/usr/bin/env python3
"""Opens every .tif below a folder as people do, and holds the pixels against expected ones.

    check.py OUT EXPECTED.json

EXPECTED.json: {"relative/name.tif": {"shape": [h, w], "bits": "<base64 of little-endian f32>"}}.
Exits 1 and says why if any reader sees other pixels, another dtype or shape, or prints a warning.
"""

import base64
import io
import json
import logging
import os
import sys
import tempfile
import warnings

import cv2
import numpy as np
import tifffile
from PIL import Image

warnings.simplefilter("error")
Image.MAX_IMAGE_PIXELS = None


class CapturedStderr:
    """What C libraries print goes to a file instead."""

    def __enter__(self):
        sys.stderr.flush()
        self.saved = os.dup(2)
        self.file = tempfile.TemporaryFile()
        os.dup2(self.file.fileno(), 2)
        return self

    def __exit__(self, *_):
        sys.stderr.flush()
        os.dup2(self.saved, 2)
        os.close(self.saved)
        self.file.seek(0)
        self.text = self.file.read().decode(errors="replace")
        self.file.close()


def with_tifffile(path):
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1, "one page"
        hint = file.imagej_metadata
        assert hint and hint["min"] < hint["max"], f"no display range: {hint}"
        description = file.pages[0].description
        line = next(l for l in description.splitlines() if l.startswith("tensortiff="))
        about = json.loads(line.removeprefix("tensortiff="))
        wanted = ["v", "tensor", "index", "dtype", "norm", "scope", "lo", "hi", "nan", "inf"]
        assert list(about) == wanted, f"keys {list(about)}"
        return file.asarray()


def with_pillow(path):
    with Image.open(path) as image:
        assert image.mode == "F", f"mode {image.mode}"
        return np.asarray(image)


def with_opencv(path):
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, "imread gave None"
    return pixels


READERS = {"tifffile": with_tifffile, "Pillow": with_pillow, "OpenCV": with_opencv}


def main(out, expected_path):
    with open(expected_path) as file:
        expected = json.load(file)
    found = {
        os.path.relpath(os.path.join(folder, name), out)
        for folder, _, names in os.walk(out)
        for name in names
    }
    problems = [f"{name}: unexpected file" for name in sorted(found - set(expected))]
    log = io.StringIO()
    logging.getLogger("tifffile").addHandler(logging.StreamHandler(log))
    opened = 0
    for name, want in sorted(expected.items()):
        path = os.path.join(out, name)
        pixels_wanted = np.frombuffer(base64.b64decode(want["bits"]), "<u4").reshape(want["shape"])
        for reader, read in READERS.items():
            try:
                with CapturedStderr() as captured:
                    pixels = read(path)
                assert pixels.dtype == np.float32, f"dtype {pixels.dtype}"
                assert pixels.shape == pixels_wanted.shape, f"shape {pixels.shape}"
                same = np.ascontiguousarray(pixels).view(np.uint32) == pixels_wanted
                assert same.all(), f"{(~same).sum()} pixels differ"
                said = (captured.text + log.getvalue()).strip()
                assert not said, f"printed: {said}"
                opened += 1
            except Exception as problem:  # whatever a reader throws is the finding
                problems.append(f"{name}: {reader}: {type(problem).__name__}: {problem}")
            log.seek(0)
            log.truncate()
    print("\n".join(problems[:40] + [f"{opened} readings of {len(expected)} files were right"]))
    return 1 if problems or opened != len(READERS) * len(expected) or not expected else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
