"""Painted clips on disk, as bytes: `clips-NNN.npy` of [n, frames, 3, height, width].

`python -m tiny_wan.pool --run DIR` paints them, in one or more processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .paint import paint, photos, to_bytes
from .scenes import draw
from .work import start

PER_FILE = 50
# Scenes for training count from here, held-out ones from 0.
TRAIN, HELD_OUT = 1_000_000, 0


def fill(folder: Path, first: int, last: int) -> None:
    """Paints the files first..last; files that exist are left."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, last):
        path = folder / f"clips-{number:03}.npy"
        if path.exists():
            continue
        seeds = range(TRAIN + number * PER_FILE, TRAIN + (number + 1) * PER_FILE)
        clips = torch.stack([to_bytes(paint(draw(seed, photos(False)))) for seed in seeds])
        beside = path.with_suffix(".tmp.npy")
        np.save(beside, clips.numpy())
        beside.rename(path)


class Pool:
    """Random crops of the clips in a folder; new files are noticed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.files: dict[Path, np.ndarray] = {}

    def refresh(self) -> int:
        """Number of clips."""
        for path in self.folder.glob("clips-???.npy"):
            if path not in self.files:
                self.files[path] = np.load(path, mmap_mode="r")
        return sum(len(f) for f in self.files.values())

    def crops(self, count: int, frames: int, size: int) -> Tensor:
        """[count, 3, frames, size, size] in [-1, 1], mirrored and recoloured at random."""
        names, out = list(self.files), []
        for _ in range(count):
            clips = self.files[names[self.rng.integers(len(names))]]
            clip = clips[self.rng.integers(len(clips))]
            t = self.rng.integers(clip.shape[0] - frames + 1)
            y, x = (self.rng.integers(n - size + 1) for n in clip.shape[2:])
            crop = torch.from_numpy(np.array(clip[t : t + frames, :, y : y + size, x : x + size])).float() / 127.5 - 1
            if self.rng.random() < 0.5:
                crop = crop.flip(3)
            if self.rng.random() < 0.3:
                crop = crop.flip(0)
            if self.rng.random() < 0.15:
                crop = crop[:, torch.from_numpy(self.rng.permutation(3))]
            out.append(crop.transpose(0, 1))
        return torch.stack(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--files", type=int, default=30)
    arguments = parser.parse_args()
    rank, world = start()
    for number in range(rank, arguments.files, world):
        fill(arguments.run / "pool", number, number + 1)


if __name__ == "__main__":
    main()
