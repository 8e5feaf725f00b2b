#!/usr/bin/env python3
"""Renders node/assets/demo.png, the picture the demo starts from.

Everything in it is computed here, so it is free of anyone's rights; it is dedicated to the public
domain (CC0). Needs numpy and Pillow. The same versions give the same bytes.

    python scripts/dev/render-demo-image.py [OUTPUT]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 832, 480
SCALE = 2  # drawn at twice the size, then reduced: smooth edges
W, H = WIDTH * SCALE, HEIGHT * SCALE
HORIZON = int(H * 0.56)
SUN = (int(W * 0.86), int(H * 0.375))
rng = np.random.default_rng(2026)


def mix(a, b, t):
    """Linear blend of colours; t has any shape."""
    t = np.clip(np.asarray(t, np.float64), 0, 1)[..., None]
    return np.asarray(a, np.float64) * (1 - t) + np.asarray(b, np.float64) * t


def gradient(stops, t):
    """Piecewise linear colour ramp; stops are (position, colour)."""
    positions = [p for p, _ in stops]
    return np.stack([np.interp(t, positions, [c[k] for _, c in stops]) for k in range(3)], -1)


def noise(width, height, cells_x, cells_y):
    """Smooth noise in [0, 1]: random values on a coarse grid, cubic in between."""
    grid = rng.random((cells_y + 3, cells_x + 3))
    image = Image.fromarray((grid * 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.BICUBIC), np.float64) / 255


def ridge(base, height, roughness, seed):
    """Height of a mountain crest for each column: midpoint noise of falling amplitude."""
    local = np.random.default_rng(seed)
    x = np.linspace(0, 1, W)
    line = np.zeros(W)
    amplitude, cells = 1.0, 3
    for _ in range(8):
        knots = local.random(cells + 1)
        line += amplitude * np.interp(x, np.linspace(0, 1, cells + 1), knots)
        amplitude, cells = amplitude * roughness, cells * 2
    line = (line - line.min()) / (line.max() - line.min())
    return base - height * line


def sky():
    y, x = np.mgrid[0:HORIZON, 0:W].astype(np.float64)
    stops = [(0, (58, 92, 150)), (0.35, (126, 148, 190)), (0.65, (236, 180, 150)), (1, (255, 214, 150))]
    out = gradient(stops, y / HORIZON)
    distance = np.hypot(x - SUN[0], (y - SUN[1]) * 1.15) / H
    out = mix(out, (255, 232, 180), 0.75 * np.exp(-((distance / 0.20) ** 2)))
    out = mix(out, (255, 244, 214), 0.55 * np.exp(-((distance / 0.075) ** 2)))
    cloud = sum(noise(W, HORIZON, 5 * 2**k, 9 * 2**k) / 2**k for k in range(5)) / 1.94
    band = np.exp(-(((y / HORIZON - 0.36) / 0.26) ** 2))
    cover = np.clip((cloud - 0.50) * 4.2, 0, 1) * band
    lit = mix((214, 170, 176), (255, 226, 190), np.clip(1.2 - 2.2 * distance, 0, 1))
    out = out * (1 - 0.72 * cover[..., None]) + lit * (0.72 * cover[..., None])
    disc = np.clip((0.042 - distance) * H / 2.0, 0, 1)
    return blend(out, (255, 250, 232), disc)


def blend(image, color, cover):
    """Lays a colour over an image, cover in [0, 1] per pixel."""
    return image * (1 - cover[..., None]) + np.asarray(color, np.float64) * cover[..., None]


def mountains(image):
    """Three ranges, the far ones paler; light from the sun's side."""
    y = np.arange(HORIZON)[:, None]
    ranges = [
        (ridge(HORIZON * 0.98, H * 0.27, 0.50, 11), (150, 150, 186), (246, 206, 182), True),
        (ridge(HORIZON * 1.00, H * 0.17, 0.52, 23), (98, 108, 146), (206, 164, 152), False),
        (ridge(HORIZON * 1.01, H * 0.085, 0.56, 37), (54, 74, 92), (112, 104, 96), False),
    ]
    for crest, shade, light, snow in ranges:
        depth = y - crest[None, :]
        inside = np.clip(depth + 0.5, 0, 1)
        smooth = np.convolve(np.pad(crest, 64, mode="edge"), np.hanning(49) / 24, "same")[64:-64]
        slope = np.gradient(smooth)
        texture = 0.7 * noise(W, HORIZON, 40, 26) + 0.3 * noise(W, HORIZON, 130, 90) - 0.5
        # Spurs run down and away from the light: the slope is read along a slant, bent by the texture.
        slant = np.arange(W)[None, :] + 0.55 * np.maximum(depth, 0) + 70 * texture
        facing = 0.45 + 0.75 * slope[np.clip(slant, 0, W - 1).astype(int)]
        lit = np.clip(facing + 0.55 * texture, 0, 1)
        color = mix(shade, light, lit)
        if snow:
            cap = np.clip((H * 0.10 + 46 * texture - depth) / 26, 0, 1)
            cap = cap * np.clip((HORIZON * 0.80 - crest) / 40, 0, 1)[None, :]
            color = color * (1 - cap[..., None]) + mix((196, 200, 226), (255, 244, 232), lit) * cap[..., None]
        haze = np.clip(depth / (H * 0.30), 0, 1) * 0.45
        color = blend(color, (250, 208, 168), haze)
        image = image * (1 - inside[..., None]) + color * inside[..., None]
    return image


def forest(image):
    """A dark line of conifers along the far shore."""
    layer = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(layer)
    for x in range(-10, W + 10, 5):
        edge = abs(x / W - 0.66)
        height = H * (0.010 + 0.075 * np.clip(edge - 0.16, 0, 1) ** 0.9) * (0.65 + 0.7 * rng.random())
        half = 3.0 + height * 0.15
        tone = int(10 * rng.random())
        color = (26 + tone, 46 + tone, 48 + tone)
        for k in range(3):
            top = HORIZON - height * (1 - 0.27 * k)
            low = HORIZON - height * (0.46 - 0.23 * k)
            wide = half * (0.55 + 0.25 * k)
            draw.polygon([(x, top), (x - wide, low + 2), (x + wide, low + 2)], fill=color)
        draw.rectangle([x - 3, HORIZON - height * 0.2, x + 3, HORIZON], fill=color)
    return np.asarray(layer, np.float64)


def water(upper):
    """The upper half mirrored through ripples, darker and bluer towards the viewer."""
    rows = H - HORIZON
    y, x = np.mgrid[0:rows, 0:W].astype(np.float64)
    near = y / rows
    swell = sum(noise(W, rows, 6 * 2**k, 26 * 2**k) / 1.6**k for k in range(4)) / 2.26 - 0.5
    period = 5 + 42 * near**1.2
    wave = np.sin(np.cumsum(2 * np.pi / period[:, :1], axis=0) + 9 * swell + x / W * 3)
    source_y = HORIZON - 1 - y * 0.96 + (2 + 26 * near) * (0.45 * wave + 1.5 * swell)
    source_x = x + (1 + 14 * near) * (swell + 0.25 * wave)
    yi = np.clip(source_y, 0, HORIZON - 1).astype(int)
    xi = np.clip(source_x, 0, W - 1).astype(int)
    out = upper[yi, xi] * 0.88
    out = blend(out, (34, 66, 100), 0.14 + 0.50 * near**1.1)
    out = blend(out, (150, 168, 196), np.clip(0.20 * wave * (0.4 + near) + 0.28 * swell, 0, 0.3))
    # The sun's path, widening towards the viewer.
    width = W * (0.020 + 0.062 * near)
    glint = np.exp(-(((x - SUN[0]) / width) ** 2)) * np.clip(0.62 * wave + 2.4 * swell + 0.35, 0, 1)
    out = blend(out, (255, 226, 168), 0.85 * glint * (1 - 0.45 * near))
    shore = np.clip(1 - y / 5, 0, 1)
    return blend(out, (238, 206, 172), 0.45 * shore)


def boat(image):
    """A small sailing boat with its broken reflection."""
    cx, waterline, size = int(W * 0.36), int(H * 0.735), H * 0.30
    layer = Image.new("RGBA", (W, H), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    mast_x, top, deck = cx + size * 0.02, waterline - size, waterline - size * 0.13

    def curve(a, b, c, steps=40):
        t = np.linspace(0, 1, steps)[:, None]
        points = (1 - t) ** 2 * np.array(a) + 2 * t * (1 - t) * np.array(b) + t**2 * np.array(c)
        return [tuple(p) for p in points]

    main_foot = (mast_x - size * 0.37, deck - size * 0.075)
    leech = curve(main_foot, (mast_x - size * 0.30, top + size * 0.36), (mast_x - 3, top + 6))
    draw.polygon([(mast_x - 3, top + 6), (mast_x - 3, deck - size * 0.05), main_foot, *leech],
                 fill=(252, 240, 220, 255))
    for k in (0.28, 0.5, 0.72):
        x = mast_x - 3 - (size * 0.36) * k**0.75
        level = top + (deck - top) * k
        draw.line([(x, level + 4), (mast_x - 3, level - 2)], fill=(216, 196, 178, 255), width=2)
    bow = (cx + size * 0.335, deck + size * 0.005)
    luff = curve((mast_x + 3, top + size * 0.12), (mast_x + size * 0.20, top + size * 0.50), bow)
    inner = curve(bow, (mast_x + size * 0.12, deck - size * 0.08), (mast_x + 4, deck - size * 0.06))
    draw.polygon([*luff, *inner], fill=(226, 96, 70, 255))
    draw.line([(mast_x, top - 6), (mast_x, deck + 6)], fill=(92, 62, 44, 255), width=5)
    draw.line([(mast_x, deck - size * 0.055), main_foot], fill=(92, 62, 44, 255), width=4)
    draw.polygon([(mast_x, top - 6), (mast_x - 24, top - 1), (mast_x, top + 5)], fill=(226, 96, 70, 255))
    left, right = cx - size * 0.40, cx + size * 0.385
    keel = curve((right, deck - 2), (cx + size * 0.20, waterline + 10), (cx - size * 0.02, waterline + 8))
    stern = curve((cx - size * 0.02, waterline + 8), (cx - size * 0.30, waterline + 8), (left, deck + 4))
    draw.polygon([*keel, *stern], fill=(250, 246, 238, 255))
    stripe = [(left, deck + 4), (right, deck - 2), (right - 10, deck + 9), (left + 4, deck + 14)]
    draw.polygon(stripe, fill=(44, 84, 122, 255))
    draw.polygon([(cx - size * 0.16, deck + 2), (cx - size * 0.13, deck - size * 0.05),
                  (cx + size * 0.10, deck - size * 0.055), (cx + size * 0.14, deck)],
                 fill=(176, 118, 78, 255))
    pixels = np.asarray(layer, np.float64)
    color, alpha = pixels[..., :3], pixels[..., 3] / 255

    # Reflection: flipped about the waterline, shortened, shaken by the ripples.
    y, x = np.mgrid[0:H, 0:W].astype(np.float64)
    depth = y - (waterline + 4)
    shake = np.sin(depth / 4.2 + 4 * np.sin(x / 60)) * (1.5 + depth / 18)
    sy = np.clip(waterline + 4 - depth * 1.15, 0, H - 1).astype(int)
    sx = np.clip(x + shake, 0, W - 1).astype(int)
    mirror = alpha[sy, sx] * (depth > 0) * np.clip(1 - depth / (size * 0.95), 0, 1) * 0.62
    image = image * (1 - mirror[..., None]) + color[sy, sx] * 0.86 * mirror[..., None]
    shadow = np.exp(-(((x - cx) / (size * 0.36)) ** 2) - ((depth / 7) ** 2))
    image = blend(image, (26, 48, 70), 0.5 * shadow * (depth > -4))
    return image * (1 - alpha[..., None]) + color * alpha[..., None]


def birds(image):
    layer = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(layer)
    for fx, fy, span in [(0.20, 0.16, 17), (0.245, 0.135, 13), (0.27, 0.185, 12), (0.32, 0.15, 10)]:
        x, y = fx * W, fy * H
        draw.line([(x - span, y - span * 0.35), (x - span * 0.45, y - span * 0.55), (x, y),
                   (x + span * 0.45, y - span * 0.6), (x + span, y - span * 0.3)],
                  fill=(52, 58, 84), width=3, joint="curve")
    return np.asarray(layer, np.float64)


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "node/assets/demo.png"
    upper = forest(mountains(sky()))
    scene = np.concatenate([upper, water(upper)])
    scene = birds(boat(scene))
    picture = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(0.8)).resize((WIDTH, HEIGHT), Image.LANCZOS)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output, optimize=True)
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
