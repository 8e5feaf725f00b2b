"""Conversion of a diffusers checkpoint into the official layout.

Official names: one transformer per folder (or at the root for the 5B), T5 and VAE as `.pth` pickles of a
flat state dict, the tokenizer under `google/umt5-xxl`, and a `config.json` with the official keys only.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
MODEL_TYPES = {"ti2v-5b": "ti2v", "i2v-a14b": "i2v", "t2v-a14b": "t2v"}

# diffusers -> official, applied in order to each name.
TRANSFORMER_RULES = [
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.norm2\.", ".norm3."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
]

TEXT_RULES = [
    (r"^shared\.weight$", "token_embedding.weight"),
    (r"^encoder\.final_layer_norm\.weight$", "norm.weight"),
    (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"blocks.\1.norm1."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.", r"blocks.\1.attn.\2."),
    (
        r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.",
        r"blocks.\1.pos_embedding.embedding.",
    ),
    (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"blocks.\1.norm2."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.", r"blocks.\1.ffn.gate.0."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.", r"blocks.\1.ffn.fc1."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", r"blocks.\1.ffn.fc2."),
]

# Residual blocks first, while `conv1`/`conv2` inside them are still told apart from the top-level ones.
VAE_RULES = [
    (r"(resnets\.\d+|down_blocks\.\d+)\.norm1\.gamma$", r"\1.residual.0.gamma"),
    (r"(resnets\.\d+|down_blocks\.\d+)\.conv1\.", r"\1.residual.2."),
    (r"(resnets\.\d+|down_blocks\.\d+)\.norm2\.gamma$", r"\1.residual.3.gamma"),
    (r"(resnets\.\d+|down_blocks\.\d+)\.conv2\.", r"\1.residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.conv_in\.", ".conv1."),
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
]


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def vae_name(name: str, residual: bool, blocks: int = 2) -> str:
    """Official name of a VAE tensor. `residual`: VAE 2.2; `blocks`: residual blocks per encoder level."""
    name = _renamed(name, VAE_RULES)
    if residual:
        for side, sampler in (("down", "downsampler"), ("up", "upsampler")):
            part = f"{side}samples"
            level = rf"\.{side}_blocks\.(\d+)"
            last = blocks if side == "down" else blocks + 1
            name = re.sub(level + r"\.resnets\.(\d+)\.", rf".{part}.\1.{part}.\2.", name)
            name = re.sub(level + rf"\.{sampler}\.", rf".{part}.\1.{part}.{last}.", name)
        return name
    name = re.sub(r"\.down_blocks\.(\d+)\.", r".downsamples.\1.", name)

    def flat(match: re.Match[str]) -> str:
        level, inner = int(match[1]), match[2]
        index = blocks + 1 if inner.startswith("upsamplers") else int(inner.split(".")[1])
        return f".upsamples.{level * (blocks + 2) + index}."

    return re.sub(r"\.up_blocks\.(\d+)\.(resnets\.\d+|upsamplers\.0)\.", flat, name)


def load_folder(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files in a folder."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def _save_expert(kind: str, source: Path, target: Path, shards: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    tensors = {_renamed(name, TRANSFORMER_RULES): value for name, value in load_folder(source).items()}
    config = json.loads((source / "config.json").read_text())
    keys = {
        "_class_name": "WanModel",
        "_diffusers_version": "0.33.0",
        "model_type": MODEL_TYPES[kind],
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "ffn_dim": config["ffn_dim"],
        "freq_dim": config["freq_dim"],
        "in_dim": config["in_channels"],
        "out_dim": config["out_channels"],
        "num_heads": config["num_attention_heads"],
        "num_layers": config["num_layers"],
        "text_len": 512,
        "eps": config["eps"],
    }
    (target / "config.json").write_text(json.dumps(keys, indent=2) + "\n")
    stem = "diffusion_pytorch_model"
    if shards == 1:
        save_file(tensors, target / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        part = names[shard::shards]
        file = f"{stem}-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in part}, target / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (target / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_pth(kind: str, source: Path, target: Path) -> None:
    """Writes the T5 and VAE pickles of a checkpoint."""
    target.mkdir(parents=True, exist_ok=True)
    text = load_folder(source / "text_encoder")
    text.pop("encoder.embed_tokens.weight", None)
    text = {_renamed(name, TEXT_RULES): value for name, value in text.items()}
    torch.save(text, target / "models_t5_umt5-xxl-enc-bf16.pth")
    config = json.loads((source / "vae" / "config.json").read_text())
    vae = {
        vae_name(name, config["is_residual"], config["num_res_blocks"]): value
        for name, value in load_folder(source / "vae").items()
    }
    torch.save(vae, target / ("Wan2.2_VAE.pth" if kind == "ti2v-5b" else "Wan2.1_VAE.pth"))


def convert(kind: str, source: Path, target: Path, shards: int = 2) -> None:
    """Writes the checkpoint at `source` (diffusers layout) to `target` in the official layout."""
    if kind == "ti2v-5b":
        _save_expert(kind, source / "transformer", target, shards)
    else:
        for name, folder in EXPERTS.items():
            _save_expert(kind, source / name, target / folder, shards)
    save_pth(kind, source, target)
    shutil.copytree(source / "tokenizer", target / "google" / "umt5-xxl", dirs_exist_ok=True)
