"""Measures what happens in a clip: the camera, the light, and every object of the first frame.

Motion is followed from frame to frame by registration (Lucas and Kanade): the shift, turn and scale of a window that
explain the next frame best. The camera's window is all that is not an object; an object's is its own disc, and the
camera's motion is taken off. Nothing is known of the clip but where the objects are in the first frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .scenes import ACTIONS, CAMERA, FAR, HIGH, LIGHT, TURN, ZOOM, Scene

# What a whole motion amounts to, in the units measured; light and size are the middle of both directions.
TYPICAL = {"pan": (FAR, HIGH), "zoom": math.log(ZOOM), "light": 0.6, "move": (FAR, HIGH), "turn": TURN, "size": 0.56}
# Evidence below this share of a typical motion counts as none.
LEAST = 0.3


@dataclass
class Similarity:
    """x -> scale * rotation * (x - centre) + centre + shift."""

    shift: Tensor
    turn: float = 0.0
    growth: float = 0.0


def _blur(clip: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    channels = clip.shape[1]
    across = kernel.view(1, 1, 1, 5).expand(channels, 1, 1, 5)
    down = kernel.view(1, 1, 5, 1).expand(channels, 1, 5, 1)
    clip = F.conv2d(F.pad(clip, (2, 2, 0, 0), mode="replicate"), across, groups=channels)
    return F.conv2d(F.pad(clip, (0, 0, 2, 2), mode="replicate"), down, groups=channels)


def _sample(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """[C, N] at pixel centres x, y [N]."""
    _, h, w = picture.shape
    grid = torch.stack([(x + 0.5) / w * 2 - 1, (y + 0.5) / h * 2 - 1], -1).view(1, 1, -1, 2)
    return F.grid_sample(picture[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]


def register(
    before: Tensor, after: Tensor, centre: Tensor, x: Tensor, y: Tensor, weight: Tensor, turning: bool
) -> Similarity:
    """The similarity about `centre` that carries the points x, y [N] of `before` to `after` ([3, H, W])."""
    _, h, w = before.shape
    values = _sample(before, x, y)
    gx = (_sample(before, x + 1, y) - _sample(before, x - 1, y)) / 2
    gy = (_sample(before, x, y + 1) - _sample(before, x, y - 1)) / 2
    rx, ry = x - centre[0], y - centre[1]
    columns = [gx, gy, gx * rx + gy * ry]
    if turning:
        columns.append(gy * rx - gx * ry)
    # A gain per step, for the light.
    columns.append(values)
    jacobian = torch.stack(columns, -1)
    p = torch.zeros(len(columns))
    for _ in range(8):
        scale = math.exp(p[2].item())
        angle = p[3].item() if turning else 0.0
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        qx = cos * rx - sin * ry + centre[0] + p[0]
        qy = sin * rx + cos * ry + centre[1] + p[1]
        inside = ((qx > 0) & (qx < w - 1) & (qy > 0) & (qy < h - 1)).float()
        error = _sample(after, qx, qy) - values * (1 + p[-1])
        # Outliers (what is uncovered, other objects) weigh less.
        robust = 1 / (1 + (error.square().sum(0) / 0.01))
        wj = jacobian * (weight * inside * robust)[None, :, None]
        normal = torch.einsum("cni,cnj->ij", wj, jacobian) + 1e-4 * torch.eye(len(columns))
        step = torch.linalg.solve(normal, torch.einsum("cni,cn->i", wj, error))
        # `error` is after minus before: moving the sample against the gradient lowers it.
        step[-1] = -step[-1]
        p = p - step
        if step[:2].abs().max() < 0.01:
            break
    # The gradients are those of `before`: p has the sign of the motion.
    return Similarity(p[:2].clone(), p[3].item() if turning else 0.0, p[2].item())


@dataclass
class Measured:
    """What was seen, over the whole clip."""

    camera: tuple[float, float, float]
    """Pan to the right and down in pixels of the first frame's scale, logarithm of the zoom."""
    light: float
    """Logarithm of the change in brightness."""
    things: list[tuple[float, float, float, float]]
    """Right, down, clockwise turn, logarithm of growth: against the camera's motion."""

    def evidence(self) -> dict[tuple[str, int | None], float]:
        """Share of a typical motion that was seen, for every motion and object."""
        px, py, zoom = self.camera
        tx, ty = TYPICAL["pan"]
        out: dict[tuple[str, int | None], float] = {
            ("pan_left", None): -px / tx,
            ("pan_right", None): px / tx,
            ("pan_up", None): -py / ty,
            ("pan_down", None): py / ty,
            ("zoom_in", None): zoom / TYPICAL["zoom"],
            ("zoom_out", None): -zoom / TYPICAL["zoom"],
            ("brighten", None): self.light / TYPICAL["light"],
            ("darken", None): -self.light / TYPICAL["light"],
        }
        mx, my = TYPICAL["move"]
        for i, (dx, dy, turn, growth) in enumerate(self.things):
            out |= {
                ("move_left", i): -dx / mx,
                ("move_right", i): dx / mx,
                ("move_up", i): -dy / my,
                ("move_down", i): dy / my,
                ("turn_clockwise", i): turn / TYPICAL["turn"],
                ("turn_counterclockwise", i): -turn / TYPICAL["turn"],
                ("grow", i): growth / TYPICAL["size"],
                ("shrink", i): -growth / TYPICAL["size"],
            }
        return out

    def recognised(self) -> tuple[str, int | None] | None:
        """The motion with the most evidence, or None where there is too little of any."""
        motion, most = max(self.evidence().items(), key=lambda item: item[1])
        return motion if most >= LEAST else None


def chance(scene: Scene) -> float:
    """Share of right answers by guessing among all motions of all objects."""
    return 1 / (len(CAMERA) + len(LIGHT) + len(ACTIONS) * len(scene.things))


@torch.no_grad()
def measure(clip: Tensor, scene: Scene) -> Measured:
    """Follows a clip [T, 3, H, W] in [0, 1]."""
    h, w = clip.shape[2:]
    frames = _blur(clip)
    ys, xs = torch.meshgrid(torch.arange(3.0, h - 3, 2), torch.arange(3.0, w - 3, 2), indexing="ij")
    xs, ys = xs.flatten(), ys.flatten()
    middle = torch.tensor([(w - 1) / 2, (h - 1) / 2])
    places = [torch.tensor([t.x - 0.5, t.y - 0.5]) for t in scene.things]
    sizes = [t.radius for t in scene.things]
    pan, zoom = torch.zeros(2), 0.0
    things = [[0.0, 0.0, 0.0, 0.0] for _ in scene.things]
    for before, after in pairwise(frames):
        weight = torch.ones_like(xs)
        for place, size in zip(places, sizes, strict=True):
            weight *= ((xs - place[0]).square() + (ys - place[1]).square() > (1.35 * size + 3) ** 2).float()
        seen = register(before, after, middle, xs, ys, weight, False)
        if not torch.isfinite(seen.shift).all() or abs(seen.growth) > 0.2 or seen.shift.abs().max() > 12:
            seen = Similarity(torch.zeros(2))
        # What moves to the left is a camera that pans to the right.
        pan -= seen.shift / math.exp(zoom)
        zoom += seen.growth
        for i, (place, size) in enumerate(zip(places, sizes, strict=True)):
            reach = 1.3 * size + 1
            offsets = torch.arange(-reach, reach + 0.1, 1.5)
            oy, ox = torch.meshgrid(offsets, offsets, indexing="ij")
            ox, oy = ox.flatten(), oy.flatten()
            near = (ox.square() + oy.square() <= reach * reach).float()
            x, y = ox + place[0], oy + place[1]
            near *= ((x > 1) & (x < w - 2) & (y > 1) & (y < h - 2)).float()
            if near.sum() < 0.35 * near.numel():
                continue  # out of sight
            found = register(before, after, place, x, y, near, True)
            if not torch.isfinite(found.shift).all() or found.shift.abs().max() > 10 or abs(found.turn) > 0.6:
                continue
            by_camera = (place - middle) * (math.exp(seen.growth) - 1) + seen.shift
            own = (found.shift - by_camera) / math.exp(zoom)
            growth = max(-0.3, min(0.3, found.growth))
            things[i][0] += own[0].item()
            things[i][1] += own[1].item()
            things[i][2] += found.turn
            things[i][3] += growth - seen.growth
            places[i] = place + found.shift
            sizes[i] = min(max(size * math.exp(growth), 5.0), 60.0)
    light = torch.log((clip[-2:].mean() + 0.02) / (clip[:2].mean() + 0.02)).item()
    return Measured((pan[0].item(), pan[1].item(), zoom), light, [tuple(t) for t in things])


@dataclass
class Smoothness:
    """How a clip behaves over time."""

    change: float
    """Mean absolute difference of neighbouring frames, in 1/255."""
    flicker: float
    """Root mean square of the second difference of the mean brightness, in 1/255."""
    sharpness: float
    """Gradient energy of the last quarter against that of the first."""


def smoothness(clip: Tensor) -> Smoothness:
    """Measures a clip [T, 3, H, W] in [0, 1]."""
    change = (clip[1:] - clip[:-1]).abs().mean().item() * 255
    means = clip.mean(dim=(1, 2, 3))
    flicker = (means[2:] - 2 * means[1:-1] + means[:-2]).square().mean().sqrt().item() * 255
    grey = clip.mean(1) / clip.mean(dim=(1, 2, 3), keepdim=True)[:, 0].clamp_min(0.02)
    across, down = grey[:, :, 1:] - grey[:, :, :-1], grey[:, 1:] - grey[:, :-1]
    energy = across.square().mean((1, 2)) + down.square().mean((1, 2))
    quarter = len(energy) // 4
    return Smoothness(change, flicker, (energy[-quarter:].mean() / energy[:quarter].mean().clamp_min(1e-9)).item())
