"""Paints scenes: [frames, 3, height, width] in [0, 1], on the CPU, without files of its own but the photographs."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .scenes import COLOURS, FRAMES, GROUNDS, HEIGHT, WIDTH, Scene, Thing

# The background is painted once, larger than the frame, and then filmed.
WORLD_W, WORLD_H = 320, 224

PHOTOS = {
    "astronaut": ("astronaut.png", "NASA, public domain: portrait of Eileen Collins"),
    "cat": ("chelsea.png", "Stefan van der Walt, CC0: the cat Chelsea"),
    "rocket": ("rocket.jpg", "SpaceX, public domain: launch of DSCOVR"),
    "galaxies": ("hubble_deep_field.jpg", "NASA, public domain: Hubble eXtreme Deep Field"),
    "grass": ("grass.png", "CC0 texture"),
    "coffee": ("coffee.png", "Rachel Michetti, CC0: a cup of coffee"),
    "gravel": ("gravel.png", "CC0Textures, CC0: gravel"),
}
HELD_OUT_PHOTOS = ("coffee", "gravel")


def photo_folder() -> Path | None:
    """Where scikit-image keeps its pictures, or None without it. The package itself is not imported."""
    import importlib.util

    found = importlib.util.find_spec("skimage")
    folder = Path(found.origin).parent / "data" if found and found.origin else None
    return folder if folder and (folder / "astronaut.png").exists() else None


def photos(held_out: bool) -> tuple[str, ...]:
    """Names of the photographs for training, or of those kept for evaluation."""
    if photo_folder() is None:
        return ()
    return tuple(name for name in PHOTOS if (name in HELD_OUT_PHOTOS) == held_out)


@functools.cache
def _photo(name: str) -> Tensor:
    folder = photo_folder()
    if folder is None:
        raise FileNotFoundError("scikit-image is not installed: its pictures are the photographs")
    picture = Image.open(folder / PHOTOS[name][0]).convert("RGB")
    scale = max(400 / picture.width, 280 / picture.height)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _smooth(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    """Soft noise over the world, mean 0, about ±1."""
    coarse = torch.randn(1, 1, rows, columns, generator=generator)
    return F.interpolate(coarse, (WORLD_H, WORLD_W), mode="bicubic", align_corners=True)[0, 0]


def _soft(wave: Tensor, sharp: float) -> Tensor:
    """A wave in [-1, 1] as a soft step in [0, 1]."""
    return torch.sigmoid(wave * sharp)


def _ground(scene: Scene) -> Tensor:
    """The background [3, WORLD_H, WORLD_W]."""
    generator = torch.Generator().manual_seed(scene.seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    if scene.photo:
        picture = _photo(scene.photo)
        top = int(uniform(0, picture.shape[1] - WORLD_H + 0.999))
        left = int(uniform(0, picture.shape[2] - WORLD_W + 0.999))
        # A little less contrast and detail: objects must stand out.
        picture = picture[:, top : top + WORLD_H, left : left + WORLD_W]
        picture = F.avg_pool2d(picture[None], 5, 1, 2, count_include_pad=False)[0]
        return 0.15 + 0.7 * picture
    y, x = torch.meshgrid(torch.arange(WORLD_H) * 1.0, torch.arange(WORLD_W) * 1.0, indexing="ij")
    angle = uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    period = uniform(30, 46)
    kind = scene.background
    if kind == "plain":
        mix = torch.sigmoid((along - along.mean()) / uniform(60, 120))
    elif kind == "cloudy":
        mix = torch.sigmoid(1.4 * _smooth(generator, 6, 8) + 0.6 * _smooth(generator, 14, 20))
    elif kind == "striped":
        mix = _soft(torch.sin(2 * math.pi * along / period), 3)
    elif kind == "chequered":
        mix = _soft(torch.sin(math.pi * x / period * 1.3) * torch.sin(math.pi * y / period * 1.3), 4)
    elif kind == "dotted":
        waves = torch.cos(2 * math.pi * along / period) + torch.cos(2 * math.pi * across / period)
        mix = _soft(waves - 0.9, 3)
    elif kind == "brick":
        tall = uniform(22, 28)
        row = torch.floor(y / tall)
        inside_y = (y / tall - row - 0.5).abs()
        shifted = x / (2.2 * tall) + 0.5 * (row % 2)
        inside_x = (shifted - torch.floor(shifted) - 0.5).abs()
        mix = torch.sigmoid((0.42 - inside_y) * 26) * torch.sigmoid((0.455 - inside_x) * 52)
    else:  # wavy
        bent = along + 7 * torch.sin(2 * math.pi * across / uniform(60, 110))
        mix = 0.5 + 0.5 * torch.sin(2 * math.pi * bent / period)
    first, second = (torch.tensor(GROUNDS[name]).view(3, 1, 1) for name in scene.ground)
    # Contrast within the pattern is kept moderate.
    second = first + (second - first) * uniform(0.45, 0.75)
    picture = first + (second - first) * mix
    return (picture + 0.035 * _smooth(generator, 9, 13)).clamp(0, 1)


def _distance(shape: str, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the outline of a shape of radius 1: negative inside. Roughly metric near the outline."""
    r = torch.sqrt(u * u + v * v + 1e-8)
    if shape == "circle":
        return r - 0.95
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.82
    if shape == "triangle":
        return torch.maximum(v - 0.62, u.abs() * 0.866 - v * 0.5 - 0.5)
    if shape == "ring":
        return (r - 0.72).abs() - 0.26
    if shape == "cross":
        a, b = u.abs(), v.abs()
        return torch.maximum(torch.maximum(a, b) - 0.95, torch.minimum(a, b) - 0.34)
    if shape == "heart":
        a, b = u.abs() * 1.05, -v + 0.12
        return torch.sqrt(a.square() + (b - 0.72 * torch.sqrt(a + 1e-6)).square() + 1e-8) - 0.88
    # Star with five points.
    turn = 2 * math.pi / 5
    phi = torch.remainder(torch.atan2(u, -v) + turn / 2, turn) - turn / 2
    return r * (torch.cos(phi) + 1.15 * phi.sin().abs()) - 0.94


def _skin(thing: Thing, u: Tensor, v: Tensor) -> Tensor:
    """How much darker the skin is at a place, 0 to 1."""
    if thing.skin == "striped":
        return _soft(torch.sin(7.5 * u), 5)
    if thing.skin == "spotted":
        return _soft(torch.cos(6.5 * u) * torch.cos(6.5 * v) - 0.25, 8)
    if thing.skin == "chequered":
        return _soft(torch.sin(5.5 * u + 0.8) * torch.sin(5.5 * v + 0.8), 7)
    return torch.zeros_like(u)


def _put(frames: Tensor, thing: Thing, x: Tensor, y: Tensor, s: Tensor, zoom: Tensor) -> Tensor:
    """Lays an object over the frames; x, y [T, H, W] are world positions, s [T, 1, 1] the time.

    T may be 1 for frames that are all alike.
    """
    if thing.action == "still":
        s = s[:1] * 0
    size = thing.radius * thing.growth**s
    angle = thing.angle + thing.turn * s
    cos, sin = torch.cos(angle), torch.sin(angle)
    dx = (x - (thing.x + thing.move[0] * s)) / size
    dy = (y - (thing.y + thing.move[1] * s)) / size
    u, v = cos * dx + sin * dy, -sin * dx + cos * dy
    distance = _distance(thing.shape, u, v)
    cover = torch.sigmoid(-distance * size * zoom * 1.6)
    colour = torch.tensor(COLOURS[thing.colour])
    # Stripes are lighter on black things, else darker; the light comes from the upper left.
    other = colour * 0.45 + (0.4 if thing.colour == "black" else 0.0)
    mark = _skin(thing, u, v)[:, None]
    body = colour.view(1, 3, 1, 1) * (1 - mark) + other.view(1, 3, 1, 1) * mark
    shade = 1.0 - 0.16 * (dx + dy).clamp(-1.2, 1.2)
    rim = 1.0 - 0.35 * torch.sigmoid((distance + 0.13) * 24)
    return frames + (body * (shade * rim)[:, None] - frames) * cover[:, None]


def paint(scene: Scene, frames: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> Tensor:
    """The clip [frames, 3, height, width] in [0, 1]; `frames` may be 1 for the first picture alone."""
    s = (torch.arange(frames) / (FRAMES - 1)).view(-1, 1, 1)
    # Where the camera rests, what rests is painted once.
    filmed = s[:1] if scene.camera == "still" else s
    zoom = torch.as_tensor(scene.zoom) ** filmed
    py, px = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x = (px - width / 2) / zoom + width / 2 + scene.pan[0] * filmed
    y = (py - height / 2) / zoom + height / 2 + scene.pan[1] * filmed
    ground = _ground(scene)
    left, top = (WORLD_W - WIDTH) / 2, (WORLD_H - HEIGHT) / 2
    grid = torch.stack([(x + left) / WORLD_W * 2 - 1, (y + top) / WORLD_H * 2 - 1], dim=-1)
    clip = F.grid_sample(
        ground[None].expand(len(grid), -1, -1, -1),
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    for thing in scene.things:
        clip = _put(clip, thing, x, y, s, zoom)
    if scene.brightness != 1.0:
        clip = clip * (torch.as_tensor(scene.brightness) ** s)[:, None]
    return clip.expand(frames, -1, -1, -1).clamp(0, 1)


def to_bytes(clip: Tensor) -> Tensor:
    """[0, 1] as rounded bytes."""
    return (clip * 255).round().to(torch.uint8)
