"""Plants known mistakes in the reference and measures what they move: proof that the gates would see them.

    python sensitivity.py [--kind ti2v-5b]

Works on the committed fixtures. Prints, per mistake, the relative L2 distance of the final latents (or of
the tensor named) from the run without it. The gate is 2e-5, so every line must be well above.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import diffusers.pipelines.wan.pipeline_wan as text_to_video
import diffusers.pipelines.wan.pipeline_wan_i2v as image_to_video
import torch
from diffusers.models import activations
from diffusers.models.autoencoders import autoencoder_kl_wan as vae_module
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from transformers.activations import NewGELUActivation

from checkpoints import KINDS
from compare import relative_l2
from fixtures import RUNS, picture
from reference import Run, capture, load_pipeline, set_scheduler

FIXTURES = Path(__file__).parents[2] / "models" / "tests" / "fixtures"
Mistake = Callable[[Any], Any]
EXACT_GELU = torch.nn.functional.gelu


@contextmanager
def erf_gelu(_: Any) -> Iterator[None]:
    """Exact GELU in the transformer's feed-forward."""
    with patch.object(activations.F, "gelu", lambda x, approximate="none": EXACT_GELU(x)):
        yield


@contextmanager
def no_corrector(pipeline: Any) -> Iterator[None]:
    """UniPC predicts only."""
    pipeline.scheduler.register_to_config(disable_corrector=list(range(100)))
    pipeline.scheduler.disable_corrector = list(range(100))
    yield


@contextmanager
def first_order(pipeline: Any) -> Iterator[None]:
    """UniPC of order 1."""
    pipeline.scheduler.register_to_config(solver_order=1)
    yield


@contextmanager
def float_timesteps(pipeline: Any) -> Iterator[None]:
    """The model is fed 1000 sigma without truncation."""
    set_timesteps = pipeline.scheduler.set_timesteps

    def untruncated(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        pipeline.scheduler.timesteps = pipeline.scheduler.sigmas[:-1] * 1000

    with patch.object(pipeline.scheduler, "set_timesteps", untruncated):
        yield


@contextmanager
def norm_per_head(pipeline: Any) -> Iterator[None]:
    """Q and k normalised head by head."""
    width = pipeline.transformer.config.attention_head_dim

    def per_head(self: torch.nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
        heads = x.unflatten(-1, (-1, width))
        normed = heads * torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.flatten(-2) * self.weight

    with patch.object(torch.nn.RMSNorm, "forward", per_head):
        yield


@contextmanager
def uncleaned(_: Any) -> Iterator[None]:
    """The prompt goes to the tokenizer as typed."""
    with patch.object(text_to_video, "prompt_clean", str), patch.object(image_to_video, "prompt_clean", str):
        yield


@contextmanager
def _changed(tensors: list[torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Replaces weights for a while and puts back every bit."""
    kept = [tensor.detach().clone() for tensor in tensors]
    for tensor in tensors:
        tensor.data.copy_(change(tensor))
    yield
    for tensor, value in zip(tensors, kept, strict=True):
        tensor.data.copy_(value)


def _text_attention(pipeline: Any) -> list[Any]:
    return [block.layer[0].SelfAttention for block in pipeline.text_encoder.encoder.block]


@contextmanager
def shared_bias(pipeline: Any) -> Iterator[None]:
    """One relative position table for all text layers."""
    tables = [attention.relative_attention_bias.weight for attention in _text_attention(pipeline)]
    with _changed(tables[1:], lambda _: tables[0]):
        yield


@contextmanager
def scaled_text_scores(pipeline: Any) -> Iterator[None]:
    """T5 attention with 1/sqrt(d)."""
    scale = math.sqrt(pipeline.text_encoder.config.d_kv)
    with _changed([attention.q.weight for attention in _text_attention(pipeline)], lambda q: q / scale):
        yield


@contextmanager
def swapped_experts(pipeline: Any) -> Iterator[None]:
    """Transformer and transformer_2 exchanged."""
    pipeline.transformer, pipeline.transformer_2 = pipeline.transformer_2, pipeline.transformer
    yield
    pipeline.transformer, pipeline.transformer_2 = pipeline.transformer_2, pipeline.transformer


@contextmanager
def padding_dropped(pipeline: Any) -> Iterator[None]:
    """Cross attention sees the real tokens only."""
    encode = pipeline.encode_prompt

    def cut(*args: Any, **kwargs: Any) -> tuple[torch.Tensor | None, ...]:
        embeds = encode(*args, **kwargs)
        return tuple(e if e is None else e[:, : int(e[0].abs().sum(-1).gt(0).sum())] for e in embeds)

    with patch.object(pipeline, "encode_prompt", cut):
        yield


@contextmanager
def erf_text_gelu(_: Any) -> Iterator[None]:
    """Exact GELU in the text encoder."""
    with patch.object(NewGELUActivation, "forward", lambda self, x: EXACT_GELU(x)):
        yield


@contextmanager
def history_of_first_chunk(_: Any) -> Iterator[None]:
    """The second chunk's temporal upsampling sees the first frame instead of zeros."""
    forward = vae_module.WanResample.forward

    def with_history(self: Any, x: torch.Tensor, feat_cache: Any = None, feat_idx: Any = (0,)) -> torch.Tensor:
        first = self.mode == "upsample3d" and feat_cache is not None and feat_cache[feat_idx[0]] is None
        index = feat_idx[0]
        result = forward(self, x, feat_cache, feat_idx)
        if first:
            feat_cache[index] = x[:, :, -1:].clone()
        return result

    with patch.object(vae_module.WanResample, "forward", with_history):
        yield


class _Rope(torch.nn.Module):
    """Rotary tables with any split of the head over time, height and width."""

    def __init__(self, split: tuple[int, int, int]) -> None:
        super().__init__()
        self.tables = [
            get_1d_rotary_pos_embed(
                dim, 64, 10000.0, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64
            )
            for dim in split
        ]

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        t, h, w = hidden.shape[2], hidden.shape[3] // 2, hidden.shape[4] // 2
        views = ((t, 1, 1), (1, h, 1), (1, 1, w))
        return tuple(
            torch.cat(
                [
                    tables[part][:size].view(*view, -1).expand(t, h, w, -1)
                    for tables, size, view in zip(self.tables, (t, h, w), views, strict=True)
                ],
                dim=-1,
            ).reshape(1, t * h * w, 1, -1)
            for part in (0, 1)
        )


@contextmanager
def rotary_split(pipeline: Any) -> Iterator[None]:
    """The odd share of the head goes to the width instead of to time."""
    models = [m for m in (pipeline.transformer, pipeline.transformer_2) if m is not None]
    kept = [m.rope for m in models]
    width = pipeline.transformer.config.attention_head_dim
    third = 2 * (width // 6)
    for m in models:
        m.rope = _Rope((third, third, width - 2 * third))
    yield
    for m, rope in zip(models, kept, strict=True):
        m.rope = rope


@contextmanager
def first_frame_at_t(pipeline: Any) -> Iterator[None]:
    """Tokens of the given first frame get the timestep of the others."""
    forward = pipeline.transformer.forward

    def uniform(*args: Any, timestep: torch.Tensor, **kwargs: Any) -> Any:
        return forward(*args, timestep=timestep.max().expand(timestep.shape), **kwargs)

    with patch.object(pipeline.transformer, "forward", uniform):
        yield


@contextmanager
def sampled_latents(_: Any) -> Iterator[None]:
    """Image latents sampled instead of the mean."""
    generator = torch.Generator().manual_seed(0)

    def sample(output: Any, **_: Any) -> torch.Tensor:
        return output.latent_dist.sample(generator)

    with patch.object(image_to_video, "retrieve_latents", sample):
        yield


@contextmanager
def repeated_image(pipeline: Any) -> Iterator[None]:
    """The I2V clip repeats the image instead of continuing in grey."""
    encode = pipeline.vae.encode

    def repeated(clip: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return encode(clip[:, :, :1].expand_as(clip).contiguous(), *args, **kwargs)

    with patch.object(pipeline.vae, "encode", repeated):
        yield


EVERY: list[Mistake] = [
    erf_gelu,
    erf_text_gelu,
    no_corrector,
    first_order,
    float_timesteps,
    norm_per_head,
    rotary_split,
    uncleaned,
    shared_bias,
    scaled_text_scores,
    padding_dropped,
    history_of_first_chunk,
]
OF_KIND: dict[str, list[Mistake]] = {
    "ti2v-5b": [first_frame_at_t, sampled_latents],
    "i2v-a14b": [swapped_experts, sampled_latents, repeated_image],
    "t2v-a14b": [swapped_experts],
}


def captured(pipeline: Any, config: Any, run: Run, mistake: Mistake | None) -> dict[str, torch.Tensor]:
    """A run with a mistake planted."""
    set_scheduler(pipeline, config, run)
    with torch.no_grad():
        if mistake is None:
            return capture(pipeline, run)
        with mistake(pipeline):
            return capture(pipeline, run)


def measure(kind: str) -> bool:
    """Prints the table of a kind; false when a mistake stayed within the gate."""
    name, run = next(iter(RUNS[kind].items()))
    seen = True
    with TemporaryDirectory() as scratch:
        if run.image is not None:
            path = Path(scratch) / "image.png"
            picture(run.seed, run.height, run.width).save(path)
            run = replace(run, image=path)
        pipeline = load_pipeline(FIXTURES / kind, run.image is not None)
        config = pipeline.scheduler.config
        right = captured(pipeline, config, run, None)
        print(f"{kind}, run {name}")
        cases: list[tuple[str, Run, Mistake | None]] = [
            ((m.__doc__ or "").splitlines()[0], run, m) for m in EVERY + OF_KIND[kind]
        ]
        cases.append(("Euler for UniPC.", replace(run, scheduler="euler"), None))
        if run.guidance_scale_2 is not None:
            swapped = replace(run, guidance_scale=run.guidance_scale_2, guidance_scale_2=run.guidance_scale)
            cases.append(("Guidance scales exchanged.", swapped, None))
        for text, changed, mistake in cases:
            wrong = captured(pipeline, config, changed, mistake)
            moved = {key: relative_l2(wrong[key], right[key]) for key in ("latents.final", "decoded")}
            caught = max(moved.values()) > 2e-5
            seen &= caught
            values = "  ".join(f"{key} {value:.1e}" for key, value in moved.items())
            print(f"  {'' if caught else 'NOT SEEN '}{values}  {text}")
    return seen


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS)
    kind = parser.parse_args().kind
    torch.set_num_threads(1)
    results = [measure(each) for each in ([kind] if kind else KINDS)]
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
