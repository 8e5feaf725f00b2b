"""The text encoder and the transformer as one model, for flow matching and for sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# The pinned pipelines pad text to this many rows; the rows behind the last token are zero, and are attended to.
TEXT_ROWS = 512


class Attention:
    """Attention of diffusers' blocks as plain products, which for short sequences is several times faster to train.

    To text it attends to fewer rows than 512: the padding rows are equal, and P equal rows weigh as one row whose
    score has ln P added. The last row given must be padding.
    """

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The signature of diffusers' processors."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(source)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(source).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        if rotary_emb is not None:
            query, key = _rotate(query, *rotary_emb), _rotate(key, *rotary_emb)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if encoder_hidden_states is not None:
            bias = scores.new_zeros(source.shape[1])
            bias[-1] = math.log(TEXT_ROWS - source.shape[1] + 1)
            scores = scores + bias
        out = torch.softmax(scores, dim=-1) @ value
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the adjacent pairs of every head."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2].to(x.dtype), sin[..., 1::2].to(x.dtype)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)


class Times:
    """Diffusers' embedding of times, for the two times that a clip has: of its first frame and of the others."""

    def __init__(self, embedder: nn.Module) -> None:
        self.whole = embedder.forward
        self.first_tokens = 0

    def __call__(
        self, timestep: Tensor, encoder_hidden_states: Tensor, image: Tensor | None = None, timestep_seq_len: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The signature of diffusers' embedder, `timestep` being [B * tokens]."""
        ends = timestep.view(-1, timestep_seq_len)[:, [0, -1]].flatten()
        time, modulation, text, image = self.whole(ends, encoder_hidden_states, image, timestep_seq_len=2)
        counts = torch.tensor([self.first_tokens, timestep_seq_len - self.first_tokens])
        return time.repeat_interleave(counts, 1), modulation.repeat_interleave(counts, 1), text, image


class Flow(nn.Module):
    """Velocity of noisy latents under token ids."""

    def __init__(self, text: nn.Module, transformer: nn.Module) -> None:
        super().__init__()
        self.text, self.transformer = text, transformer
        self.times = Times(transformer.condition_embedder)
        transformer.condition_embedder.forward = self.times
        for block in transformer.blocks:
            block.attn1.processor = Attention()
            block.attn2.processor = Attention()

    def encode(self, ids: Tensor) -> Tensor:
        """Text rows [B, rows, width] of ids padded with 0; rows behind the end are zero."""
        mask = ids != 0
        out = self.text(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return out * mask[..., None]

    def forward(self, latents: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """`times` [B, tokens] in 0..1000, one for the first frame's tokens and one for all others."""
        text = self.encode(ids)
        self.times.first_tokens = times.shape[1] // latents.shape[2]
        return self.transformer(hidden_states=latents, timestep=times, encoder_hidden_states=text, return_dict=False)[0]


def token_times(t: Tensor, frames: int, per_frame: int, with_image: Tensor) -> Tensor:
    """One time per token [B, frames * per_frame]: 0 in the first frame where it is a given picture."""
    times = t[:, None].expand(-1, frames).clone()
    times[:, 0] *= 1 - with_image.float()
    return times.repeat_interleave(per_frame, dim=1)


def token_ids(tokenizer: object, captions: list[str]) -> Tensor:
    """Ids [B, rows] padded with 0, the last row always being padding."""
    lists = [ids[: TEXT_ROWS - 1] for ids in tokenizer(captions).input_ids]
    # A few lengths only, as memory is laid out anew for each.
    rows = -(-(max(len(ids) for ids in lists) + 1) // 8) * 8
    return torch.tensor([ids + [0] * (rows - len(ids)) for ids in lists])
