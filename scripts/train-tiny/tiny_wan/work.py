"""What the stages share: processes, the clock, resuming, logs."""

from __future__ import annotations

import argparse
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def start() -> tuple[int, int]:
    """Rank and number of processes. Each uses one thread: two busy threads wait for each other on shared cores."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    torch.set_num_threads(int(os.environ.get("TINY_THREADS", "1")))
    if world > 1:
        dist.init_process_group("gloo", timeout=timedelta(minutes=40))
    return rank, world


def device() -> torch.device:
    """A CUDA card where there is one and TINY_DEVICE does not say otherwise."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get("TINY_DEVICE", found))


def barrier() -> None:
    """Waits for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def agree(value: float) -> float:
    """The value of process 0, in all processes."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return shared.item()


class Clock:
    """Time spent in a stage, over all its runs; the learning rate follows it.

    On a processor it is processor time: that of an idle machine. On a busy one the stage takes longer and learns as
    much. With a card it is the time on the wall.
    """

    def __init__(self, minutes: float, spent: float = 0.0, alone: bool = False) -> None:
        self.now = time.monotonic if device().type == "cuda" else time.process_time
        self.budget, self.spent, self.last, self.alone = minutes * 60, spent, self.now(), alone

    def tick(self) -> float:
        """Share of the budget used, in [0, 1]; the same in all processes, who ask together, but for one `alone`."""
        now = self.now()
        self.spent += now - self.last
        self.last = now
        return min(1.0, (self.spent if self.alone else agree(self.spent)) / self.budget)


def rate(progress: float, peak: float, warm: float = 0.03, flat: float = 0.25) -> float:
    """Warm-up, plateau, then a straight line to 2 % of the peak."""
    if progress < warm:
        return peak * (0.05 + 0.95 * progress / warm)
    if progress < flat:
        return peak
    return peak * (0.02 + 0.98 * (1 - progress) / (1 - flat))


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes beside the file and renames, so that a stop leaves the old state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.rename(path)


def plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as numbers and texts: files with other types in them are not read back."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}


def log(rank: int, *words: object) -> None:
    """A line with the time, from the first process."""
    if rank == 0:
        print(time.strftime("%H:%M:%S"), *words, flush=True)
