"""Plants known mistakes in the judge's reference and measures what they move: proof that the gate would see them.

    python judge_sensitivity.py

Works on the committed fixture. Prints, per mistake, the relative L2 distance of the scores of all words from the
run without it. The gate is 2e-5, so every line must be well above.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

from compare import relative_l2
from judge_reference import Case, inputs, load

FIXTURE = Path(__file__).parents[2] / "models" / "tests" / "fixtures" / "judge"
GATE = 2e-5
EAGER = modeling.eager_attention_forward


@contextmanager
def no_mask(model: Any) -> Iterator[None]:
    """No causal mask in the prefill."""
    with patch.object(modeling, "create_causal_mask", lambda **_: None):
        yield


@contextmanager
def flat_positions(model: Any) -> Iterator[None]:
    """Positions count tokens: no M-RoPE."""

    def flat(input_ids: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        count = torch.arange(input_ids.shape[1]).expand(3, 1, -1)
        return count, torch.zeros(1, 1, dtype=torch.long)

    with patch.object(model.model, "get_rope_index", flat):
        yield


@contextmanager
def advancing_time(model: Any) -> Iterator[None]:
    """Positions of a block begin one later on the axis of time."""
    whole = model.model.get_vision_position_ids

    def later(*args: Any, **kwargs: Any) -> torch.Tensor:
        ids = whole(*args, **kwargs)
        ids[0] += 1
        return ids

    with patch.object(model.model, "get_vision_position_ids", later):
        yield


@contextmanager
def chunked(model: Any) -> Iterator[None]:
    """Axes in chunks as in Qwen2.5-VL instead of interleaved."""

    def chunks(self: Any, freqs: torch.Tensor, section: list[int]) -> torch.Tensor:
        parts = freqs.split(section, dim=-1)
        return torch.cat([part[axis] for axis, part in enumerate(parts)], -1)

    with patch.object(modeling.Qwen3VLTextRotaryEmbedding, "apply_interleaved_mrope", chunks):
        yield


@contextmanager
def rotated_pairs(model: Any) -> Iterator[None]:
    """Adjacent pairs turned instead of the halves of a head."""

    def pairs(x: torch.Tensor) -> torch.Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    with patch.object(modeling, "rotate_half", pairs):
        yield


@contextmanager
def no_deepstack(model: Any) -> Iterator[None]:
    """DeepStack features forgotten."""
    with patch.object(modeling.Qwen3VLTextModel, "_deepstack_process", lambda self, hidden, *_: hidden):
        yield


@contextmanager
def exchanged_deepstack(model: Any) -> Iterator[None]:
    """DeepStack levels in reverse order."""
    indexes = model.model.visual.deepstack_visual_indexes
    model.model.visual.deepstack_visual_indexes = list(reversed(indexes))
    mergers = model.model.visual.deepstack_merger_list
    model.model.visual.deepstack_merger_list = torch.nn.ModuleList(reversed(mergers))
    forward = modeling.Qwen3VLTextModel.forward

    def reverse(self: Any, *args: Any, deepstack_visual_embeds: Any = None, **kwargs: Any) -> Any:
        if deepstack_visual_embeds is not None:
            deepstack_visual_embeds = list(reversed(deepstack_visual_embeds))
        return forward(self, *args, deepstack_visual_embeds=deepstack_visual_embeds, **kwargs)

    with patch.object(modeling.Qwen3VLTextModel, "forward", reverse):
        yield
    model.model.visual.deepstack_visual_indexes = indexes
    model.model.visual.deepstack_merger_list = mergers


@contextmanager
def tanh_merger(model: Any) -> Iterator[None]:
    """Tanh GELU in the mergers."""
    mergers = [model.model.visual.merger, *model.model.visual.deepstack_merger_list]
    for merger in mergers:
        merger.act_fn = torch.nn.GELU(approximate="tanh")
    yield
    for merger in mergers:
        merger.act_fn = torch.nn.GELU()


@contextmanager
def erf_blocks(model: Any) -> Iterator[None]:
    """Exact GELU in the vision blocks."""
    layers = [block.mlp for block in model.model.visual.blocks]
    acts = [layer.act_fn for layer in layers]
    for layer in layers:
        layer.act_fn = torch.nn.GELU()
    yield
    for layer, act in zip(layers, acts, strict=True):
        layer.act_fn = act


@contextmanager
def whole_clip(model: Any) -> Iterator[None]:
    """Vision attention over the whole clip instead of one temporal patch."""

    def joined(grid: torch.Tensor, kwargs: Any = None) -> torch.Tensor:
        ends = grid.prod(-1).cumsum(0, dtype=torch.int32)
        return torch.nn.functional.pad(ends, (1, 0))

    with patch.object(modeling, "get_vision_cu_seqlens", joined):
        yield


@contextmanager
def nearest_table(model: Any) -> Iterator[None]:
    """Position table read at the nearest row instead of interpolated."""
    exact = modeling.get_vision_bilinear_indices_and_weights

    def nearest(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows, weights = exact(*args, **kwargs)
        return rows, torch.nn.functional.one_hot(weights.argmax(0), 4).T.to(weights)

    with patch.object(modeling, "get_vision_bilinear_indices_and_weights", nearest):
        yield


@contextmanager
def unordered_table(model: Any) -> Iterator[None]:
    """Rotary positions of patches row by row instead of group by group."""

    def rows(grid: torch.Tensor, merge: int, **_: Any) -> torch.Tensor:
        return torch.cat([torch.cartesian_prod(torch.arange(h), torch.arange(w)).repeat(t, 1) for t, h, w in grid])

    with patch.object(modeling, "get_vision_position_ids", rows):
        yield


@contextmanager
def exchanged_heads(model: Any) -> Iterator[None]:
    """Heads of k repeated one after the other instead of each in place."""

    def tiled(states: torch.Tensor, times: int) -> torch.Tensor:
        return states.repeat(1, times, 1, 1)

    with patch.object(modeling, "repeat_kv", tiled):
        yield


@contextmanager
def no_norms(model: Any) -> Iterator[None]:
    """Norms of q and k forgotten."""
    layers = [layer.self_attn for layer in model.model.language_model.layers]
    norms = [(layer.q_norm, layer.k_norm) for layer in layers]
    for layer in layers:
        layer.q_norm = layer.k_norm = torch.nn.Identity()
    yield
    for layer, (q, k) in zip(layers, norms, strict=True):
        layer.q_norm, layer.k_norm = q, k


MISTAKES: tuple[Callable[[Any], Any], ...] = (
    no_mask,
    flat_positions,
    advancing_time,
    chunked,
    rotated_pairs,
    no_deepstack,
    exchanged_deepstack,
    tanh_merger,
    erf_blocks,
    whole_clip,
    nearest_table,
    unordered_table,
    exchanged_heads,
    no_norms,
)


def main() -> None:
    """Command line."""
    torch.set_num_threads(1)
    tensors = load_file(FIXTURE / "clip.safetensors")
    settings = json.loads((FIXTURE / "clip.json").read_text())
    case = Case(
        settings["parts"],
        [tensors["image.0"].numpy()],
        tensors["video"].numpy(),
        settings["indices"],
        settings["fps"],
    )
    model, processor = load(FIXTURE / "model")
    batch = inputs(processor, case)

    def logits() -> torch.Tensor:
        model.model.rope_deltas = None
        with torch.no_grad():
            return model(**batch).logits[0]

    right = logits()
    seen = True
    for mistake in MISTAKES:
        with mistake(model):
            moved = relative_l2(logits(), right)
        seen &= moved > GATE
        text = (mistake.__doc__ or "").splitlines()[0]
        print(f"  {'' if moved > GATE else 'NOT SEEN '}{moved:.1e}  {text}")
    assert relative_l2(logits(), right) == 0, "a mistake was left behind"
    raise SystemExit(0 if seen else 1)


if __name__ == "__main__":
    main()
