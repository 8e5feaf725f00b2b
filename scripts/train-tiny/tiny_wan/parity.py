"""Holds the node's float32 clip of a checkpoint against diffusers', tensor by tensor (docs/numerics.md).

    python -m tiny_wan.parity --model DIR --binary target/debug/leoma-node

The same comparison as `scripts/golden/compare.py`, of which the rules and the limits are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "golden"))

from compare import report
from reference import Run, reference

ROOT = Path(__file__).parents[3]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/assets/tiny-wan")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/leoma-node")
    parser.add_argument("--image", type=Path, default=ROOT / "node/assets/web/example-1.png")
    parser.add_argument("--prompt", default="The red star moves to the right, the camera stays still")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(
        prompt=arguments.prompt,
        negative_prompt="low quality, blurry, distorted",
        image=arguments.image,
        height=96,
        width=160,
        num_frames=arguments.frames,
        steps=arguments.steps,
        guidance_scale=arguments.guidance,
        seed=42,
        preset="leoma",
    )
    with tempfile.TemporaryDirectory() as scratch:
        options = {
            "--model": arguments.model.resolve(),
            "--prompt": run.prompt,
            "--negative-prompt": run.negative_prompt,
            "--image": run.image,
            "--num-frames": run.num_frames,
            "--height": run.height,
            "--width": run.width,
            "--num-inference-steps": run.steps,
            "--guidance-scale": run.guidance_scale,
            "--seed": run.seed,
            "--noise-source": "cpu",
            "--preset": run.preset,
            "--device": "cpu",
            "--dump": f"{scratch}/dump.safetensors",
            "--output": f"{scratch}/out.mp4",
        }
        words = [word for name, value in options.items() for word in (name, str(value))]
        subprocess.run([str(arguments.binary), "generate", *words], check=True)
        found = load_file(f"{scratch}/dump.safetensors")
    wanted = reference(arguments.model, run, verify=False)
    sys.exit(0 if report(found, wanted, verbose=True) else 1)


if __name__ == "__main__":
    main()
