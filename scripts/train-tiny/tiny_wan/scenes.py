"""Scenes: what is in them and what happens. Drawn from a seed; nothing here knows about pixels.

Lengths are pixels of the 160x96 frame, times are fractions of the clip, angles are radians, y points down.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

WIDTH, HEIGHT, FRAMES, FPS = 160, 96, 33, 16

COLOURS = {
    "red": (0.86, 0.16, 0.14),
    "green": (0.15, 0.62, 0.22),
    "blue": (0.14, 0.30, 0.85),
    "yellow": (0.96, 0.84, 0.15),
    "orange": (0.96, 0.52, 0.10),
    "purple": (0.56, 0.20, 0.70),
    "white": (0.96, 0.96, 0.94),
    "black": (0.08, 0.08, 0.10),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart")
SKINS = ("plain", "striped", "spotted", "chequered")
BACKGROUNDS = ("plain", "cloudy", "striped", "chequered", "dotted", "brick", "wavy", "photo")
# Muted, so that objects stand out.
GROUNDS = {
    "grey": (0.55, 0.56, 0.58),
    "beige": (0.78, 0.71, 0.58),
    "brown": (0.46, 0.35, 0.26),
    "teal": (0.32, 0.52, 0.54),
    "pink": (0.85, 0.66, 0.68),
    "navy": (0.20, 0.24, 0.38),
    "olive": (0.48, 0.50, 0.30),
    "lilac": (0.70, 0.66, 0.80),
}
CAMERA = ("pan_left", "pan_right", "pan_up", "pan_down", "zoom_in", "zoom_out")
MOVES = ("move_left", "move_right", "move_up", "move_down")
ACTIONS = (*MOVES, "turn_clockwise", "turn_counterclockwise", "grow", "shrink")
LIGHT = ("brighten", "darken")
MOTIONS = (*CAMERA, *ACTIONS, *LIGHT)
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass
class Thing:
    """An object. What it does is in its last four fields, over the whole clip."""

    shape: str
    colour: str
    skin: str
    x: float
    y: float
    radius: float
    angle: float
    action: str = "still"
    move: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    growth: float = 1.0


@dataclass
class Scene:
    """A clip before it is painted. `seed` draws the details of the background."""

    seed: int
    background: str
    ground: tuple[str, str]
    things: list[Thing]
    camera: str = "still"
    pan: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    light: str = "still"
    brightness: float = 1.0
    photo: str | None = None
    asked: list[tuple[str, int | None]] = field(default_factory=list)
    """Motions and the thing each belongs to; None for camera and light."""


def _far(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return math.dist(a, b)


def _thing(rng: random.Random, grounds: tuple[str, str], taken: list[Thing]) -> Thing | None:
    """An object that touches no other and is not of the colour of the background."""
    colours = [c for c in COLOURS if all(_far(COLOURS[c], GROUNDS[g]) > 0.32 for g in grounds)]
    used = {(t.colour, t.shape) for t in taken}
    for _ in range(40):
        radius = rng.uniform(11, 17)
        x, y = rng.uniform(22, WIDTH - 22), rng.uniform(20, HEIGHT - 20)
        colour, shape = rng.choice(colours), rng.choice(SHAPES)
        if (colour, shape) in used or any(t.colour == colour for t in taken):
            continue
        if all(_far((x, y), (t.x, t.y)) > radius + t.radius + 8 for t in taken):
            skin = rng.choices(SKINS, (6, 2, 1, 1))[0]
            return Thing(shape, colour, skin, x, y, radius, rng.uniform(-0.35, 0.35))
    return None


def act(rng: random.Random, thing: Thing, action: str) -> None:
    """Gives `thing` something to do. A mover is first put where it has room."""
    thing.action = action
    if action in MOVES:
        dx, dy = DIRECTIONS[action.removeprefix("move_")]
        far = rng.uniform(44, 64) if dx else rng.uniform(30, 42)
        thing.move = (dx * far, dy * far)
        margin = thing.radius + 3
        if dx:
            low, high = (margin + far, WIDTH - margin) if dx < 0 else (margin, WIDTH - margin - far)
            thing.x = min(max(thing.x, low), max(low, high))
        else:
            low, high = (margin + far, HEIGHT - margin) if dy < 0 else (margin, HEIGHT - margin - far)
            thing.y = min(max(thing.y, low), max(low, high))
    elif action.startswith("turn"):
        # Clockwise on the screen is positive, as y points down.
        sign = 1 if action == "turn_clockwise" else -1
        thing.turn = sign * rng.uniform(1.3, 2.2)
        if thing.shape in ("circle", "ring"):
            thing.shape = rng.choice(("square", "triangle", "star", "cross", "heart"))
    elif action == "grow":
        thing.growth = rng.uniform(1.6, 1.9)
        thing.radius = min(thing.radius, 14.0)
    elif action == "shrink":
        thing.growth = rng.uniform(0.5, 0.6)
        thing.radius = max(thing.radius, 14.0)


def _film(rng: random.Random, scene: Scene, motion: str) -> None:
    """Moves the camera or changes the light. A pan to the left shows what lies further left."""
    if motion in LIGHT:
        scene.light = motion
        scene.brightness = rng.uniform(1.45, 1.7) if motion == "brighten" else rng.uniform(0.42, 0.55)
        return
    scene.camera = motion
    if motion == "zoom_in":
        scene.zoom = rng.uniform(1.4, 1.7)
    elif motion == "zoom_out":
        scene.zoom = 1 / rng.uniform(1.4, 1.7)
    else:
        dx, dy = DIRECTIONS[motion.removeprefix("pan_")]
        scene.pan = (dx * rng.uniform(36, 56), dy * rng.uniform(24, 36))


def draw(seed: int, photos: tuple[str, ...] = (), motion: str | None = None, count: int | None = None) -> Scene:
    """The scene of a seed; `motion` makes it the only motion, `count` sets the number of objects."""
    rng = random.Random(f"scene/{seed}")
    kinds = [k for k in BACKGROUNDS if k != "photo" or photos]
    background = rng.choice(kinds)
    first, second = rng.sample(sorted(GROUNDS), 2)
    scene = Scene(seed, background, (first, second), [])
    if background == "photo":
        scene.photo = rng.choice(photos)
    for _ in range(count or rng.choices((1, 2, 3), (5, 4, 2))[0]):
        thing = _thing(rng, scene.ground, scene.things)
        if thing is not None:
            scene.things.append(thing)
    motions = [motion] if motion else [rng.choice(MOTIONS)]
    if motion is None and rng.random() < 0.2:
        # A second motion, of another kind.
        other = rng.choice([m for m in MOTIONS if (m in ACTIONS) != (motions[0] in ACTIONS)])
        motions.append(other)
    for name in motions:
        if name not in ACTIONS:
            _film(rng, scene, name)
            scene.asked.append((name, None))
            continue
        index = rng.randrange(len(scene.things))
        act(rng, scene.things[index], name)
        scene.asked.append((name, index))
    return scene
