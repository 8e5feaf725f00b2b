"""Stage 3: flow matching of the transformer and the text encoder. `python -m tiny_wan.train_dit --run DIR`."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from .captions import EMPTY, caption
from .field import Guide, field
from .flow import Flow, token_ids, token_times
from .latents import FIRST
from .networks import count, make_text_encoder, make_transformer
from .optimiser import Optimiser
from .paint import photos
from .pool import PER_FILE
from .scenes import draw
from .work import Clock, barrier, device, log, plain, rate, save, start

# Share of clips whose first frame is given, and of captions left empty.
WITH_IMAGE, WITHOUT_CAPTION = 0.85, 0.1
SHIFT = 3.0
# What the guide counts, the block it reads, and how much more a place counts where a thing does something: such places
# are few.
GUIDE, GUIDED_BLOCK, ACTING = 0.5, 2, 2.0
# Tables, not maps: stepped by Adam.
PLAIN = ("shared", "embed_tokens", "relative_attention_bias", "scale_shift_table")


@dataclass
class Batch:
    """Latents [B, 48, T, h, w], captions, the field [B, KINDS, T, h, w] and where something acts [B, T, h, w]."""

    latents: Tensor
    words: list[str]
    field: Tensor
    acting: Tensor


class Data:
    """Latents in memory with their scenes; captions are drawn anew for every use."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng, self.random = folder, np.random.default_rng(seed), random.Random(seed)
        self.latents: list[np.ndarray] = []
        self.scenes: list = []
        self.fields: list[tuple[np.ndarray, np.ndarray]] = []
        self.read: set[str] = set()

    def refresh(self) -> int:
        """Reads new files; number of clips."""
        for path in sorted(self.folder.glob("latents-???.npy")):
            if path.name in self.read:
                continue
            self.read.add(path.name)
            number = int(path.stem.split("-")[1])
            self.latents.append(np.load(path))
            scenes = [draw(FIRST + number * PER_FILE + i, photos(False)) for i in range(PER_FILE)]
            self.fields += [field(scene) for scene in scenes]
            self.scenes += scenes
        return len(self.scenes)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel.

        The deviation is at least 1, that of a channel with its noise: one that the VAE has silenced is not amplified.
        """
        channels = [a.astype(np.float32).swapaxes(0, 1).reshape(a.shape[1], -1) for a in self.latents]
        values = np.concatenate(channels, 1)
        return values.mean(1).tolist(), np.maximum(values.std(1), 1).tolist()

    def batch(self, count: int) -> Batch:
        """Clips drawn at random; the first file is kept for `held_out`."""
        return self.take(self.rng.integers(PER_FILE, len(self.scenes), size=count).tolist())

    def held_out(self) -> Batch:
        """Clips that are not trained on."""
        return self.take(list(range(PER_FILE)), without_caption=0.0)

    def take(self, chosen: list[int], without_caption: float = WITHOUT_CAPTION) -> Batch:
        """The clips of these numbers, with new captions."""
        latents = np.stack([self.latents[i // PER_FILE][i % PER_FILE] for i in chosen]).astype(np.float32)
        fields = np.stack([self.fields[i][0] for i in chosen]).astype(np.float32)
        acting = np.stack([self.fields[i][1] for i in chosen]).astype(np.float32)
        words = [self.words(i, without_caption) for i in chosen]
        return Batch(torch.from_numpy(latents), words, torch.from_numpy(fields), torch.from_numpy(acting))

    def words(self, index: int, without_caption: float) -> str:
        """A caption of a clip, or an empty one."""
        if self.random.random() < without_caption:
            return self.random.choice(EMPTY)
        return caption(self.scenes[index], self.random)


def flow_loss(flow: Flow, x: Tensor, ids: Tensor, generator: torch.Generator, weight: Tensor | float = 1.0) -> Tensor:
    """Squared error of the velocity, over the frames that are not given; `weight` [B, T, h, w] of every place."""
    batch, _, frames, h, w = x.shape
    where = next(flow.parameters()).device
    u = torch.sigmoid(torch.randn(batch, generator=generator) * 1.2)
    sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
    with_image = torch.rand(batch, generator=generator) < WITH_IMAGE
    noise = torch.randn(x.shape, generator=generator).to(where)
    # Drawn on the processor, so that a seed draws the same on every device.
    x, ids, sigma, with_image = (t.to(where) for t in (x, ids, sigma, with_image))
    s = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - s) * x + s * noise
    given = with_image.view(-1, 1, 1, 1, 1)
    noisy[:, :, :1] = torch.where(given, x[:, :, :1], noisy[:, :, :1])
    # The pinned pipeline feeds whole timesteps.
    times = token_times((sigma * 1000).floor(), frames, (h // 2) * (w // 2), with_image)
    velocity = flow(noisy.bfloat16(), times, ids).float()
    error = (velocity - (noise - x)).square().mean(1) * weight
    later = error[:, 1:].mean()
    first = (error[:, :1] * (~given[:, 0])).mean()
    return later + first / frames


@torch.no_grad()
def foresight(flow: Flow, x: Tensor, ids: Tensor, acting: Tensor) -> tuple[float, float]:
    """Error of the clip foreseen from its first frame and caption alone, against that of the first frame repeated.

    Over all places, and over those where a thing does something. 1 is no better than a frozen clip.
    """
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
    noisy = torch.cat([x[:, :, :1], noise[:, :, 1:]], 2)
    batch, _, frames, h, w = x.shape
    given = torch.ones(batch, dtype=torch.bool, device=x.device)
    times = token_times(torch.full((batch,), 999.0, device=x.device), frames, (h // 2) * (w // 2), given)
    seen = noise - flow(noisy.bfloat16(), times, ids).float()
    error = (seen - x).square().mean(1)[:, 1:]
    frozen = (x[:, :, :1] - x).square().mean(1)[:, 1:]
    acting = acting[:, 1:]
    whole = error.mean() / frozen.mean()
    return whole.item(), ((error * acting).sum() / (frozen * acting).sum()).item()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=128 if device().type == "cuda" else 16)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6)
    arguments = parser.parse_args()
    rank, _ = start()
    tokenizer = AutoTokenizer.from_pretrained(arguments.run / "tokenizer")
    vocabulary = len(tokenizer)
    flow = Flow(
        make_text_encoder(arguments.seed, vocabulary),
        make_transformer(arguments.seed, arguments.heads, arguments.layers),
    ).to(device(), torch.bfloat16)
    guide = Guide(flow.transformer, GUIDED_BLOCK).to(device(), torch.bfloat16)
    optimiser = Optimiser(nn.ModuleList([flow, guide]), plain=PLAIN)
    average = [w.clone() for w in optimiser.weights]
    state_file, clock = arguments.run / "dit.pt", Clock(arguments.minutes)
    data = Data(arguments.run / "latents", 0)
    clips = data.refresh()
    if clips <= PER_FILE:
        raise SystemExit(
            f"{data.folder}: {clips} clips, but the first {PER_FILE} are kept apart; run tiny_wan.latents longer"
        )
    statistics = data.statistics()
    if state_file.exists():
        state = torch.load(state_file, map_location=device())
        optimiser.load(state["optimiser"])
        clock.spent, average, statistics = state["spent"], state["average"], state["statistics"]
    seed = arguments.seed * 1000 + rank + 7919 * optimiser.steps
    data.rng, data.random = np.random.default_rng(seed), random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in statistics)
    sizes = f"text {count(flow.text):.2f} M, transformer {count(flow.transformer):.2f} M parameters"
    log(rank, f"{sizes}, {clips} clips, step {optimiser.steps}")
    log(rank, f"latents: |mean| {mean.abs().mean():.2f}, std {std.min():.2f} to {std.max():.2f}")
    shown = saved = clock.spent
    smooth = smooth_guide = 0.0

    def normal(batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised latents and token ids."""
        return (batch.latents - mean) / std, token_ids(tokenizer, batch.words)

    def keep() -> None:
        state = {"optimiser": optimiser.state(), "average": average, "statistics": statistics}
        save(state_file, state | {"spent": clock.spent, "sizes": plain(arguments), "vocabulary": vocabulary})

    while (progress := clock.tick()) < 1:
        batch = data.batch(arguments.batch)
        weight = 1 + ACTING * batch.acting
        loss = flow_loss(flow, *normal(batch), generator, weight.to(device()))
        told = guide.loss(batch.field.to(device()))
        (loss + GUIDE * told).backward()
        optimiser.step(rate(progress, arguments.peak))
        with torch.no_grad():
            torch._foreach_lerp_(average, optimiser.weights, max(0.005, 1 / (optimiser.steps + 1)))
        smooth = 0.99 * smooth + 0.01 * loss.item() if smooth else loss.item()
        smooth_guide = 0.99 * smooth_guide + 0.01 * told.item() if smooth_guide else told.item()
        if rank == 0 and clock.spent - shown > 60:
            shown = clock.spent
            where = f"step {optimiser.steps} {100 * progress:.0f} %"
            kept = data.held_out()
            whole, acts = foresight(flow, *(t.to(device()) for t in (*normal(kept), kept.acting)))
            seen = f"against a frozen clip {whole:.2f}, where things act {acts:.2f}"
            log(rank, f"{where} loss {smooth:.4f}, guide {smooth_guide:.3f}, gradient {optimiser.norm:.3f}, {seen}")
        if rank == 0 and clock.spent - saved > 60:
            saved = clock.spent
            keep()
        if optimiser.steps % 200 == 0:
            clips = data.refresh()
    if rank == 0:
        keep()
        log(rank, f"done, loss {smooth:.4f}")
    barrier()


if __name__ == "__main__":
    main()
