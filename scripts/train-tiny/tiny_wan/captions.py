"""Captions: a small grammar with many wordings and word orders."""

from __future__ import annotations

import random

from .scenes import LIGHT, MOVES, Scene, Thing

SHAPE_WORDS = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    "heart": ("heart",),
}
SKIN_WORDS = {"striped": ("striped",), "spotted": ("spotted", "dotted"), "chequered": ("chequered", "checkered")}
WAYS = {
    "left": ("to the left", "left", "leftwards", "from right to left"),
    "right": ("to the right", "right", "rightwards", "from left to right"),
    "up": ("up", "upwards", "towards the top"),
    "down": ("down", "downwards", "towards the bottom"),
}
# Third person and participle.
GO = (
    ("moves", "moving"),
    ("slides", "sliding"),
    ("glides", "gliding"),
    ("drifts", "drifting"),
    ("travels", "travelling"),
)
TURN = (("turns", "turning"), ("rotates", "rotating"), ("spins", "spinning"))
TURN_WAYS = {
    "turn_clockwise": ("clockwise", "in a clockwise direction"),
    "turn_counterclockwise": ("counterclockwise", "anticlockwise", "counter-clockwise"),
}
GROW = (("grows", "growing"), ("gets bigger", "getting bigger"), ("expands", "expanding"), ("swells", "swelling"))
SHRINK = (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("dwindles", "dwindling"))
PACE = ("", "", "", " slowly", " steadily", " smoothly")
CAMERA_WORDS = {
    "zoom_in": (
        "the camera zooms in",
        "zooming in",
        "a slow zoom in",
        "the camera moves closer",
        "the view closes in",
    ),
    "zoom_out": (
        "the camera zooms out",
        "zooming out",
        "a slow zoom out",
        "the camera pulls back",
        "the view widens",
    ),
}
PAN = ("the camera pans {way}", "the camera moves {way}", "a camera pan {way}", "panning {way}", "the view pans {way}")
LIGHT_WORDS = {
    "brighten": ("the light gets brighter", "the scene brightens", "it grows lighter", "the lights go up"),
    "darken": ("the light gets darker", "the scene darkens", "it grows darker", "the lights go down", "night falls"),
}
STILL = ("the camera stays still", "the camera does not move", "static camera", "fixed camera")
GROUND_WORDS = {
    "plain": ("a {a} background", "a smooth {a} wall"),
    "cloudy": ("a cloudy {a} and {b} background", "soft {a} and {b} clouds"),
    "striped": ("{a} and {b} stripes", "a striped {a} and {b} background"),
    "chequered": ("a {a} and {b} chequerboard", "a chequered {a} and {b} floor"),
    "dotted": ("a dotted {a} and {b} background", "{a} and {b} dots"),
    "brick": ("a {b} brick wall", "{b} bricks"),
    "wavy": ("{a} and {b} waves", "a wavy {a} and {b} background"),
    "photo": ("a photograph", "a photo", "a real picture"),
}
# Empty captions for guidance; the subnet's negative prompt stands for nothing, too.
EMPTY = ("", "", "low quality, blurry, distorted")


def _name(rng: random.Random, thing: Thing, article: str | None = None) -> str:
    """A noun phrase; the colour is nearly always said, as it is what tells objects apart."""
    words = [rng.choice(SHAPE_WORDS[thing.shape])]
    words.insert(0, thing.colour)
    if thing.skin in SKIN_WORDS and rng.random() < 0.6:
        words.insert(0, rng.choice(SKIN_WORDS[thing.skin]))
    article = article or rng.choice(("a", "the", "one"))
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    return " ".join([article, *words])


def _ways(rng: random.Random, direction: str) -> str:
    return rng.choice(WAYS[direction])


def _deed(rng: random.Random, action: str) -> tuple[str, str]:
    """What an object does, finite and as a participle."""
    if action in MOVES:
        way = _ways(rng, action.removeprefix("move_"))
        finite, participle = rng.choice(GO)
        pace = rng.choice(PACE)
        return f"{finite}{pace} {way}", f"{participle} {way}"
    if action.startswith("turn"):
        finite, participle = rng.choice(TURN)
        way = rng.choice(TURN_WAYS[action])
        return f"{finite}{rng.choice(PACE)} {way}", f"{participle} {way}"
    finite, participle = rng.choice(GROW if action == "grow" else SHRINK)
    return finite, participle


def _filmed(rng: random.Random, motion: str) -> str:
    if motion in LIGHT:
        return rng.choice(LIGHT_WORDS[motion])
    if motion in CAMERA_WORDS:
        return rng.choice(CAMERA_WORDS[motion])
    return rng.choice(PAN).format(way=_ways(rng, motion.removeprefix("pan_")))


def _ground(rng: random.Random, scene: Scene) -> str:
    first, second = scene.ground
    return rng.choice(GROUND_WORDS[scene.background]).format(a=first, b=second)


def _join(rng: random.Random, names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + rng.choice((" and ", " and ", " with ")) + names[-1]


def caption(scene: Scene, rng: random.Random) -> str:
    """One of many captions of a scene. The motion is always told; the rest may be left out."""
    doers = {index: motion for motion, index in scene.asked if index is not None}
    film = [motion for motion, index in scene.asked if index is None]
    others = [thing for index, thing in enumerate(scene.things) if index not in doers]
    over = rng.choice(("over", "on", "in front of", "across", "against")) + " " + _ground(rng, scene)
    ground = over if rng.random() < 0.6 else ""
    parts: list[str] = []
    if doers:
        index, action = next(iter(doers.items()))
        name = _name(rng, scene.things[index])
        finite, participle = _deed(rng, action)
        form = rng.randrange(5)
        if form == 0 and ground:
            parts.append(f"{ground}, {name} {finite}")
        elif form == 1:
            parts.append(f"{name} {participle} {ground}".strip())
        elif form == 2:
            parts.append(f"{participle}: {name} {ground}".strip())
        elif form == 3 and others:
            where = rng.choice(("next to", "beside", "near"))
            parts.append(f"{where} {_join(rng, [_name(rng, t) for t in others])}, {name} {finite} {ground}".strip())
            others = []
        else:
            parts.append(f"{name} {finite} {ground}".strip())
        if others and rng.random() < 0.4:
            names = _join(rng, [_name(rng, t) for t in others])
            verb, subject = ("stays", "it is") if len(others) == 1 else ("stay", "they are")
            stay = (f"{names} {verb} still", f"{names} in view", f"while {names} {verb} where {subject}")
            parts.append(rng.choice(stay))
        parts += [_filmed(rng, motion) for motion in film]
        if not film and rng.random() < 0.25:
            parts.append(rng.choice(STILL))
        if film and rng.random() < 0.3:
            parts.reverse()
    else:
        told = _join(rng, [_name(rng, t) for t in scene.things]) if rng.random() < 0.75 else "the scene"
        told = f"{told} {ground}".strip()
        filmed = " and ".join(_filmed(rng, motion) for motion in film)
        parts = rng.choice(([told, filmed], [filmed, told], [filmed] if not ground else [filmed, ground]))
    text = rng.choice((", ", ", ", "; ", ". ")).join(parts)
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.3:
        text += "."
    return text
