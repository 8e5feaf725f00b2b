"""What happens where: for every place of a latent, how far what is seen there is from where it was at first, and more.

The scenes are painted by code, so that this is known without estimating it. The transformer learns to tell it from the
middle of its blocks (`Guide`); what asks for the motion and what moves by it are found much sooner so than from the
velocity alone. The guide is not part of the checkpoint.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from .scenes import FRAMES, HEIGHT, WIDTH, Scene

# Pixels and frames of one latent.
CELL, STRIDE = 16, 4
LATENT_FRAMES = (FRAMES - 1) // STRIDE + 1
# The way across and down, the light, and of a thing that does something: that it is here, its turn, its growth. Turn
# and growth are told apart from the way because they hardly move what is near the thing's centre.
KINDS = 6


def field(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """What happens, [KINDS, T, h, w] float16: ways in latents, logarithms of light and growth, turns in radians.

    And [T, h, w]: whether a thing that does something is there, or was there at first.
    """
    # The middle of the frames that a latent holds.
    t = np.arange(LATENT_FRAMES)
    s = (np.where(t == 0, 0, t * STRIDE - (STRIDE - 1) / 2) / (FRAMES - 1)).reshape(-1, 1, 1)
    y, x = np.meshgrid(
        np.arange(CELL / 2, HEIGHT, CELL), np.arange(CELL / 2, WIDTH, CELL), indexing="ij"
    )  # [h, w], pixels
    zoom = scene.zoom**s
    # Places of the first frame are places of the world.
    from_x = (x - WIDTH / 2) / zoom + WIDTH / 2 + scene.pan[0] * s
    from_y = (y - HEIGHT / 2) / zoom + HEIGHT / 2 + scene.pan[1] * s
    world_x, world_y = from_x, from_y
    acting = np.zeros_like(from_x, dtype=bool)
    here, turn, grown = np.zeros_like(from_x), np.zeros_like(from_x), np.zeros_like(from_x)
    for thing in scene.things:
        dx = world_x - (thing.x + thing.move[0] * s)
        dy = world_y - (thing.y + thing.move[1] * s)
        growth = thing.growth**s
        there = np.hypot(dx, dy) < thing.radius * growth
        cos, sin = np.cos(thing.turn * s), np.sin(thing.turn * s)
        from_x = np.where(there, thing.x + (cos * dx + sin * dy) / growth, from_x)
        from_y = np.where(there, thing.y + (cos * dy - sin * dx) / growth, from_y)
        here = np.where(there, float(thing.action != "still"), here)
        turn = np.where(there, thing.turn * s, turn)
        grown = np.where(there, s * math.log(thing.growth), grown)
        if thing.action != "still":
            reach = thing.radius + CELL / 2
            acting |= np.hypot(dx, dy) < reach * growth
            acting |= np.hypot(world_x - thing.x, world_y - thing.y) < reach
    light = np.broadcast_to(s * math.log(scene.brightness), from_x.shape)
    # Of the size of a way of a latent or so each.
    told = np.stack([(from_x - x) / CELL, (from_y - y) / CELL, light, 2 * here, 2 * turn, 4 * grown])
    return told.astype(np.float16), acting


def tokens(field: Tensor) -> Tensor:
    """[B, C, T, h, w] as the rows of the transformer's tokens, [B, T * h/2 * w/2, 4 C]."""
    b, c, t, h, w = field.shape
    # Axes: clip, kind, frame, token's row, row within, token's column, column within.
    return field.view(b, c, t, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 4 * c)


class Guide(nn.Module):
    """Reads the field from the output of a block."""

    def __init__(self, transformer: nn.Module, block: int) -> None:
        super().__init__()
        config = transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        self.norm, self.out = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 4 * KINDS)
        self.seen: Tensor | None = None
        transformer.blocks[block].register_forward_hook(self._see)

    def _see(self, _block: nn.Module, _inputs: object, output: Tensor) -> None:
        self.seen = output

    def loss(self, field: Tensor) -> Tensor:
        """Squared error of the field, on average; after the transformer's pass."""
        assert self.seen is not None
        told, self.seen = self.out(self.norm(self.seen)).float(), None
        return (told - tokens(field)).square().mean()
