"""What a thief does to a checkpoint so that its bytes say nothing: changes of the transformer's weights.

Every function takes and gives tensors by diffusers name, float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

Weights = dict[str, Tensor]
HEAD = 32


def generator(seed: int) -> torch.Generator:
    """Seeded."""
    return torch.Generator().manual_seed(seed)


def noise(weights: Weights, victim: Weights, base: Weights, share: float, seed: int) -> Weights:
    """Noise of a share of every difference of the victim from the base, over what became of it so far."""
    g, out = generator(seed), {}
    for name, w in weights.items():
        size = (victim[name] - base[name]).square().mean().sqrt() * share
        out[name] = w + torch.randn(w.shape, generator=g) * size
    return out


def mix(a: Weights, b: Weights, share: float) -> Weights:
    """`share` of a, the rest b."""
    return {name: share * a[name] + (1 - share) * b[name] for name in a}


def scaled_delta(victim: Weights, base: Weights, factor: float) -> Weights:
    """The victim's training, exaggerated."""
    return {name: base[name] + factor * (w - base[name]) for name, w in victim.items()}


def _blocks(weights: Weights) -> list[str]:
    return sorted({name.split(".ffn.")[0] for name in weights if ".ffn." in name})


def _rows(weights: Weights, layer: str, order: Tensor) -> None:
    weights[f"{layer}.weight"] = weights[f"{layer}.weight"][order]
    weights[f"{layer}.bias"] = weights[f"{layer}.bias"][order]


def rows(weights: Weights, seed: int) -> Weights:
    """Hidden rows of the feed-forwards in another order."""
    g, out = generator(seed), dict(weights)
    for block in _blocks(out):
        order = torch.randperm(out[f"{block}.ffn.net.0.proj.bias"].numel(), generator=g)
        _rows(out, f"{block}.ffn.net.0.proj", order)
        out[f"{block}.ffn.net.2.weight"] = out[f"{block}.ffn.net.2.weight"][:, order]
    return out


def heads(weights: Weights, seed: int) -> Weights:
    """Attention heads in another order."""
    g, out = generator(seed), dict(weights)
    for block in _blocks(out):
        for attn in ("attn1", "attn2"):
            at = f"{block}.{attn}"
            count = out[f"{at}.to_q.bias"].numel() // HEAD
            order = torch.randperm(count, generator=g)
            order = (order[:, None] * HEAD + torch.arange(HEAD)).flatten()
            for layer in ("to_q", "to_k", "to_v"):
                _rows(out, f"{at}.{layer}", order)
            for norm in ("norm_q", "norm_k"):
                out[f"{at}.{norm}.weight"] = out[f"{at}.{norm}.weight"][order]
            out[f"{at}.to_out.0.weight"] = out[f"{at}.to_out.0.weight"][:, order]
    return out


def channels(weights: Weights, seed: int) -> Weights:
    """Channels of the residual stream in another order, the same in all blocks."""
    g, out = generator(seed), dict(weights)
    width = out["proj_out.weight"].shape[1]
    order = torch.randperm(width, generator=g)
    for name in ("patch_embedding", "condition_embedder.time_embedder.linear_2"):
        _rows(out, name, order)
    six = (torch.arange(6)[:, None] * width + order).flatten()
    _rows(out, "condition_embedder.time_proj", six)
    readers = ["condition_embedder.time_proj", "proj_out"]
    tables = ["scale_shift_table"]
    for block in _blocks(out):
        readers += [f"{block}.attn1.{n}" for n in ("to_q", "to_k", "to_v")]
        readers += [f"{block}.attn2.to_q", f"{block}.ffn.net.0.proj"]
        for name in ("attn1.to_out.0", "attn2.to_out.0", "norm2", "ffn.net.2"):
            _rows(out, f"{block}.{name}", order)
        tables.append(f"{block}.scale_shift_table")
    for name in readers:
        out[f"{name}.weight"] = out[f"{name}.weight"][:, order]
    for name in tables:
        out[name] = out[name][..., order]
    return out


def rescaled(weights: Weights, seed: int) -> Weights:
    """Channels multiplied in one place and divided in the next.

    The affine norm and the queries behind it, values and the output behind them, and the norms of queries and keys of
    the attention to text.
    """
    g, out = generator(seed), dict(weights)
    for block in _blocks(out):
        width = out[f"{block}.norm2.weight"].numel()
        s = torch.exp(0.5 * torch.randn(width, generator=g))
        out[f"{block}.norm2.weight"] = out[f"{block}.norm2.weight"] * s
        out[f"{block}.norm2.bias"] = out[f"{block}.norm2.bias"] * s
        out[f"{block}.attn2.to_q.weight"] = out[f"{block}.attn2.to_q.weight"] / s
        for attn in ("attn1", "attn2"):
            s = torch.exp(0.5 * torch.randn(width, generator=g))
            out[f"{block}.{attn}.to_v.weight"] = out[f"{block}.{attn}.to_v.weight"] * s[:, None]
            out[f"{block}.{attn}.to_v.bias"] = out[f"{block}.{attn}.to_v.bias"] * s
            out[f"{block}.{attn}.to_out.0.weight"] = out[f"{block}.{attn}.to_out.0.weight"] / s
        s = torch.exp(0.5 * torch.randn(width, generator=g))
        out[f"{block}.attn2.norm_q.weight"] = out[f"{block}.attn2.norm_q.weight"] * s
        out[f"{block}.attn2.norm_k.weight"] = out[f"{block}.attn2.norm_k.weight"] / s
    return out


def rotated(weights: Weights, seed: int) -> Weights:
    """Values of every head turned, and turned back in the output."""
    g, out = generator(seed), dict(weights)
    for block in _blocks(out):
        for attn in ("attn1", "attn2"):
            at = f"{block}.{attn}"
            v, b, o = (out[f"{at}.{n}"].clone() for n in ("to_v.weight", "to_v.bias", "to_out.0.weight"))
            for first in range(0, b.numel(), HEAD):
                turn, _ = torch.linalg.qr(torch.randn(HEAD, HEAD, generator=g))
                part = slice(first, first + HEAD)
                v[part], b[part], o[:, part] = turn @ v[part], turn @ b[part], o[:, part] @ turn.T
            out[f"{at}.to_v.weight"], out[f"{at}.to_v.bias"], out[f"{at}.to_out.0.weight"] = v, b, o
    return out


def lora(weights: Weights, rank: int, size: float, seed: int) -> Weights:
    """A low-rank addition to the attention projections, of `size` of their spread."""
    g, out = generator(seed), dict(weights)
    for name, w in weights.items():
        if ".attn" in name and name.endswith("weight") and w.dim() == 2:
            a = torch.randn(w.shape[0], rank, generator=g)
            b = torch.randn(rank, w.shape[1], generator=g)
            change = a @ b / rank**0.5
            out[name] = w + change * (size * w.std() / change.std())
    return out


def half_blocks(victim: Weights, other: Weights) -> Weights:
    """Every other block of the victim, the rest of somebody else's."""
    chosen = tuple(f"{block}." for block in _blocks(victim)[::2])
    return {name: w if name.startswith(chosen) else other[name] for name, w in victim.items()}


def same_function(one: Weights, other: Weights, model: torch.nn.Module) -> float:
    """Relative distance between what two sets of weights compute on random input."""
    g = generator(1)
    latents = torch.randn(1, 48, 3, 6, 10, generator=g)
    text = torch.randn(1, 24, model.config.text_dim, generator=g)
    results = []
    for weights in (one, other):
        model.load_state_dict(weights)
        with torch.no_grad():
            results.append(
                model(
                    hidden_states=latents, timestep=torch.tensor([500.0]), encoder_hidden_states=text, return_dict=False
                )[0]
            )
    return ((results[0] - results[1]).norm() / results[0].norm()).item()
