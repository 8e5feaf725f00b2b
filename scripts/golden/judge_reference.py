"""What transformers 5.14.1 makes of a conversation with pictures, in float32 on the CPU.

Pictures and tokens come from its own processor. The text holds the bare video mark: with the chat template's
pair of marks round it, 5.14.1 would leave the pair in place beside those it writes for every temporal patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.video_utils import VideoMetadata

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|video_pad|>"


@dataclass
class Case:
    """A conversation: one turn of the user made of parts, `image`, `video` or `text:…`, in order."""

    parts: list[str]
    images: list[np.ndarray] = field(default_factory=list)
    """[H, W, 3] uint8 each."""
    video: np.ndarray | None = None
    """[T, H, W, 3] uint8."""
    indices: list[int] = field(default_factory=list)
    fps: float = 16.0

    def text(self) -> str:
        """The user's turn and the beginning of the answer."""
        marks = {"image": IMAGE, "video": VIDEO}
        content = "".join(marks.get(part, part.removeprefix("text:")) for part in self.parts)
        return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def load(folder: Path) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """Model in float32 with plain attention, and processor."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=Qwen3VLVideoProcessor.from_pretrained(folder, subfolder=""),
    )
    return model.eval(), processor


def inputs(processor: Qwen3VLProcessor, case: Case) -> dict[str, Any]:
    """The processor's output for a case."""
    extra: dict[str, Any] = {}
    if case.images:
        extra["images"] = [torch.from_numpy(image).permute(2, 0, 1) for image in case.images]
    if case.video is not None:
        extra["videos"] = [torch.from_numpy(case.video).permute(0, 3, 1, 2)]
        extra["video_metadata"] = [
            VideoMetadata(total_num_frames=1000, fps=case.fps, frames_indices=list(case.indices))
        ]
        extra["do_sample_frames"] = False
    return processor(text=[case.text()], return_tensors="pt", **extra)


def visual(model: Qwen3VLForConditionalGeneration, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Patches, grids and features of all pictures, images before videos."""
    pixels = [batch[key] for key in ("pixel_values", "pixel_values_videos") if key in batch]
    grids = [batch[key] for key in ("image_grid_thw", "video_grid_thw") if key in batch]
    if not pixels:
        return {}
    return visual_of(model, torch.cat(pixels), torch.cat(grids))


def visual_of(
    model: Qwen3VLForConditionalGeneration, pixels: torch.Tensor, grid: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Features of given patches."""
    with torch.no_grad():
        features = model.model.visual(pixels, grid_thw=grid)
    return {
        "pixel_values": pixels,
        "grid": grid,
        "vision": features.pooler_output,
        "deepstack": torch.stack(features.deepstack_features),
    }


def position_ids(model: Qwen3VLForConditionalGeneration, batch: dict[str, Any]) -> torch.Tensor:
    """[3, L]."""
    ids, _ = model.model.get_rope_index(
        batch["input_ids"],
        batch["mm_token_type_ids"],
        image_grid_thw=batch.get("image_grid_thw"),
        video_grid_thw=batch.get("video_grid_thw"),
    )
    return ids[:, 0]


def run(folder: Path, case: Case, new_tokens: int = 6) -> dict[str, torch.Tensor]:
    """Everything that is compared: patches, grids, tokens, positions, features, logits, greedy tokens."""
    model, processor = load(folder)
    batch = inputs(processor, case)
    tensors = visual(model, batch)
    with torch.no_grad():
        logits = model(**batch).logits[0]
        generated = model.generate(
            **batch,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=model.config.text_config.vocab_size - 1,
        )
    tensors |= {
        "input_ids": batch["input_ids"][0],
        "position_ids": position_ids(model, batch),
        "logits": logits,
        "greedy": generated[0, batch["input_ids"].shape[1] :],
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
