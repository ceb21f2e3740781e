#!/usr/bin/env python3
"""Opens every .tif below a folder as people do, and holds the pixels against expected ones.

    check.py OUT EXPECTED.json [--json]

EXPECTED.json: {"relative/name.tif": {"shape": [h, w] or of a stack [n, h, w], "display": [min, max],
"at": byte in EXPECTED.bin}}, where the pixels lie as little-endian f32. Exits 1 and says why if any reader sees other pixels, another dtype or shape, another
display range, or prints a warning. With --json it says of each reader how many files it opened right and
what was wrong, and leaves the judgement to who called it.
"""

import io
import json
import logging
import os
import sys
import tempfile
import warnings

import cv2
import imageio.v3
import jpype
import numpy as np
import pyvips
import rasterio
import skimage.io
import tifffile
from PIL import Image

warnings.simplefilter("error")
# Not of the files: rasterio says so of all that is no map.
warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
Image.MAX_IMAGE_PIXELS = None
JAR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../.venv/imagej/ij.jar")


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


def with_tifffile(path, _):
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


def with_pillow(path, _):
    with Image.open(path) as image:
        assert image.mode == "F", f"mode {image.mode}"
        return np.asarray(image)


def with_opencv(path, _):
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, "imread gave None"
    return pixels


def with_gdal(path, _):
    with rasterio.open(path) as file:
        assert file.driver == "GTiff" and file.count == 1, f"{file.driver}, {file.count} bands"
        return file.read(1)


def with_skimage(path, _):
    return skimage.io.imread(path)


def with_imageio(path, _):
    return imageio.v3.imread(path)


def with_libvips(path, _):
    image = pyvips.Image.new_from_file(path, access="sequential")
    assert image.format == "float" and image.bands == 1, f"{image.bands} bands of {image.format}"
    return image.numpy().reshape(image.height, image.width)


def with_imagej(path, display):
    image = opened_by_imagej(path)
    assert image.getBitDepth() == 32 and image.getStackSize() == 1, f"{image}"
    shown = (image.getDisplayRangeMin(), image.getDisplayRangeMax())
    assert shown == display, f"the display range is {shown}, not {display}"
    pixels = np.array(image.getProcessor().getPixels())
    return pixels.reshape(image.getHeight(), image.getWidth())


def opened_by_imagej(path):
    """As File > Open does, without a window."""
    if not jpype.isJVMStarted():
        assert os.path.exists(JAR), f"no {JAR}: run scripts/test, which fetches it"
        jpype.startJVM("-Djava.awt.headless=true", "-Xmx2g", classpath=[JAR])
    opener = jpype.JClass("ij.io.Opener")()
    opener.setSilentMode(True)
    image = opener.openImage(path)
    assert image is not None, "openImage gave null"
    return image


def tifffile_stack(path, _):
    with tifffile.TiffFile(path) as file:
        pages = len(file.pages)
        hint = file.imagej_metadata
        assert hint and hint["images"] == hint["slices"] == pages, f"{pages} pages: {hint}"
        assert hint["min"] < hint["max"], f"no display range: {hint}"
        assert len(file.series) == 1, f"{len(file.series)} series"
        each = np.stack([page.asarray() for page in file.pages])
        whole = file.asarray()
        assert (each.view(np.uint32) == whole.view(np.uint32)).all(), "pages are not the series"
    return np.array(tifffile.memmap(path, mode="r"))


def pillow_stack(path, _):
    with Image.open(path) as image:
        pages = []
        for page in range(image.n_frames):
            image.seek(page)
            assert image.mode == "F", f"mode {image.mode}"
            pages.append(np.array(image))
    return np.stack(pages)


def opencv_stack(path, _):
    opened, pages = cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)
    assert opened, "imreadmulti gave False"
    return np.stack(pages)


def gdal_stack(path, _):
    with rasterio.open(path) as file:
        pages = len(file.subdatasets)
    each = []
    for page in range(pages):
        with rasterio.open(f"GTIFF_DIR:{page + 1}:{path}") as file:
            each.append(file.read(1))
    return np.stack(each)


def libvips_stack(path, _):
    image = pyvips.Image.new_from_file(path, n=-1, access="sequential")
    assert image.format == "float" and image.bands == 1, f"{image.bands} bands of {image.format}"
    height = image.get("page-height")
    return image.numpy().reshape(image.height // height, height, image.width)


def imagej_stack(path, display):
    image = opened_by_imagej(path)
    assert image.getBitDepth() == 32 and image.getNSlices() == image.getStackSize(), f"{image}"
    shown = (image.getDisplayRangeMin(), image.getDisplayRangeMax())
    assert shown == display, f"the display range is {shown}, not {display}"
    stack = image.getStack()
    pages = [np.array(stack.getProcessor(k + 1).getPixels()) for k in range(stack.getSize())]
    return np.stack(pages).reshape(-1, image.getHeight(), image.getWidth())


READERS = {
    "tifffile": with_tifffile,
    "Pillow": with_pillow,
    "OpenCV": with_opencv,
    "GDAL": with_gdal,
    "scikit-image": with_skimage,
    "imageio": with_imageio,
    "libvips": with_libvips,
    "ImageJ": with_imagej,
}


STACKS = {
    "tifffile": tifffile_stack,
    "Pillow": pillow_stack,
    "OpenCV": opencv_stack,
    "GDAL": gdal_stack,
    "scikit-image": with_skimage,
    "imageio": with_imageio,
    "libvips": libvips_stack,
    "ImageJ": imagej_stack,
}


def main(out, expected_path, *options):
    with open(expected_path) as file:
        expected = json.load(file)
    pixels = np.memmap(expected_path.removesuffix("json") + "bin", "<u4", "r") if expected else []
    found = {
        os.path.relpath(os.path.join(folder, name), out)
        for folder, _, names in os.walk(out)
        for name in names
    }
    problems = [f"{name}: unexpected file" for name in sorted(found - set(expected))]
    log = io.StringIO()
    # What any library logs is a warning, too.
    handler = logging.StreamHandler(log)
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    results = {reader: {"right": 0, "problems": []} for reader in READERS}
    for name, want in sorted(expected.items()):
        path = os.path.join(out, name)
        shape = want["shape"]
        begin = want["at"] // 4
        wanted = np.asarray(pixels[begin : begin + np.prod(shape)]).reshape(shape)
        for reader, read in (READERS if len(shape) == 2 else STACKS).items():
            try:
                with CapturedStderr() as captured:
                    seen = read(path, tuple(want["display"]))
                assert seen.dtype == np.float32, f"dtype {seen.dtype}"
                assert seen.shape == wanted.shape, f"shape {seen.shape}"
                same = np.ascontiguousarray(seen).view(np.uint32) == wanted
                assert same.all(), f"{(~same).sum()} pixels differ"
                said = (captured.text + log.getvalue()).strip()
                assert not said, f"printed: {said}"
                results[reader]["right"] += 1
            except Exception as problem:  # whatever a reader throws is the finding
                told = f"{name}: {reader}: {type(problem).__name__}: {problem}"
                results[reader]["problems"].append(told)
                problems.append(told)
            log.seek(0)
            log.truncate()
    if "--json" in options:
        print(json.dumps({"files": len(expected), "readers": results}))
        return 0
    opened = sum(result["right"] for result in results.values())
    print("\n".join(problems[:40] + [f"{opened} readings of {len(expected)} files were right"]))
    return 1 if problems or opened != len(READERS) * len(expected) or not expected else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
