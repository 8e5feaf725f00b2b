"""Strips and grids of frames as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor


def strip(clip: Tensor, every: int = 4) -> Tensor:
    """Frames [T, 3, H, W] in [0, 1] side by side."""
    return torch.cat(list(clip[::every]), dim=2)


def save_rows(path: Path, rows: list[Tensor], labels: list[str] | None = None, scale: int = 1) -> None:
    """Writes pictures [3, H, W] below one another, each under its label."""
    labels = labels or [""] * len(rows)
    width = max(row.shape[2] for row in rows) * scale
    above = 14 if any(labels) else 2
    sheet = Image.new("RGB", (width, sum(row.shape[1] * scale + above for row in rows)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, label in zip(rows, labels, strict=True):
        if label:
            draw.text((2, top + 1), label, fill="black")
        values = (row.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(np.ascontiguousarray(values))
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        sheet.paste(picture, (0, top + above))
        top += row.shape[1] * scale + above
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
