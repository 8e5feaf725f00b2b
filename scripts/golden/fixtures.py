"""Regenerates the committed fixtures: tiny checkpoints and what the reference makes of them.

    python fixtures.py --out ../../models/tests/fixtures

One folder per kind holds a checkpoint in the diffusers layout, the two `.pth` files of its official form
(the rest of that layout is derived in the test), and

- `<run>.safetensors`: the dump of a whole run, its settings in the file's metadata;
- `vae.safetensors`: a clip, its latents (posterior mean, not normalised) and its reconstruction;
- `prompts.json`, `prompts.safetensors`: prompts, cleaned prompts, tokens, embeddings of the real tokens.

`schedulers.safetensors` holds runs of the three samplers on given velocities.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from PIL import Image
from safetensors.torch import save_file

import official
from checkpoints import KINDS, Sizes, make_checkpoint
from reference import SCHEDULERS, Run, load_pipeline, reference
from samplers import DpmSolver

SEED = 20250728

COMMON = {
    "layers": 2,
    "text_layers": 2,
    "text_dim": 24,
    "text_heads": 2,
    "text_kv": 8,
    "text_ff": 40,
    "vae_dim": 4,
    "vae_decoder_dim": 4,
    "weights": torch.bfloat16,
    "text_weights": torch.bfloat16,
}
SIZES = {
    "ti2v-5b": Sizes(
        heads=2,
        head_dim=32,
        ffn_dim=96,
        freq_dim=32,
        flow_shift=5.0,
        boundary_ratio=0.9,
        max_shard_size="150KB",
        **COMMON,
    ),
    "i2v-a14b": Sizes(heads=2, head_dim=32, ffn_dim=80, freq_dim=64, flow_shift=3.0, boundary_ratio=0.9, **COMMON),
    "t2v-a14b": Sizes(heads=3, head_dim=32, ffn_dim=88, freq_dim=32, flow_shift=5.0, boundary_ratio=0.875, **COMMON),
}

NEGATIVE = "low quality， blurry, distorted"
PROMPT = "A  red panda rides a bicycle &amp; the camera slowly pans；cinematic lighting"
RUNS: dict[str, dict[str, Run]] = {
    "ti2v-5b": {
        "i2v": Run(PROMPT, NEGATIVE, Path("image"), 64, 96, 5, steps=4, seed=42),
        "t2v": Run(PROMPT, "", None, 64, 32, 5, steps=3, seed=7),
        "euler": Run(PROMPT, "", Path("image"), 32, 64, 5, steps=3, guidance_scale=1.0, seed=3, scheduler="euler"),
    },
    "i2v-a14b": {
        "i2v": Run(PROMPT, NEGATIVE, Path("image"), 32, 48, 9, 4, 3.5, 2.5, seed=42),
        "dpmpp": Run(PROMPT, "", Path("image"), 48, 32, 5, 3, 1.0, seed=5, flow_shift=8.0, scheduler="dpmpp"),
    },
    "t2v-a14b": {"t2v": Run(PROMPT, NEGATIVE, None, 32, 48, 9, 5, 4.0, 3.0, seed=42)},
}

PROMPTS = [
    "",
    "a red panda rides a bicycle",
    "  collapse \t these\u00a0spaces\u3000now \n",
    "fish &amp;amp; chips &lt;b&gt; &quot;warm&quot;",
    "sch\u00c3\u00b6n, \u201cquoted\u201d \uff21\uff22\uff23\uff01 \ufb01sh \u2026 \u00bd",
    "色调艳丽，过曝，静态，细节模糊不清",
    "outside the vocabulary: 🙂 Ω 龍, ab🙂🙂cd",
    "special </s> tokens <s> inside <unk> a prompt",
    "low quality, blurry, distorted " * 7,
    "the camera slowly pans across a quiet harbour " * 70,
]


def picture(seed: int, height: int, width: int) -> Image.Image:
    """A smooth random picture with a little noise: compresses, yet has no flat areas."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-6, 7, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))


def save_run(folder: Path, name: str, run: Run, scratch: Path) -> None:
    """One reference run; the image, if any, is stored at the asked size as `image_u8` [H, W, 3]."""
    extra: dict[str, torch.Tensor] = {}
    settings = asdict(run) | {"image": run.image is not None}
    if run.image is not None:
        image = picture(run.seed, run.height, run.width)
        image.save(scratch / "image.png")
        run.image = scratch / "image.png"
        extra["image_u8"] = torch.from_numpy(np.asarray(image).copy())
    tensors = reference(folder, run) | extra
    save_file(tensors, folder / f"{name}.safetensors", metadata={"run": json.dumps(settings)})


def save_vae(folder: Path, pipeline: Any) -> None:
    """Encodes and decodes a clip of three latent frames."""
    generator = torch.Generator().manual_seed(SEED)
    cell = pipeline.vae.config.scale_factor_spatial
    clip = torch.rand(1, 3, 9, 2 * cell, 3 * cell, generator=generator) * 2 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(clip).latent_dist.mode()
        decoded = pipeline.vae.decode(latents).sample
    save_file({"clip": clip, "latents": latents, "decoded": decoded}, folder / "vae.safetensors")


def save_text(folder: Path, pipeline: Any) -> None:
    """Cleans, tokenises and encodes the list of prompts."""
    rows, tensors = [], {}
    for index, prompt in enumerate(PROMPTS):
        clean = prompt_clean(prompt)
        tokens = pipeline.tokenizer(clean, truncation=True, max_length=512, add_special_tokens=True).input_ids
        rows.append({"prompt": prompt, "clean": clean, "tokens": tokens})
        with torch.no_grad():
            embeds = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)[0]
        assert not embeds[0, len(tokens) :].any()
        tensors[f"embeds.{index}"] = embeds[0, : len(tokens)].contiguous()
    (folder / "prompts.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    save_file(tensors, folder / "prompts.safetensors")


def save_schedulers(path: Path) -> None:
    """Runs of the samplers on given velocities: names `<sampler>.<steps>.<shift>.<tensor>`."""
    generator = torch.Generator().manual_seed(SEED)
    tensors: dict[str, torch.Tensor] = {}
    for steps, shift in ((1, 3.0), (2, 5.0), (3, 3.0), (8, 5.0), (30, 3.0), (40, 12.0)):
        start = torch.randn(1, 2, 2, 2, 3, generator=generator)
        velocity = torch.randn(steps, *start.shape, generator=generator)
        for name in SCHEDULERS:
            if name == "unipc":
                scheduler: Any = UniPCMultistepScheduler(
                    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
                )
            elif name == "euler":
                scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
            else:
                scheduler = DpmSolver(shift)
            scheduler.set_timesteps(steps)
            sample, latents = start, []
            for index, timestep in enumerate(scheduler.timesteps):
                sample = scheduler.step(velocity[index], timestep, sample, return_dict=False)[0]
                latents.append(sample)
            key = f"{name}.{steps}.{shift:g}."
            tensors |= {
                key + "start": start.clone(),
                key + "velocity": velocity.clone(),
                key + "latents": torch.stack(latents),
                key + "timesteps": scheduler.timesteps.float().clone(),
                key + "sigmas": scheduler.sigmas.float().clone(),
            }
    save_file(tensors, path)


def make(kind: str, folder: Path) -> None:
    """Everything of one kind."""
    shutil.rmtree(folder, ignore_errors=True)
    make_checkpoint(kind, SEED + KINDS.index(kind), folder, SIZES[kind])
    official.save_pth(kind, folder, folder / "official")
    with tempfile.TemporaryDirectory() as scratch:
        for name, run in RUNS[kind].items():
            save_run(folder, name, run, Path(scratch))
    pipeline = load_pipeline(folder, with_image=False)
    save_vae(folder, pipeline)
    save_text(folder, pipeline)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "models" / "tests" / "fixtures")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    save_schedulers(out / "schedulers.safetensors")
    (out / "schedulers.safetensors").chmod(0o644)
    for kind in KINDS:
        make(kind, out / kind)
        print(f"{kind}: {sum(p.stat().st_size for p in (out / kind).rglob('*') if p.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
