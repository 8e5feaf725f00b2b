"""Stage 2: the clips of stage 3 as latents. `python -m tiny_wan.latents --run DIR`, one or more processes.

Every file holds the latents of 50 painted scenes, not normalised; their captions are drawn anew whenever they are used.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from . import whole_clip
from .networks import make_vae
from .paint import paint, photos
from .pool import PER_FILE
from .scenes import draw
from .train_vae import as_compute, take_weights
from .work import Clock, device, log, start

# Other scenes than those of the VAE's pool.
FIRST = 2_000_000


def trained_vae(run: Path) -> torch.nn.Module:
    """The VAE of stage 1, in float32."""
    sizes = torch.load(run / "vae.pt", map_location="cpu")["sizes"]
    vae = make_vae(0, sizes["encoder"], sizes["decoder"], sizes["blocks"])
    take_weights(vae, run)
    with torch.no_grad():
        for parameter in vae.parameters():
            # The weights that are shipped: rounded.
            parameter.copy_(parameter.bfloat16())
    return vae.eval()


@torch.no_grad()
def encode_scene(vae: torch.nn.Module, seed: int, held_out: bool = False) -> torch.Tensor:
    """Latents [48, T, h, w] of a painted scene."""
    clip = paint(draw(seed, photos(held_out)))
    weight = next(vae.parameters())
    x = (clip * 2 - 1).transpose(0, 1)[None].to(weight.device, weight.dtype)
    return whole_clip.encode(vae, x)[0][0].float().cpu()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--files", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    rank, world = start()
    vae = as_compute(trained_vae(arguments.run).to(device()))
    folder = arguments.run / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    began, clock = time.monotonic(), Clock(arguments.minutes, alone=True)
    for number in range(rank, arguments.files, world):
        path = folder / f"latents-{number:03}.npy"
        if path.exists():
            continue
        if clock.tick() >= 1:
            break
        seeds = range(FIRST + number * PER_FILE, FIRST + (number + 1) * PER_FILE)
        latents = torch.stack([encode_scene(vae, seed) for seed in seeds])
        beside = path.with_suffix(".tmp.npy")
        np.save(beside, latents.half().numpy())
        beside.rename(path)
        log(rank, f"{path.name}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
