#!/usr/bin/env python3
"""Makes docs/sample.png from what `tensortiff convert data/minilm.safetensors -o out` wrote.

    make-picture.py out docs/sample.png
"""

import sys

import numpy as np
from PIL import Image, ImageDraw

out, target = sys.argv[1:]
GAP, LABEL = 8, 16
WIDTH = 12 * 64 + 11 * GAP


def tile(path, scale_x, scale_y):
    pixels = np.asarray(Image.open(f"{out}/minilm/{path}"))
    grey = Image.fromarray((pixels * 255).round().astype(np.uint8))
    return grey.resize((grey.width * scale_x, grey.height * scale_y), Image.Resampling.NEAREST)


rows = []
for layer in (0, 2, 5):
    name = f"encoder.layer.{layer}.attention.probs"
    rows.append((f"{name}/1_00.tif … 1_11.tif", [tile(f"{name}/1_{head:02}.tif", 2, 2) for head in range(12)]))
for layer in (0, 6):
    name = f"encoder.layer.{layer}.hidden"
    rows.append((f"{name}/1.tif", [tile(f"{name}/1.tif", 2, 2)]))

height = sum(LABEL + tiles[0].height + GAP for _, tiles in rows)
sheet = Image.new("L", (WIDTH + 2 * GAP, height + GAP), 255)
draw = ImageDraw.Draw(sheet)
y = GAP
for label, tiles in rows:
    draw.text((GAP, y), label, fill=0)
    y += LABEL
    x = GAP
    for image in tiles:
        sheet.paste(image, (x, y))
        x += image.width + GAP
    y += tiles[0].height + GAP
sheet.save(target, optimize=True)
