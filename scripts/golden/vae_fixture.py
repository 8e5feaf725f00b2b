"""Reference tensors of tiny Wan VAEs for models/tests/vae.rs.

Weights and inputs follow from a formula (see `counted`) that the test repeats, so the files hold only the
configuration, the tensor names and shapes, and what diffusers 0.35.2 computes in float32 on the CPU.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

MASK = (1 << 64) - 1


def seed_of(name: str) -> int:
    """64-bit FNV-1a of a name."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def counted(name: str, shape) -> torch.Tensor:
    """Values in [-1, 1) from splitmix64 started at the name's hash, 24 bits each."""
    n = math.prod(shape)
    with np.errstate(over="ignore"):
        x = np.uint64(seed_of(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    values = (x >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))


def weight(name: str, shape) -> torch.Tensor:
    x = counted(name, shape)
    if name.endswith("gamma"):
        return 1.0 + 0.25 * x
    if name.endswith("bias"):
        return 0.125 * x
    # A power of two near sqrt(1 / fan in): exact in float32 on both sides.
    return x * 2.0 ** round(0.5 * math.log2(1 / math.prod(shape[1:])))


BASE = dict(num_res_blocks=2, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])
V22 = dict(is_residual=True, in_channels=12, out_channels=12, patch_size=2)
CASES = {
    "wan21": dict(BASE, base_dim=8, z_dim=4),
    "wan22": dict(BASE, base_dim=8, decoder_base_dim=12, z_dim=6, scale_factor_spatial=16, **V22),
    # Nothing released: three levels, one temporal step, one block per level.
    "odd21": dict(base_dim=6, z_dim=3, num_res_blocks=1, dim_mult=[1, 3, 2], temperal_downsample=[True, False]),
    "odd22": dict(base_dim=4, z_dim=3, num_res_blocks=1, dim_mult=[1, 2, 2], temperal_downsample=[False, True], **V22),
}


@torch.no_grad()
def make(name: str, cfg: dict, out: Path) -> None:
    z = cfg["z_dim"]
    cfg = dict(
        cfg,
        latents_mean=[0.25 * math.sin(i + 1) for i in range(z)],
        latents_std=[1.5 + 0.5 * math.cos(i) for i in range(z)],
    )
    vae = AutoencoderKLWan(**cfg).eval()
    state = {key: weight(key, value.shape) for key, value in vae.state_dict().items()}
    vae.load_state_dict(state, strict=True)
    shapes = {key: list(value.shape) for key, value in state.items()}
    mean = torch.tensor(cfg["latents_mean"]).view(1, z, 1, 1, 1)
    scale = 1.0 / torch.tensor(cfg["latents_std"]).view(1, z, 1, 1, 1)

    frames, height, width = (9, 32, 48) if name.startswith("wan") else (5, 32, 16)
    video = counted("video", (1, 3, frames, height, width))
    encoded = (vae.encode(video).latent_dist.mode() - mean) * scale
    image = torch.cat([video[:, :, :1], torch.zeros(1, 3, frames - 1, height, width)], dim=2)
    condition = (vae.encode(image).latent_dist.mode() - mean) * scale
    latents = 1.5 * counted("latents", tuple(encoded.shape))
    decoded = vae.decode(latents / scale + mean).sample
    tensors = {"encoded": encoded[0], "condition": condition[0], "decoded": decoded[0]}

    if name == "wan21":
        vae.enable_tiling(32, 48, 24, 32)
        tiled = 1.5 * counted("tiled", (1, z, 2, 7, 9))
        # 0.35.2 does not clamp after tiling; the pipeline's post-processing does.
        tensors["tiled"] = vae.decode(tiled / scale + mean).sample[0].clamp(-1, 1)
    print(name, {key: (list(t.shape), float(t.std()), float(t.abs().max())) for key, t in tensors.items()})
    metadata = {"config": json.dumps(cfg), "shapes": json.dumps(shapes)}
    save_file({key: t.contiguous() for key, t in tensors.items()}, out / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/tests/fixtures/vae"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for case, config in CASES.items():
        make(case, config, out)
