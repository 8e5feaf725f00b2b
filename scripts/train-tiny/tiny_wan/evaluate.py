"""How good a checkpoint is, on scenes and photographs it has not seen.

`python -m tiny_wan.evaluate --model DIR --out DIR` writes `report.json` and strips of frames.
Every figure is given for the checkpoint, for the true clips, for the first frame repeated, and for the same networks
with random weights.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from . import whole_clip
from .captions import caption
from .motion import chance, measure, smoothness
from .paint import paint, photos
from .pictures import save_rows, strip
from .sampling import Recipe, generate, load, untrained
from .scenes import ACTIONS, MOTIONS, Scene, draw

# Held-out scenes of this script; the seeds of the training stages are above a million.
FIRST = 10_000


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels between pictures in [0, 1]."""
    return -10 * math.log10(max((a - b).square().mean().item(), 1e-10))


def scenes(count: int) -> list[Scene]:
    """Scenes with one motion each, all motions in turn."""
    return [draw(FIRST + i, photos(True), MOTIONS[i % len(MOTIONS)]) for i in range(count)]


class Figures:
    """Figures of one kind of clip."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.right: dict[str, list[bool]] = {}
        self.change: list[float] = []
        self.flicker: list[float] = []
        self.sharpness: list[float] = []
        self.near: list[float] = []

    def add(self, clip: Tensor, true: Tensor, scene: Scene) -> bool:
        """Measures a clip; whether the asked motion was recognised."""
        self.first.append(psnr(clip[0], true[0]))
        self.near.append(psnr(clip, true))
        right = measure(clip, scene).recognised() == scene.asked[0]
        self.right.setdefault(scene.asked[0][0], []).append(right)
        smooth = smoothness(clip)
        self.change.append(smooth.change)
        self.flicker.append(smooth.flicker)
        self.sharpness.append(smooth.sharpness)
        return right

    def summary(self) -> dict[str, object]:
        """Means, and 5th to 95th percentiles where a range is compared."""

        def middle(values: list[float]) -> float:
            return round(sum(values) / max(1, len(values)), 2)

        def spread(values: list[float]) -> list[float]:
            tensor = torch.tensor(values)
            return [round(torch.quantile(tensor, q).item(), 3) for q in (0.05, 0.5, 0.95)]

        every = [r for rights in self.right.values() for r in rights]
        return {
            "clips": len(every),
            "first_frame_db": middle(self.first),
            "motion_recognised": round(sum(every) / max(1, len(every)), 3),
            "by_motion": {name: f"{sum(r)}/{len(r)}" for name, r in self.right.items()},
            "clip_against_true_db": middle(self.near),
            "change": spread(self.change),
            "flicker": spread(self.flicker),
            "sharpness": spread(self.sharpness),
        }


@torch.no_grad()
def reconstruction(vae: torch.nn.Module, chosen: list[Scene]) -> dict[str, float]:
    """PSNR of the VAE over whole clips and over single pictures."""
    whole, single = [], []
    for scene in chosen:
        clip = paint(scene)
        for values, part in ((whole, clip), (single, clip[:1])):
            mean, _ = whole_clip.encode(vae, (part * 2 - 1).transpose(0, 1)[None])
            back = (whole_clip.decode(vae, mean)[0].transpose(0, 1) * 0.5 + 0.5).clamp(0, 1)
            values.append(psnr(back, part))
    return {"clips_db": round(sum(whole) / len(whole), 2), "pictures_db": round(sum(single) / len(single), 2)}


def other_prompt(scene: Scene, rng: random.Random) -> Scene:
    """The same first frame with another motion asked of the same thing, for the test of the prompt."""
    asked, index = scene.asked[0]
    if index is None:
        opposite = {
            "pan_left": "pan_right",
            "pan_right": "pan_left",
            "pan_up": "pan_down",
            "pan_down": "pan_up",
            "zoom_in": "zoom_out",
            "zoom_out": "zoom_in",
            "brighten": "darken",
            "darken": "brighten",
        }[asked]
        return Scene(**{**vars(scene), "asked": [(opposite, None)]})
    opposite = {
        "move_left": "move_up",
        "move_right": "move_down",
        "move_up": "move_right",
        "move_down": "move_left",
        "turn_clockwise": "turn_counterclockwise",
        "turn_counterclockwise": "turn_clockwise",
        "grow": "shrink",
        "shrink": "grow",
    }[asked]
    assert opposite in ACTIONS
    return Scene(**{**vars(scene), "asked": [(opposite, index)]})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=32, help="scenes whose prompt alone is changed")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--guidance", type=float, default=Recipe.guidance)
    parser.add_argument("--minutes", type=float, default=30, help="stop generating after so long")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    recipe = Recipe(steps=arguments.steps, guidance=arguments.guidance)
    chosen, rng = scenes(arguments.scenes), random.Random(5)
    pipeline, chaos = load(arguments.model), untrained(arguments.model)
    report: dict[str, object] = {
        "whole_clip_against_diffusers": whole_clip.check(pipeline.vae),
        "vae": reconstruction(pipeline.vae, chosen[:24]),
        "recipe": asdict(recipe),
        "chance": round(sum(chance(s) for s in chosen) / len(chosen), 3),
    }
    kinds = {name: Figures() for name in ("checkpoint", "true", "frozen", "random")}
    rows: list[Tensor] = []
    labels: list[str] = []
    changed = follows = moved = 0
    for number, scene in enumerate(chosen):
        if time.monotonic() - began > arguments.minutes * 60:
            break
        true, words = paint(scene), caption(scene, rng)
        clip = generate(pipeline, words, true[0], number, recipe)
        right = kinds["checkpoint"].add(clip, true, scene)
        kinds["true"].add(true, true, scene)
        kinds["frozen"].add(true[:1].expand_as(true), true, scene)
        if number % 6 == 0:
            kinds["random"].add(generate(chaos, words, true[0], number, recipe), true, scene)
        if number < 2 * len(MOTIONS):
            rows += [strip(true), strip(clip)]
            labels += [f"true: {words}", f"generated, motion {'recognised' if right else 'NOT recognised'}"]
        if number < arguments.prompts:
            other = other_prompt(scene, rng)
            again = generate(pipeline, caption(other, rng), true[0], number, recipe)
            changed += 1
            follows += measure(again, other).recognised() == other.asked[0]
            moved += measure(again, scene).recognised() != scene.asked[0]
        print(f"{number + 1}/{len(chosen)} {scene.asked[0]} {'right' if right else 'wrong'} {words!r}", flush=True)
    report |= {name: figures.summary() for name, figures in kinds.items()}
    report["prompt_alone"] = {
        "scenes": changed,
        "follows_the_new_prompt": round(follows / max(1, changed), 3),
        "no_longer_the_old_motion": round(moved / max(1, changed), 3),
    }
    report["seconds"] = round(time.monotonic() - began)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    for part in range(0, len(rows), 16):
        save_rows(arguments.out / f"strips-{part // 16}.png", rows[part : part + 16], labels[part : part + 16])
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
