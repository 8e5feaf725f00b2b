"""The three networks: the classes of diffusers and transformers, in small sizes."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

CHANNELS = 48


def make_vae(seed: int, encoder: int = 16, decoder: int = 16, blocks: int = 2) -> AutoencoderKLWan:
    """VAE 2.2: 48 channels, one latent for 4 x 16 x 16 pixels."""
    torch.manual_seed(seed)
    return AutoencoderKLWan(
        base_dim=encoder,
        decoder_base_dim=decoder,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=blocks,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
    )


def make_text_encoder(seed: int, vocabulary: int) -> UMT5EncoderModel:
    """UMT5: one table of relative positions per layer, gated tanh-GELU."""
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        feed_forward_proj="gated-gelu",
        tokenizer_class="T5Tokenizer",
        initializer_factor=1.0,
    )
    model = UMT5EncoderModel(config)
    with torch.no_grad():
        model.shared.weight.normal_(0, 0.5)
    return model


def make_transformer(seed: int, heads: int = 8, layers: int = 6, ffn: int = 768) -> WanTransformer3DModel:
    """The diffusion transformer; heads are 32 wide, a width at which 0.35.2 splits its rotary table soundly."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=128,
        freq_dim=256,
        ffn_dim=ffn,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
        rope_max_seq_len=1024,
    )
    with torch.no_grad():
        # Blocks that add little at first, and a prediction of the noisy latents themselves: most of the velocity is
        # the noise, 192 numbers of a token whose width is 256, and a way for them is not to be searched for.
        for block in model.blocks:
            for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                last.weight.mul_(0.1)
        inward = nn.init.orthogonal_(torch.empty(heads * 32, CHANNELS * 4))
        # Axes of `patch_embedding`: width, channel, frame, row, column; of `proj_out`: row, column, channel, width.
        model.patch_embedding.weight.copy_(inward.view(heads * 32, CHANNELS, 1, 2, 2))
        outward = inward.view(heads * 32, CHANNELS, 2, 2).permute(2, 3, 1, 0).reshape(CHANNELS * 4, heads * 32)
        # The norm before it makes rows of length sqrt(width) out of rows of length sqrt(192).
        model.proj_out.weight.copy_(outward * (CHANNELS * 4 / (heads * 32)) ** 0.5)
    return model


def count(model: nn.Module) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in model.parameters()) / 1e6
