#!/usr/bin/env python3
"""Reference pictures for node/tests/media_*.rs, made with Pillow and torch.

    python scripts/golden/media.py        (needs numpy, Pillow, torch)

Writes small encoded pictures and `reference.json` (checksums of resampled pictures, pixels of decoded
ones) to node/tests/data/media.
"""

import io
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

OUT = Path(__file__).parents[2] / "node/tests/data/media"
RESIZES = [
    (64, 48, 33, 17), (17, 31, 64, 80), (100, 7, 7, 100), (5, 5, 1, 1), (1, 1, 9, 4), (33, 48, 33, 20),
    (33, 48, 50, 48), (801, 3, 2, 2), (640, 360, 832, 480), (1000, 701, 832, 480), (333, 777, 512, 320),
    (120, 210, 104, 60), (90, 90, 60, 31), (90, 90, 60, 30), (90, 90, 60, 29),
]


def noise(width, height, seed):
    """The same bytes as `noise` in the Rust test: a linear congruential generator's high bytes."""
    state, out = seed, bytearray()
    for _ in range(width * height * 3):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(state >> 24)
    return np.frombuffer(bytes(out), np.uint8).reshape(height, width, 3)


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([128 + 90 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), (x * 5 + y * 3) % 200], -1).astype(np.uint8)


def encoded(name, image, **options):
    path = OUT / name
    image.save(path, **options)
    decoded = Image.open(path).convert("RGB")
    pixels = np.asarray(decoded)
    return {"width": decoded.width, "height": decoded.height, "pixels": pixels.reshape(-1).tolist()}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    resizes = []
    for index, (iw, ih, ow, oh) in enumerate(RESIZES):
        image = Image.fromarray(noise(iw, ih, index + 1))
        resizes.append({
            "from": [iw, ih], "to": [ow, oh], "seed": index + 1,
            "bicubic": zlib.crc32(image.resize((ow, oh), Image.BICUBIC).tobytes()),
            "lanczos": zlib.crc32(image.resize((ow, oh), Image.LANCZOS).tobytes()),
        })
    bicubic = []
    for index, (iw, ih, ow, oh) in enumerate([(5, 4, 7, 6), (9, 7, 4, 3), (16, 9, 16, 5)]):
        planes = torch.from_numpy(noise(iw, ih, 100 + index).copy()).permute(2, 0, 1).float()
        planes = planes / 255 * 2 - 1
        out = torch.nn.functional.interpolate(planes[None], size=(oh, ow), mode="bicubic")[0]
        bicubic.append({"from": [iw, ih], "to": [ow, oh], "seed": 100 + index,
                        "values": [float(v) for v in out.flatten()]})
    picture = smooth(24, 16)
    rgb = Image.fromarray(picture)
    alpha = np.concatenate([picture, noise(24, 16, 9)[..., :1]], -1)
    decoded = {
        "rgb.jpg": encoded("rgb.jpg", rgb, quality=92, subsampling=0),
        "subsampled.jpg": encoded("subsampled.jpg", rgb, quality=92, subsampling=2),
        "grey.jpg": encoded("grey.jpg", rgb.convert("L"), quality=92),
        "progressive.jpg": encoded("progressive.jpg", rgb, quality=92, progressive=True),
        "cmyk.jpg": encoded("cmyk.jpg", rgb.convert("CMYK"), quality=95),
        "rgba.png": encoded("rgba.png", Image.fromarray(alpha)),
        "palette.png": encoded("palette.png", rgb.quantize(16), transparency=3),
        "bilevel.png": encoded("bilevel.png", rgb.convert("1")),
        "grey-alpha.png": encoded("grey-alpha.png", Image.fromarray(alpha).convert("LA")),
        "lossless.webp": encoded("lossless.webp", Image.fromarray(alpha), lossless=True, exact=True),
        "lossy.webp": encoded("lossy.webp", rgb, quality=90),
    }
    # YCCK: the same file with Adobe's transform byte set; Pillow writes CMYK only.
    data = bytearray((OUT / "cmyk.jpg").read_bytes())
    data[data.index(b"Adobe") + 11] = 2
    (OUT / "ycck.jpg").write_bytes(data)
    ycck = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    decoded["ycck.jpg"] = {"width": 24, "height": 16, "pixels": ycck.reshape(-1).tolist()}
    # Every EXIF orientation of one small picture.
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        rgb.crop((0, 0, 6, 4)).save(OUT / f"orientation-{orientation}.png", exif=exif)
    frames = [rgb, rgb.transpose(Image.FLIP_LEFT_RIGHT)]
    for name in ["animated.png", "animated.webp"]:
        frames[0].save(OUT / name, save_all=True, append_images=frames[1:], duration=100)
    rgb.save(OUT / "other.gif")
    reference = {"resize": resizes, "torch_bicubic": bicubic, "decoded": decoded}
    (OUT / "reference.json").write_text(json.dumps(reference, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
