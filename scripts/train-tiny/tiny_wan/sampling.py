"""Clips of a checkpoint through the pinned pipelines, on the CPU in float32."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.utils import logging
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from .networks import make_text_encoder, make_transformer, make_vae
from .scenes import FRAMES, HEIGHT, WIDTH

logging.set_verbosity_error()
NEGATIVE = "low quality, blurry, distorted"


@dataclass(frozen=True)
class Recipe:
    """Settings of the sampler: those of the node's `tiny` preset."""

    steps: int = 20
    guidance: float = 2.0
    frames: int = FRAMES
    width: int = WIDTH
    height: int = HEIGHT


def _pipeline(parts: dict[str, Any], index: dict[str, Any]) -> WanImageToVideoPipeline:
    pipeline = WanImageToVideoPipeline(
        **parts, transformer_2=None, boundary_ratio=None, expand_timesteps=index["expand_timesteps"]
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load(folder: Path) -> WanImageToVideoPipeline:
    """The image-to-video pipeline of a checkpoint in the diffusers layout."""
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        "scheduler": UniPCMultistepScheduler.from_pretrained(folder / "scheduler"),
        "transformer": WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32),
    }
    return _pipeline(parts, json.loads((folder / "model_index.json").read_text()))


def untrained(like: Path) -> WanImageToVideoPipeline:
    """The same networks with random weights, for comparison."""
    pipeline = load(like)
    vae, transformer = pipeline.vae.config, pipeline.transformer.config
    parts = {
        "tokenizer": pipeline.tokenizer,
        "text_encoder": make_text_encoder(99, len(pipeline.tokenizer)),
        "vae": make_vae(99, vae.base_dim, vae.decoder_base_dim, vae.num_res_blocks),
        "scheduler": pipeline.scheduler,
        "transformer": make_transformer(99, transformer.num_attention_heads, transformer.num_layers),
    }
    torch.nn.init.normal_(parts["transformer"].proj_out.weight, std=0.05)
    return _pipeline(parts, {"expand_timesteps": True})


@torch.no_grad()
def generate(
    pipeline: WanImageToVideoPipeline, prompt: str, first: Tensor | None, seed: int, recipe: Recipe = Recipe()
) -> Tensor:
    """A clip [T, 3, H, W] in [0, 1], from a first frame [3, H, W] in [0, 1] or without one."""
    arguments: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": NEGATIVE,
        "height": recipe.height,
        "width": recipe.width,
        "num_frames": recipe.frames,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.guidance,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "np",
    }
    if first is None:
        names = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
        parts = {name: pipeline.components[name] for name in names}
        plain = WanPipeline(**parts, transformer_2=None, boundary_ratio=None, expand_timesteps=True)
        plain.set_progress_bar_config(disable=True)
        frames = plain(**arguments).frames
    else:
        picture = Image.fromarray((first * 255).round().byte().permute(1, 2, 0).numpy().astype(np.uint8))
        frames = pipeline(image=picture, **arguments).frames
    return torch.from_numpy(frames[0]).permute(0, 3, 1, 2).float()
