"""Holds `leoma-node generate --dump` against the reference on a checkpoint and a picture of a new seed.

    python compare.py --kind i2v-a14b --layout official --seed 123 [--binary target/debug/leoma-node]
    python compare.py --all --seeds 3

Prints, per tensor, the relative L2 distance and its share of the limit; exits 1 when a limit is passed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import official
from checkpoints import KINDS, Sizes, make_checkpoint
from reference import SCHEDULERS, Run, reference

LAYOUTS = ("diffusers", "official")
PRESETS = ("leoma", "diffusers")
EXACT = ("noise", "tokens.", "timesteps")
TIGHT = ("text.", "condition", "image_latents", "sigmas")

SUBJECTS = (
    "a red panda",
    "an old lighthouse, 4k &amp; detailed",
    "two children &quot;laughing&quot;",
    "der alte Mann",
    "静止的画面，三条腿",
    "Ωmega 🙂",
)
ACTIONS = ("rides a bicycle", "crosses a  long bridge at dusk", "geht langsam über die Brücke", "build a sandcastle")
NEGATIVES = ("", "low quality, blurry, distorted", "色调艳丽，过曝，静态，JPEG压缩残留")


@dataclass(frozen=True)
class Case:
    """One comparison; everything else is drawn from it."""

    kind: str
    layout: str
    seed: int
    with_image: bool
    scheduler: str | None = None

    def __str__(self) -> str:
        image = "image" if self.with_image else "no image"
        return f"{self.kind}, {self.layout} layout, {image}, seed {self.seed}"


def drawn_run(case: Case, sizes: Sizes, image: Path) -> Run:
    """Settings for a case."""
    rng = random.Random(f"run/{case.kind}/{case.with_image}/{case.seed}")
    step = 32 if case.kind == "ti2v-5b" else 16
    official_layout = case.layout == "official"
    return Run(
        prompt=f"{rng.choice(SUBJECTS)} {rng.choice(ACTIONS)}",
        negative_prompt=rng.choice(NEGATIVES),
        image=image if case.with_image else None,
        height=step * rng.randint(1, 3),
        width=step * rng.randint(2, 4),
        num_frames=rng.choice((1, 5, 9, 13, 11)),
        steps=rng.randint(2, 6),
        guidance_scale=rng.choice((1.0, 3.5, 5.0, 6.0)),
        guidance_scale_2=None if case.kind == "ti2v-5b" else rng.choice((None, 1.0, 2.5, 4.0)),
        flow_shift=sizes.flow_shift if official_layout else rng.choice((None, 3.0, 7.0)),
        seed=rng.randint(0, 2**33),
        scheduler=case.scheduler or rng.choice(("unipc", "unipc", "unipc", "euler", "dpmpp")),
        preset=rng.choice(PRESETS),
    )


def draw_picture(path: Path, seed: int) -> None:
    """A picture whose size has nothing to do with the clip's, so that the resize rule counts."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(40, 200)), int(rng.integers(40, 200)))
    noise = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    grain = rng.integers(-20, 21, (size[1], size[0], 3))
    smooth = np.asarray(Image.fromarray(noise).resize(size, Image.BICUBIC)).astype(int)
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path)


def command(binary: Path, model: Path, run: Run, sizes: Sizes, layout: str, scratch: Path) -> list[str]:
    """The command line of the node for a run."""
    options: dict[str, object] = {
        "--model": model,
        "--prompt": run.prompt,
        "--negative-prompt": run.negative_prompt,
        "--image": run.image,
        "--num-frames": run.num_frames,
        "--height": run.height,
        "--width": run.width,
        "--fps": 16,
        "--num-inference-steps": run.steps,
        "--guidance-scale": run.guidance_scale,
        "--guidance-scale-2": run.guidance_scale_2,
        "--flow-shift": run.flow_shift,
        "--scheduler": run.scheduler,
        "--seed": run.seed,
        "--noise-source": "cpu",
        "--preset": run.preset,
        "--dtype": "f32",
        "--device": "cpu",
        "--dump": scratch / "dump.safetensors",
        "--output": scratch / "out.mp4",
    }
    if (model / "transformer_2").exists() or (model / "low_noise_model").exists():
        # A preset may bring a second scale of its own; diffusers uses the first when there is none.
        options["--guidance-scale-2"] = run.guidance_scale if run.guidance_scale_2 is None else run.guidance_scale_2
        if layout == "official":  # which has no place to store it
            options["--boundary-ratio"] = sizes.boundary_ratio
    flags = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    return [str(binary), "generate", *flags]


def relative_l2(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Distance over the length of the wanted tensor, in float64."""
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


def judge(name: str, found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float, str]:
    """Measure, limit and a remark; within the limit means measure <= limit."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        note = f"{found.dtype} {list(found.shape)}, wanted {wanted.dtype} {list(wanted.shape)}"
        return float("inf"), 0.0, note
    if name == "frames_u8":
        apart = (found.int() - wanted.int()).abs()
        unequal = (apart > 0).double().mean().item()
        return (unequal if apart.max() <= 1 else float("inf")), 0.005, f"at most {apart.max().item()} apart"
    if name.startswith(EXACT):
        unequal = (found != wanted).double().mean().item()
        return unequal, 0.0, "identical" if unequal == 0 else "share that differs"
    return relative_l2(found, wanted), 1e-5 if name.startswith(TIGHT) else 2e-5, ""


def order(name: str) -> tuple[int, int, str]:
    """Sorts tensors by the moment at which they are made."""
    heads = ("tokens", "text", "noise", "timesteps", "sigmas", "condition", "image_latents")
    head, _, tail = name.partition(".")
    if head in heads:
        return (0, heads.index(head), name)
    if tail.isdigit():
        return (1, int(tail), ("0" if head == "velocity_cond" else "1" if head == "velocity_uncond" else "2"))
    return (2, ("latents.final", "decoded", "frames_u8").index(name), name)


def report(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], verbose: bool) -> bool:
    """Prints the table (when verbose or failing) and tells whether all is within limits."""
    lines, failed, worst = [], False, (0.0, "")
    for name in sorted(wanted, key=order):
        if name not in found:
            lines.append(f"  MISSING {name}")
            failed = True
            continue
        value, limit, note = judge(name, found[name], wanted[name])
        bad = not value <= limit
        failed |= bad
        share = value / limit if limit else 0.0
        worst = max(worst, (share, name))
        lines.append(f"  {'FAIL' if bad else 'ok  '} {name:22} {value:9.2e}  {share:7.1%} of {limit:.0e}  {note}")
    # Without guidance the reference never encodes the negative prompt; a dump may hold it all the same.
    extra = sorted(set(found) - set(wanted) - {"tokens.negative", "text.negative"})
    if extra:
        failed = True
        lines.append(f"  UNEXPECTED {', '.join(extra)}")
    if verbose or failed:
        print("\n".join(lines))
    print(f"  {'FAILED' if failed else 'passed'}; nearest to its limit: {worst[1]} at {worst[0]:.1%}", flush=True)
    return not failed


def run_case(case: Case, binary: Path, keep: Path | None, verbose: bool) -> bool:
    """Makes the checkpoint, runs both sides, compares."""
    with tempfile.TemporaryDirectory() as temporary:
        scratch = keep / f"{case.kind}-{case.layout}-{case.with_image}-{case.seed}" if keep else Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        sizes = make_checkpoint(case.kind, case.seed, scratch / "diffusers")
        if case.layout == "official":
            official.convert(case.kind, scratch / "diffusers", scratch / "official")
        draw_picture(scratch / "image.png", case.seed)
        run = drawn_run(case, sizes, scratch / "image.png")
        print(f"{case}, {run.scheduler}, {run.preset}, {run.width}x{run.height}x{run.num_frames}, {run.steps} steps")
        wanted = reference(scratch / "diffusers", run, verify=False)
        line = command(binary, scratch / case.layout, replace(run), sizes, case.layout, scratch)
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"  FAILED: exit {done.returncode}\n{done.stderr[-2000:]}\n  {' '.join(line)}")
            return False
        return report(load_file(scratch / "dump.safetensors"), wanted, verbose)


def all_cases(seeds: list[int]) -> Iterator[Case]:
    """Three kinds (the 5B with and without image), both layouts, several seeds."""
    for seed in seeds:
        for kind in KINDS:
            for layout in LAYOUTS:
                for with_image in (True, False) if kind == "ti2v-5b" else (kind == "i2v-a14b",):
                    yield Case(kind, layout, seed, with_image)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=Path("target/debug/leoma-node"))
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--layout", choices=LAYOUTS, default="diffusers")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--no-image", action="store_true", help="for the 5B: text to video")
    parser.add_argument("--scheduler", choices=SCHEDULERS, help="default: drawn")
    parser.add_argument("--all", action="store_true", help="every kind and layout")
    parser.add_argument("--seeds", type=int, default=2, help="with --all: how many seeds")
    parser.add_argument("--keep", type=Path, help="keep checkpoints and dumps in this folder")
    parser.add_argument("--quiet", action="store_true", help="tables only of failures")
    arguments = parser.parse_args()
    if arguments.all == bool(arguments.kind):
        parser.error("give either --all or --kind")
    torch.set_num_threads(1)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    if arguments.all:
        cases = list(all_cases([seed + offset for offset in range(arguments.seeds)]))
    else:
        with_image = arguments.kind == "i2v-a14b" or (arguments.kind == "ti2v-5b" and not arguments.no_image)
        cases = [Case(arguments.kind, arguments.layout, seed, with_image, arguments.scheduler)]
    failed = [case for case in cases if not run_case(case, arguments.binary, arguments.keep, not arguments.quiet)]
    print(f"{len(cases) - len(failed)} of {len(cases)} passed")
    for case in failed:
        print(f"failed: {case}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
