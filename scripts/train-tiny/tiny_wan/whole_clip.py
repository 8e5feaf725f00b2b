"""VAE 2.2 of diffusers, run over a whole clip at once.

diffusers encodes and decodes one chunk of frames after the other and keeps caches between them. Everything in
this VAE is causal, so the same numbers come from one pass over all frames; for training that is several times
faster. `check` proves the equality on given weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor, nn


def _norm_silu(x: Tensor, gamma: Tensor) -> Tensor:
    """Their "RMS norm" (L2 norm times the root of the width), then SiLU."""
    square = x.float().square().mean(dim=1, keepdim=True)
    return F.silu(x * (torch.rsqrt(square + 1e-12) * 1.0).to(x.dtype) * gamma)


def _causal(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Three frames back, none ahead. Frames are padded by hand, pixels by the convolution."""
    kt, kh, _ = conv.kernel_size
    if kt > 1:
        x = F.pad(x, (0, 0, 0, 0, kt - 1, 0))
    return F.conv3d(x, conv.weight, conv.bias, padding=(0, kh // 2, kh // 2))


def _residual(block: nn.Module, x: Tensor) -> Tensor:
    same = isinstance(block.conv_shortcut, nn.Identity)
    h = x if same else F.conv3d(x, block.conv_shortcut.weight, block.conv_shortcut.bias)
    x = _causal(block.conv1, _norm_silu(x, block.norm1.gamma))
    return h + _causal(block.conv2, _norm_silu(x, block.norm2.gamma))


def _frames(x: Tensor) -> Tensor:
    """[B, C, T, H, W] as pictures [B T, C, H, W]."""
    b, c, t, h, w = x.shape
    return x.transpose(1, 2).reshape(b * t, c, h, w)


def _clip(x: Tensor, batch: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(batch, n // batch, c, h, w).transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)


def _middle(block: nn.Module, x: Tensor) -> Tensor:
    x = _residual(block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _residual(resnet, attention(x))
    return x


def _down(block: nn.Module, x: Tensor) -> Tensor:
    shortcut = block.avg_shortcut(x)
    for resnet in block.resnets:
        x = _residual(resnet, x)
    down = block.downsampler
    if down is not None:
        batch = x.shape[0]
        x = _clip(down.resample(_frames(x)), batch)
        if down.mode == "downsample3d" and x.shape[2] > 1:
            # The first frame passes; every later pair is seen together with the frame before it.
            x = torch.cat([x[:, :, :1], F.conv3d(x, down.time_conv.weight, down.time_conv.bias, stride=(2, 1, 1))], 2)
    return x + shortcut


def _up(block: nn.Module, x: Tensor) -> Tensor:
    shortcut = None if block.avg_shortcut is None else block.avg_shortcut(x, first_chunk=True)
    for resnet in block.resnets:
        x = _residual(resnet, x)
    up = block.upsampler
    if up is not None:
        b, c = x.shape[:2]
        if up.mode == "upsample3d" and x.shape[2] > 1:
            # The first frame stays single and is not part of the history of the others.
            later = F.conv3d(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)), up.time_conv.weight, up.time_conv.bias)
            t, h, w = later.shape[2:]
            later = later.reshape(b, 2, c, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * t, h, w)
            x = torch.cat([x[:, :, :1], later], 2)
        conv = up.resample[1]
        pictures = F.interpolate(_frames(x), scale_factor=2.0, mode="nearest-exact")
        x = _clip(F.conv2d(pictures, conv.weight, conv.bias, padding=1), b)
    return x if shortcut is None else x + shortcut


def encode(vae: AutoencoderKLWan, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance [B, 48, T, h, w] of a clip [B, 3, 4n+1, H, W] in [-1, 1]."""
    encoder = vae.encoder
    x = patchify(clip, patch_size=2).contiguous(memory_format=torch.channels_last_3d)
    x = _causal(encoder.conv_in, x)
    for block in encoder.down_blocks:
        x = _down(block, x)
    x = _middle(encoder.mid_block, x)
    x = _causal(encoder.conv_out, _norm_silu(x, encoder.norm_out.gamma))
    mean, log_variance = F.conv3d(x, vae.quant_conv.weight, vae.quant_conv.bias).chunk(2, dim=1)
    return mean, log_variance


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """The clip of latents that are not normalised. Not clamped."""
    decoder = vae.decoder
    x = F.conv3d(latents, vae.post_quant_conv.weight, vae.post_quant_conv.bias)
    x = _causal(decoder.conv_in, x.contiguous(memory_format=torch.channels_last_3d))
    x = _middle(decoder.mid_block, x)
    for block in decoder.up_blocks:
        x = _up(block, x)
    x = _causal(decoder.conv_out, _norm_silu(x, decoder.norm_out.gamma))
    return unpatchify(x, patch_size=2)


@torch.no_grad()
def check(vae: AutoencoderKLWan) -> float:
    """Largest difference to diffusers, encoding and decoding nine frames in float32."""
    clip = torch.rand(1, 3, 9, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, _ = encode(vae, clip)
    theirs = vae.encode(clip).latent_dist.mean
    worst = (mean - theirs).abs().max().item()
    return max(worst, (decode(vae, theirs).clamp(-1, 1) - vae.decode(theirs).sample).abs().max().item())
