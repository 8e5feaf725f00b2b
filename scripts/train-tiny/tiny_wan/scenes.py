"""Scenes: what is in them and what happens. Drawn from a seed; nothing here knows about pixels.

Lengths are pixels of the 160x96 frame, times are fractions of the clip, angles are radians, y points down.

What moves does so by one amount: a caption says where to, not how far, and a small network should not have to guess.
The amounts suit the VAE: in the four frames of one latent things go 16 pixels across, the width of one latent, or 8
pixels up or down, half of one, so that a latent often is its neighbour of before.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

WIDTH, HEIGHT, FRAMES, FPS = 160, 96, 17, 8

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
# How often each is drawn: more often what is learned slowest.
OFTEN = {name: 3 if name.startswith("turn") else 2 if name in ACTIONS else 1 for name in MOTIONS}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# How far over the whole clip: across, up or down; the camera's zoom; a turn; growth; brightness.
FAR, HIGH = 64.0, 32.0
ZOOM, TURN, GROWTH, SHRINKAGE, BRIGHT, DARK = 1.6, math.pi / 2, 1.7, 0.55, 1.6, 0.45


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
        # A latent is 16 pixels wide: of what is smaller its shape is lost.
        radius = rng.uniform(16, 23)
        x, y = rng.uniform(26, WIDTH - 26), rng.uniform(25, HEIGHT - 25)
        colour, shape = rng.choice(colours), rng.choice(SHAPES)
        if (colour, shape) in used or any(t.colour == colour for t in taken):
            continue
        if all(_far((x, y), (t.x, t.y)) > radius + t.radius + 4 for t in taken):
            skin = rng.choices(SKINS, (6, 2, 1, 1))[0]
            return Thing(shape, colour, skin, x, y, radius, rng.uniform(-0.35, 0.35))
    return None


def act(rng: random.Random, thing: Thing, action: str) -> None:
    """Gives `thing` something to do. A mover is first put where it has room."""
    thing.action = action
    if action in MOVES:
        dx, dy = DIRECTIONS[action.removeprefix("move_")]
        far = FAR if dx else HIGH
        thing.move = (dx * far, dy * far)
        margin = thing.radius + 2
        if dx:
            low, high = (margin + far, WIDTH - margin) if dx < 0 else (margin, WIDTH - margin - far)
            thing.x = min(max(thing.x, low), max(low, high))
        else:
            low, high = (margin + far, HEIGHT - margin) if dy < 0 else (margin, HEIGHT - margin - far)
            thing.y = min(max(thing.y, low), max(low, high))
    elif action.startswith("turn"):
        # Clockwise on the screen is positive, as y points down.
        sign = 1 if action == "turn_clockwise" else -1
        thing.turn = sign * TURN
        # A square or a star that turns by a quarter looks nearly as before.
        if thing.shape not in ("triangle", "heart") and thing.skin != "striped":
            thing.shape = rng.choice(("triangle", "heart"))
    elif action == "grow":
        thing.growth = GROWTH
        thing.radius = min(thing.radius, 19.0)
    elif action == "shrink":
        thing.growth = SHRINKAGE
        thing.radius = max(thing.radius, 19.0)


def _in_the_way(other: Thing, mover: Thing) -> bool:
    """Whether a thing would be met by one that moves."""
    steps = ((mover.x + mover.move[0] * s / 8, mover.y + mover.move[1] * s / 8) for s in range(9))
    reach = mover.radius * max(1.0, mover.growth)
    return min(_far((other.x, other.y), place) for place in steps) < other.radius + reach + 2


def _film(rng: random.Random, scene: Scene, motion: str) -> None:
    """Moves the camera or changes the light. A pan to the left shows what lies further left."""
    if motion in LIGHT:
        scene.light = motion
        scene.brightness = BRIGHT if motion == "brighten" else DARK
        return
    scene.camera = motion
    if motion == "zoom_in":
        scene.zoom = ZOOM
    elif motion == "zoom_out":
        scene.zoom = 1 / ZOOM
    else:
        dx, dy = DIRECTIONS[motion.removeprefix("pan_")]
        scene.pan = (dx * FAR, dy * HIGH)


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
    motions = [motion] if motion else rng.choices(MOTIONS, [OFTEN[m] for m in MOTIONS])
    if motion is None and rng.random() < 0.2:
        # A second motion, of another kind.
        other = rng.choice([m for m in MOTIONS if (m in ACTIONS) != (motions[0] in ACTIONS)])
        motions.append(other)
    for name in motions:
        if name not in ACTIONS:
            _film(rng, scene, name)
            scene.asked.append((name, None))
            continue
        actor = rng.choice(scene.things)
        act(rng, actor, name)
        scene.things = [t for t in scene.things if t is actor or not _in_the_way(t, actor)]
        scene.asked.append((name, scene.things.index(actor)))
    return scene
