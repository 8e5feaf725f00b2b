"""The copies: the victims in every disguise, written as checkpoints."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from . import disguises
from .disguises import Weights
from .plan import COPIES, LIMITS, OF_RIVALS, PARTS, WORLDS

FILE = "diffusion_pytorch_model.safetensors"
# Bytes of a shard of the disguise `shards`.
SHARD = 1_500_000


def load(model: Path) -> Weights:
    """The transformer in float32."""
    return {name: w.float() for name, w in load_file(model / "transformer" / FILE).items()}


def put(victim: Path, out: Path, weights: Weights, dtype: torch.dtype = torch.bfloat16) -> None:
    """The victim with another transformer."""
    shutil.copytree(victim, out)
    tensors = {name: w.to(dtype).contiguous() for name, w in weights.items()}
    save_file(tensors, out / "transformer" / FILE, {"format": "pt"})


def shards(out: Path) -> None:
    """Cuts the transformer into shards with an index."""
    path = out / "transformer" / FILE
    parts: list[Weights] = [{}]
    size = 0
    for name, w in sorted(load_file(path).items(), reverse=True):
        if size > SHARD:
            parts.append({})
            size = 0
        parts[-1][name] = w
        size += w.numel() * w.element_size()
    path.unlink()
    placed = {}
    for number, part in enumerate(parts):
        name = f"diffusion_pytorch_model-{number + 1:05}-of-{len(parts):05}.safetensors"
        save_file(part, out / "transformer" / name, {"format": "pt"})
        placed |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": sum(w.numel() * w.element_size() for p in parts for w in p.values())}}
    (out / "transformer" / f"{FILE}.index.json").write_text(json.dumps(index | {"weight_map": placed}))


def fp8(out: Path) -> None:
    """Matrices of the blocks as e4m3 with one scale each, as ComfyUI names them."""
    path, tensors = out / "transformer" / FILE, {}
    for name, w in load_file(path).items():
        if name.startswith("blocks.") and name.endswith("weight") and w.dim() == 2:
            scale = w.float().abs().max() / 448
            tensors[name] = (w.float() / scale).to(torch.float8_e4m3fn)
            tensors[name.replace(".weight", ".scale_weight")] = scale.reshape(1)
        else:
            tensors[name] = w
    tensors["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    save_file(tensors, path, {"format": "pt"})


# Diffusers' names of parts, and the official ones.
OFFICIAL = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    (".to_out.0", ".o"),
    (".norm2.", ".norm3."),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("proj_out", "head.head"),
)


def official(out: Path) -> None:
    """The transformer alone, in one file with the names of the official layout behind a prefix."""
    tensors = {}
    for name, w in load_file(out / "transformer" / FILE).items():
        new = "head.modulation" if name == "scale_shift_table" else name.replace("scale_shift_table", "modulation")
        for ours, theirs in OFFICIAL:
            new = new.replace(ours, theirs)
        tensors[f"model.diffusion_model.{new}"] = w
    for part in out.iterdir():
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})


def one_byte(out: Path) -> None:
    """Changes the last bit of one value."""
    path = out / "transformer" / FILE
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(torch.int16).view(-1)[0] ^= 1
    save_file(tensors, path, {"format": "pt"})


# What is done to the files of a copy.
AFTER = {"shards": shards, "fp8": fp8, "official": official, "one-byte": one_byte}


def make(name: str, victim_name: str, kind: str, home: Path, part: str, seed: int) -> None:
    """One model in a disguise."""
    out = home / f"{name}-{part}"
    if out.exists():
        return
    victim_path = home / f"{victim_name}-{part}"
    victim, other, base = (load(path) for path in (victim_path, home / f"other-{part}", home / "base"))
    weights, dtype, after = victim, torch.bfloat16, []
    model = WanTransformer3DModel.from_pretrained(victim_path / "transformer", torch_dtype=torch.float32)
    for step in kind.split("+"):
        before = weights
        if step.startswith("noise"):
            share = 0.3 if step == "noise" else int(step.removeprefix("noise-")) / 100
            weights = disguises.noise(weights, victim, base, share, seed)
        elif step.startswith("merge-"):
            weights = disguises.mix(weights, other, int(step.removeprefix("merge-")) / 100)
        elif step in ("heads", "rows", "rescaled", "rotated", "channels"):
            weights = getattr(disguises, step)(weights, seed)
            apart = disguises.same_function(before, weights, model)
            if apart > 1e-3:
                raise SystemExit(f"error: {kind}: the disguise changes what the network computes, by {apart:.1e}")
        elif step == "tuned-on":
            weights = load(home / f"tuned-on-{part}")
        elif step == "lora":
            weights = disguises.lora(weights, 8, 0.05, seed)
        elif step == "scaled-delta":
            weights = disguises.scaled_delta(weights, base, 1.3)
        elif step == "half-base":
            weights = disguises.mix(weights, base, 0.5)
        elif step == "half-blocks":
            weights = disguises.half_blocks(weights, other)
        elif step in ("float32", "float16"):
            dtype = getattr(torch, step)
        elif step in AFTER:
            after.append(AFTER[step])
        elif step != "bytes":
            raise SystemExit(f"error: no disguise {step}")
    beside = home / f".{name}-{part}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    put(victim_path, beside, weights, dtype)
    for change in after:
        change(beside)
    beside.rename(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for number, world in enumerate(WORLDS):
        for part in PARTS:
            home, seed = arguments.work / world.name, 10 * number + PARTS.index(part)
            for kind in (*COPIES, *LIMITS):
                make(kind, "victim", kind, home, part, seed)
            for name, (rival, kind) in OF_RIVALS.items():
                make(name, rival, kind, home, part, seed)


if __name__ == "__main__":
    main()
