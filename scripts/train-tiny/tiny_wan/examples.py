"""The example pictures of the demo and the playground. `python -m tiny_wan.examples --out node/assets/web`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .paint import paint, to_bytes
from .scenes import Scene, Thing

# None of them is a training scene. The prompts are those of `node/assets/web/playground.js` and `scripts/demo`.
EXAMPLES = {
    "example-1.png": (
        "The red star moves to the right, the camera stays still",
        Scene(
            101,
            "wavy",
            ("teal", "lilac"),
            [Thing("star", "red", "plain", 32, 60, 20, 0.1), Thing("circle", "yellow", "spotted", 134, 26, 17, 0.0)],
            asked=[("move_right", 0)],
        ),
    ),
    "example-2.png": (
        "The camera pans to the right, a yellow heart in front of a brick wall",
        Scene(
            102,
            "brick",
            ("beige", "brown"),
            [Thing("heart", "yellow", "plain", 82, 50, 20, -0.1)],
            camera="pan_right",
            asked=[("pan_right", None)],
        ),
    ),
    "example-3.png": (
        "A purple ring moves up, and the light gets darker",
        Scene(
            103,
            "cloudy",
            ("grey", "pink"),
            [Thing("square", "green", "striped", 56, 48, 21, 0.2), Thing("ring", "purple", "plain", 122, 50, 18, 0.0)],
            light="darken",
            brightness=0.5,
            asked=[("move_up", 1), ("darken", None)],
        ),
    ),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for name, (prompt, scene) in EXAMPLES.items():
        picture = to_bytes(paint(scene, frames=1))[0].permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(picture)).save(arguments.out / name, optimize=True)
        print(f"{name}: {prompt}")


if __name__ == "__main__":
    main()
