"""What GDAL (by rasterio) says of a file of --profile gis, against the samples that it is of.

    gdal.py FILE SAMPLES HEIGHT WIDTH       SAMPLES: little-endian f32 or f64, raw

Prints nothing and ends with 0 if scale, offset, no data, statistics and tiles are right.
"""
import sys
import warnings

import numpy
import rasterio

warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)


def main(file, samples, height, width):
    raw = numpy.fromfile(samples, "u1")
    wide = len(raw) == 8 * int(height) * int(width)
    samples = raw.view("<f8" if wide else "<f4").reshape(int(height), int(width)).astype("f8")
    finite = samples[numpy.isfinite(samples)]
    low, high = finite.min(), finite.max()
    with rasterio.open(file) as image:
        (scale,), (offset,), tags = image.scales, image.offsets, image.tags(1)
        assert numpy.isnan(image.nodata), image.nodata
        assert image.block_shapes == [(256, 256)], image.block_shapes
        pixels = image.read(1).astype("f8")
        # As the README has it.
        undone = image.read(1).astype("float64") * image.scales[0] + image.offsets[0]
        masked = image.read(1, masked=True)
    with numpy.errstate(over="ignore"):
        width = numpy.float64(numpy.float32(high) - numpy.float32(low))
    width = high - low if wide or numpy.isinf(width) else width
    # A wide image's width is rounded as its pixels are.
    assert offset == low and abs(scale - width) <= width * 2.0**-24 * wide, (offset, scale, low, high)
    found = [float(tags[f"STATISTICS_{name}"]) for name in ["MINIMUM", "MAXIMUM"]]
    shown = pixels[numpy.isfinite(pixels)]
    assert found == [shown.min(), shown.max()], (found, shown.min(), shown.max())
    assert (numpy.ma.getmaskarray(masked) == numpy.isnan(samples)).all()
    is_finite = numpy.isfinite(samples)
    error = numpy.abs(undone[is_finite] - samples[is_finite]).max()
    assert error <= (high - low) * 2.0**-23, (error, high - low)


if __name__ == "__main__":
    main(*sys.argv[1:])
