"""The honest models: bases of several sizes and their fine-tunes, by gradient descent."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from tiny_wan.captions import caption
from tiny_wan.export import write
from tiny_wan.finetune import flow_of, latents, train, write_weights
from tiny_wan.flow import Flow, token_ids
from tiny_wan.networks import make_text_encoder, make_transformer
from tiny_wan.optimiser import Optimiser
from tiny_wan.train_dit import PLAIN, flow_loss
from tiny_wan.work import rate
from transformers import AutoTokenizer

from .plan import WORLDS, Training, World, trainings


def base(world: World, shipped: Path, folder: Path, scale: float) -> None:
    """The base of a world: the shipped checkpoint, or one of another size that learned for some minutes."""
    if world.minutes == 0:
        shutil.copytree(shipped, folder)
        return
    tokenizer = AutoTokenizer.from_pretrained(shipped / "tokenizer")
    data, scenes = latents(shipped, "same", 900, 192)
    text, transformer = make_text_encoder(5, len(tokenizer)), make_transformer(5, world.heads, world.layers, 384)
    flow = Flow(text, transformer).to(torch.bfloat16)
    optimiser, rng, g = Optimiser(flow, plain=PLAIN), random.Random(5), torch.Generator().manual_seed(5)
    began, budget = time.process_time(), world.minutes * 60 * scale
    while (progress := (time.process_time() - began) / budget) < 1:
        chosen = [rng.randrange(len(scenes)) for _ in range(8)]
        words = [caption(scenes[i], rng) for i in chosen]
        flow_loss(flow, data[chosen], token_ids(tokenizer, words), g).backward()
        optimiser.step(rate(progress, 2e-3))
    vae = AutoencoderKLWan.from_pretrained(shipped / "vae")
    beside = folder.with_name(folder.name + ".tmp")
    write(beside, vae, flow.text, flow.transformer, shipped / "tokenizer")
    beside.rename(folder)


def fine_tune(training: Training, home: Path, scale: float) -> None:
    """One honest model."""
    out, parent = home / training.name, home / training.parent
    arguments = argparse.Namespace(
        data=training.data, seed=training.seed, clips=48, minutes=training.minutes * scale, rate=training.rate
    )
    flow = flow_of(parent)
    result = train(flow, parent, arguments, flow)
    changed = {"transformer": flow.transformer.state_dict(), "text_encoder": flow.text.state_dict()}
    beside = home / f".{training.name}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    write_weights(parent, beside, changed, vars(arguments) | {"parent": training.parent} | result)
    beside.rename(out)
    print(f"{home.name}/{training.name}: {json.dumps(result)}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--share", default="0/1", help="worlds of this process: number/of")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    number, of = (int(part) for part in arguments.share.split("/"))
    # The largest world has most of the models: alone in its process.
    mine = [world for i, world in enumerate(WORLDS) if min(i, of - 1) == number]
    for world in mine:
        home = arguments.work / world.name
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "base").exists():
            base(world, arguments.base, home / "base", arguments.scale)
        for training in trainings(world):
            if not (home / training.name).exists():
                fine_tune(training, home, arguments.scale)


if __name__ == "__main__":
    main()
