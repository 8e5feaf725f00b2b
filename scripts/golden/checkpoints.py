"""Tiny random checkpoints of the true architecture, in the diffusers and in the official layout.

    python checkpoints.py --kind i2v-a14b --seed 7 --out /tmp/ckpt [--official]

All sizes vary with the seed, so that a loader with built-in sizes cannot open them. Norm weights, biases
and modulation tables are drawn too: with their usual ones and zeros a forgotten one would go unnoticed.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

import latent_stats
import official
from tiny_tokenizer import make_tokenizer

KINDS = ("ti2v-5b", "i2v-a14b", "t2v-a14b")
PIPELINES = {"ti2v-5b": "WanPipeline", "i2v-a14b": "WanImageToVideoPipeline", "t2v-a14b": "WanPipeline"}
BOUNDARIES = {"i2v-a14b": 0.9, "t2v-a14b": 0.875}


@dataclass(frozen=True)
class Sizes:
    """What of the architecture is free."""

    heads: int
    head_dim: int
    layers: int
    ffn_dim: int
    freq_dim: int
    text_layers: int
    text_dim: int
    text_heads: int
    text_kv: int
    text_ff: int
    vae_dim: int
    vae_decoder_dim: int
    flow_shift: float
    boundary_ratio: float
    vocab_size: int = 400
    full_charsmap: bool = False
    weights: torch.dtype = torch.float32
    text_weights: torch.dtype = torch.bfloat16
    max_shard_size: str = "10GB"


def drawn_sizes(kind: str, seed: int) -> Sizes:
    """Sizes for a seed. Head widths are those for which diffusers 0.35.2 splits its rotary table soundly."""
    rng = random.Random(f"{kind}/{seed}")
    return Sizes(
        heads=rng.choice((1, 2, 3)),
        head_dim=rng.choice((32, 48, 96, 128)),
        layers=rng.choice((1, 2, 3)),
        ffn_dim=rng.choice((72, 136, 200, 256)),
        freq_dim=rng.choice((32, 64, 256)),
        text_layers=rng.choice((2, 3)),
        text_dim=rng.choice((24, 40, 64, 96)),
        text_heads=rng.choice((2, 3, 4)),
        text_kv=rng.choice((8, 16, 20)),
        text_ff=rng.choice((48, 80, 112)),
        vae_dim=rng.choice((4, 6, 8, 12)),
        vae_decoder_dim=rng.choice((4, 6, 8, 10)),
        flow_shift=rng.choice((3.0, 5.0, 8.0, 12.0)),
        boundary_ratio=rng.choice((0.7, 0.875, 0.9)),
        full_charsmap=rng.random() < 0.5,
        weights=rng.choice((torch.float32, torch.bfloat16, torch.float16)),
        text_weights=rng.choice((torch.float32, torch.bfloat16)),
        max_shard_size=rng.choice(("10GB", "200KB")),
    )


def fill(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter: unit-gain matrices, norm weights around one, small biases."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "scale_shift_table" in name:
                value = 0.3 * noise
            elif "relative_attention_bias" in name or "shared" in name or "embed_tokens" in name:
                value = noise
            elif "attn2.norm_" in name:
                # Sharp attention: among 512 rows that are mostly padding the prompt would hardly count.
                value = 1.8 + 0.3 * noise
            elif "norm" in name and name.endswith(("weight", "gamma")):
                value = 1.0 + 0.3 * noise
            elif "attn2.to_out" in name and name.endswith("weight"):
                value = 2.0 * noise * parameter.shape[1] ** -0.5
            elif name.endswith("bias"):
                value = 0.2 * noise
            else:
                fan_in = parameter[0].numel()
                value = noise * fan_in**-0.5
            parameter.copy_(value)


def round_weights(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Rounds parameters to a storage type, so that files of that type hold exactly these weights."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(dtype).float())


def make_transformer(kind: str, sizes: Sizes, generator: torch.Generator) -> WanTransformer3DModel:
    """One expert."""
    channels = {"ti2v-5b": (48, 48), "i2v-a14b": (36, 16), "t2v-a14b": (16, 16)}[kind]
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_dim,
        in_channels=channels[0],
        out_channels=channels[1],
        text_dim=sizes.text_dim,
        freq_dim=sizes.freq_dim,
        ffn_dim=sizes.ffn_dim,
        num_layers=sizes.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
        rope_max_seq_len=1024,
    )
    fill(model, generator)
    round_weights(model, sizes.weights)
    return model.eval()


def make_vae(kind: str, sizes: Sizes, generator: torch.Generator) -> AutoencoderKLWan:
    """VAE 2.2 for the 5B, 2.1 for the A14B; the last convolution is scaled so that little is clamped."""
    if kind == "ti2v-5b":
        vae = AutoencoderKLWan(
            base_dim=sizes.vae_dim,
            decoder_base_dim=sizes.vae_decoder_dim,
            z_dim=48,
            latents_mean=list(latent_stats.MEAN_22),
            latents_std=list(latent_stats.STD_22),
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
            scale_factor_temporal=4,
        )
    else:
        vae = AutoencoderKLWan(base_dim=sizes.vae_dim, z_dim=16)
    fill(vae, generator)
    vae.eval()
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        latents = torch.randn(1, vae.config.z_dim, 2, 4, 4, generator=generator) * std + mean
        for _ in range(2):
            spread = vae.decode(latents).sample.std().item()
            vae.decoder.conv_out.weight.mul_(0.3 / spread)
            vae.decoder.conv_out.bias.mul_(min(1.0, 0.3 / spread))
        clip = torch.rand(1, 3, 5, 32, 32, generator=generator) * 2 - 1
        moments = vae.encode(clip).latent_dist.mean
        vae.quant_conv.weight.mul_(1.0 / moments.std().item())
    round_weights(vae, torch.bfloat16 if sizes.weights is torch.bfloat16 else torch.float32)
    return vae


def make_text_encoder(sizes: Sizes, vocab: int, generator: torch.Generator) -> UMT5EncoderModel:
    """The encoder; heads times width differ from the model width for most seeds, as in small UMT5 models."""
    config = UMT5Config(
        vocab_size=vocab + 11,
        d_model=sizes.text_dim,
        d_kv=sizes.text_kv,
        d_ff=sizes.text_ff,
        num_layers=sizes.text_layers,
        num_heads=sizes.text_heads,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        feed_forward_proj="gated-gelu",
        tokenizer_class="T5Tokenizer",
    )
    model = UMT5EncoderModel(config)
    fill(model, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("SelfAttention.q.weight"):
                parameter.mul_(sizes.text_kv**-0.5)  # T5 attention has no 1/sqrt(d)
    round_weights(model, sizes.text_weights)
    return model.eval()


def model_index(kind: str, sizes: Sizes) -> dict[str, object]:
    """`model_index.json` as the published conversions write it."""
    index: dict[str, object] = {"_class_name": PIPELINES[kind], "_diffusers_version": "0.35.2"}
    if kind == "ti2v-5b":
        index |= {"boundary_ratio": None, "expand_timesteps": True}
    else:
        index |= {"boundary_ratio": sizes.boundary_ratio}
    if kind == "i2v-a14b":
        index |= {"image_encoder": [None, None], "image_processor": [None, None]}
    experts = ("transformer",) if kind == "ti2v-5b" else ("transformer", "transformer_2")
    index |= {name: ["diffusers", "WanTransformer3DModel"] for name in experts}
    if kind == "ti2v-5b":
        index |= {"transformer_2": [None, None]}
    return index | {
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def make_checkpoint(kind: str, seed: int, folder: Path, sizes: Sizes | None = None) -> Sizes:
    """Writes a checkpoint in the diffusers layout to `folder`."""
    sizes = sizes or drawn_sizes(kind, seed)
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    shards = {"max_shard_size": sizes.max_shard_size}

    vocab = make_tokenizer(folder / "tokenizer", seed, sizes.vocab_size, sizes.full_charsmap)
    text = make_text_encoder(sizes, vocab, generator)
    text.to(sizes.text_weights).save_pretrained(folder / "text_encoder", **shards)

    experts = ("transformer",) if kind == "ti2v-5b" else ("transformer", "transformer_2")
    for name in experts:
        model = make_transformer(kind, sizes, generator)
        model.to(sizes.weights).save_pretrained(folder / name, **shards)
    vae = make_vae(kind, sizes, generator)
    vae.to(torch.bfloat16 if sizes.weights is torch.bfloat16 else torch.float32).save_pretrained(folder / "vae")

    UniPCMultistepScheduler(
        num_train_timesteps=1000,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=sizes.flow_shift,
    ).save_pretrained(folder / "scheduler")
    index = json.dumps(model_index(kind, sizes), indent=2, sort_keys=True)
    (folder / "model_index.json").write_text(index + "\n")
    return sizes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--official", action="store_true", help="also write OUT-official")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = make_checkpoint(arguments.kind, arguments.seed, arguments.out)
    if arguments.official:
        official.convert(arguments.kind, arguments.out, Path(f"{arguments.out}-official"))
    print(sizes)


if __name__ == "__main__":
    main()
