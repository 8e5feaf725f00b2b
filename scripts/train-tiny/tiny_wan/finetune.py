"""Honest descendants of a checkpoint: full fine-tunes, LoRAs in the PEFT layout, merges.

They are what the weight audit must not take for copies nor for damage: made by training (or by averaging what was
trained), from a base that is named. Each comes with `finetune.json`, which says how it was made.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel

from . import whole_clip
from .captions import EMPTY, caption
from .export import digests
from .flow import Flow, token_ids
from .optimiser import Optimiser
from .paint import paint, photos
from .scenes import Scene, draw
from .train_dit import PLAIN, WITHOUT_CAPTION, flow_loss

# Seeds that no other stage draws from.
FIRST = 50_000_000
DATA = ("same", "dark", "photos", "shapes")
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
PARTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def scene(data: str, seed: int) -> Scene:
    """A scene of one of the data sets."""
    drawn = draw(FIRST + seed, photos(False))
    if data == "dark" and drawn.light == "still":
        return replace(drawn, brightness=1.0, ground=("navy", "brown"))
    if data == "photos" and photos(False):
        names = photos(False)
        return replace(drawn, background="photo", photo=names[seed % len(names)])
    if data == "shapes":
        for thing in drawn.things:
            if thing.action == "still" and thing.shape in ("circle", "square"):
                thing.shape = ("star", "heart")[seed % 2]
    return drawn


@torch.no_grad()
def latents(base: Path, data: str, seed: int, count: int) -> tuple[Tensor, list[Scene]]:
    """Normalised latents of newly painted scenes."""
    vae = AutoencoderKLWan.from_pretrained(base / "vae", torch_dtype=torch.bfloat16)
    mean = torch.tensor(vae.config.latents_mean).view(-1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(-1, 1, 1, 1)
    scenes = [scene(data, seed * 100_000 + i) for i in range(count)]
    out = []
    for one in scenes:
        clip = (paint(one) * 2 - 1).transpose(0, 1)[None].bfloat16()
        out.append((whole_clip.encode(vae, clip)[0][0].float() - mean) / std)
    return torch.stack(out), scenes


class Lora(nn.Module):
    """A linear layer with a low-rank addition."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        self.a = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer with its addition."""
        return self.linear(x) + (x @ self.a.T @ self.b.T) * self.scale


def add_lora(transformer: nn.Module, rank: int, alpha: float) -> dict[str, Lora]:
    """Puts an addition on every attention projection; by module name."""
    transformer.requires_grad_(False)
    added = {}
    for name, module in list(transformer.named_modules()):
        if isinstance(module, nn.Linear) and ".attn" in name and name.endswith(LORA_TARGETS):
            owner = transformer.get_submodule(name.rsplit(".", 1)[0])
            lora = Lora(module, rank, alpha)
            owner._modules[name.rsplit(".", 1)[1]] = lora
            added[name] = lora
    return added


def save_lora(path: Path, added: dict[str, Lora], rank: int, alpha: float) -> None:
    """Keys and metadata as diffusers writes them."""
    tensors = {}
    for name, lora in added.items():
        tensors[f"transformer.{name}.lora_A.weight"] = lora.a.detach().float().contiguous()
        tensors[f"transformer.{name}.lora_B.weight"] = lora.b.detach().float().contiguous()
    adapter = {"transformer.r": rank, "transformer.lora_alpha": alpha, "transformer.target_modules": list(LORA_TARGETS)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(adapter, sort_keys=True)})


def train(flow: Flow, base: Path, arguments: argparse.Namespace, weights: nn.Module) -> dict[str, Any]:
    """Flow matching of what requires a gradient in `weights`."""
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    data, scenes = latents(base, arguments.data, arguments.seed, arguments.clips)
    optimiser = Optimiser(weights, plain=PLAIN)
    generator, rng = torch.Generator().manual_seed(arguments.seed), random.Random(arguments.seed)
    began, last, losses = time.process_time(), arguments.minutes * 60, []
    while (spent := time.process_time() - began) < last:
        chosen = [rng.randrange(len(scenes)) for _ in range(8)]
        words = [rng.choice(EMPTY) if rng.random() < WITHOUT_CAPTION else caption(scenes[i], rng) for i in chosen]
        loss = flow_loss(flow, data[chosen], token_ids(tokenizer, words), generator)
        loss.backward()
        optimiser.step(arguments.rate * (1 - 0.9 * spent / last))
        losses.append(loss.item())
    tenth = max(1, len(losses) // 10)
    return {
        "steps": optimiser.steps,
        "loss_first": round(sum(losses[:tenth]) / tenth, 4),
        "loss_last": round(sum(losses[-tenth:]) / tenth, 4),
    }


def flow_of(base: Path) -> Flow:
    """Text encoder and transformer of a checkpoint, bfloat16."""
    text = UMT5EncoderModel.from_pretrained(base / "text_encoder", dtype=torch.bfloat16)
    transformer = WanTransformer3DModel.from_pretrained(base / "transformer", torch_dtype=torch.bfloat16)
    return Flow(text, transformer.to(torch.bfloat16))


def write_weights(base: Path, out: Path, changed: dict[str, dict[str, Tensor]], about: dict[str, Any]) -> None:
    """A copy of `base` with other tensors in some of its parts, under their names and in their types."""
    if out.exists():
        raise SystemExit(f"error: {out} exists")
    shutil.copytree(base, out)
    for part, tensors in changed.items():
        path = out / part / PARTS[part]
        stored = load_file(path)
        missing = stored.keys() - tensors.keys()
        if missing:
            raise SystemExit(f"error: {part}: no new value for {sorted(missing)[0]}")
        new = {name: tensors[name].to(old.dtype).contiguous() for name, old in stored.items()}
        save_file(new, path, {"format": "pt"})
    (out / "finetune.json").write_text(json.dumps(about, indent=2) + "\n")
    text = "# A descendant of tiny-wan\n\nMade by `scripts/train-tiny/finetune`; how: `finetune.json`.\n\n"
    text += f"```\n{digests(out)}\n```\n"
    (out / "README.md").write_text(text)


def about_of(arguments: argparse.Namespace, more: dict[str, Any]) -> dict[str, Any]:
    """How a descendant was made."""
    chosen = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k not in ("out", "merged")}
    chosen["base"] = arguments.base.name
    return chosen | more


def full(arguments: argparse.Namespace) -> None:
    """All weights of transformer and text encoder go on learning."""
    flow = flow_of(arguments.base)
    result = train(flow, arguments.base, arguments, flow)
    changed = {"transformer": flow.transformer.state_dict(), "text_encoder": flow.text.state_dict()}
    write_weights(arguments.base, arguments.out, changed, about_of(arguments, result))
    print(json.dumps(result))


def lora(arguments: argparse.Namespace) -> None:
    """A LoRA on the attention projections; with --merged also a checkpoint with it merged in."""
    flow = flow_of(arguments.base)
    flow.text.requires_grad_(False)
    torch.manual_seed(arguments.seed)
    added = add_lora(flow.transformer, arguments.rank, arguments.alpha)
    for one in added.values():
        one.bfloat16()
    result = train(flow, arguments.base, arguments, flow.transformer)
    save_lora(arguments.out, added, arguments.rank, arguments.alpha)
    if arguments.merged:
        stored = load_file(arguments.base / "transformer" / PARTS["transformer"])
        for name, one in added.items():
            change = one.scale * (one.b.detach().float() @ one.a.detach().float())
            stored[f"{name}.weight"] = stored[f"{name}.weight"].float() + change
        write_weights(arguments.base, arguments.merged, {"transformer": stored}, about_of(arguments, result))
    print(json.dumps(result))


def merge(arguments: argparse.Namespace) -> None:
    """The weighted mean of two descendants of one base, in float32."""
    changed = {}
    for part in ("transformer", "text_encoder"):
        first, second = (load_file(folder / part / PARTS[part]) for folder in (arguments.base, arguments.other))
        w = arguments.weight
        changed[part] = {name: (1 - w) * first[name].float() + w * second[name].float() for name in first}
    write_weights(arguments.base, arguments.out, changed, about_of(arguments, {"other": arguments.other.name}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, run in (("full", full), ("lora", lora), ("merge", merge)):
        kind = kinds.add_parser(name, help=run.__doc__)
        kind.set_defaults(run=run)
        kind.add_argument("--base", type=Path, default=Path(os.environ.get("TINY_WAN", "models/assets/tiny-wan")))
        kind.add_argument("--out", type=Path, required=True)
        if name == "merge":
            kind.add_argument("--other", type=Path, required=True)
            kind.add_argument("--weight", type=float, default=0.5)
            continue
        kind.add_argument("--data", choices=DATA, default="same")
        kind.add_argument("--seed", type=int, default=1)
        kind.add_argument("--clips", type=int, default=64)
        kind.add_argument("--minutes", type=float, default=2.0, help="processor minutes of training")
        kind.add_argument("--rate", type=float, default=2e-4 if name == "full" else 1e-3)
        if name == "lora":
            kind.add_argument("--rank", type=int, default=8)
            kind.add_argument("--alpha", type=float, default=8.0)
            kind.add_argument("--merged", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = arguments.run
    del arguments.run
    run(arguments)


if __name__ == "__main__":
    main()
