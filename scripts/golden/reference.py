"""Runs diffusers 0.35.2 in float32 on CPU and keeps every tensor that `leoma-node generate --dump` writes.

    python reference.py --model DIR --prompt TEXT --out FILE.safetensors [--image FILE] …

The pipeline runs as it is: the tensors are picked up by wrapping its calls, and a second, unwrapped run
proves that this changed nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from samplers import DpmSolver

for _logging in (diffusers_logging, transformers_logging):
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()

SCHEDULERS = ("unipc", "euler", "dpmpp")


@dataclass
class Run:
    """One generation."""

    prompt: str
    negative_prompt: str = ""
    image: Path | None = None
    height: int = 64
    width: int = 64
    num_frames: int = 9
    steps: int = 3
    guidance_scale: float = 5.0
    guidance_scale_2: float | None = None
    flow_shift: float | None = None
    seed: int = 0
    scheduler: str = "unipc"
    preset: str = "diffusers"


def load_pipeline(folder: Path, with_image: bool) -> Any:
    """The pipeline of a checkpoint in the diffusers layout, float32."""
    index = json.loads((folder / "model_index.json").read_text())
    kind = {"torch_dtype": torch.float32}
    parts: dict[str, Any] = {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae", **kind),
        "scheduler": UniPCMultistepScheduler.from_pretrained(folder / "scheduler"),
        "transformer": WanTransformer3DModel.from_pretrained(folder / "transformer", **kind),
        "transformer_2": None,
    }
    if (folder / "transformer_2").exists():
        parts["transformer_2"] = WanTransformer3DModel.from_pretrained(folder / "transformer_2", **kind)
    pipeline = (WanImageToVideoPipeline if with_image else WanPipeline)(
        **parts,
        boundary_ratio=index.get("boundary_ratio"),
        expand_timesteps=index.get("expand_timesteps", False),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def set_scheduler(pipeline: Any, config: Any, run: Run) -> None:
    """Installs a fresh sampler. `config` is the checkpoint's; its shift holds unless the run has one."""
    shift = run.flow_shift if run.flow_shift is not None else config.flow_shift
    if run.scheduler == "unipc":
        pipeline.scheduler = UniPCMultistepScheduler.from_config(config, flow_shift=shift)
    elif run.scheduler == "euler":
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        pipeline.scheduler = DpmSolver(shift)


def first_frame(run: Run) -> Image.Image | None:
    """The image as handed to the pipeline: Leoma resizes it (bicubic) itself, diffusers does otherwise."""
    if run.image is None:
        return None
    image = Image.open(run.image).convert("RGB")
    return image.resize((run.width, run.height)) if run.preset == "leoma" else image


def _call(pipeline: Any, run: Run, output_type: str) -> Any:
    arguments = {
        "prompt": run.prompt,
        "negative_prompt": run.negative_prompt,
        "height": run.height,
        "width": run.width,
        "num_frames": run.num_frames,
        "num_inference_steps": run.steps,
        "guidance_scale": run.guidance_scale,
        "guidance_scale_2": run.guidance_scale_2,
        "generator": torch.Generator("cpu").manual_seed(run.seed),
        "output_type": output_type,
    }
    image = first_frame(run)
    if image is not None:
        arguments["image"] = image
    return pipeline(**arguments).frames


def to_u8(decoded: torch.Tensor, preset: str) -> torch.Tensor:
    """[1, 3, T, H, W] in [-1, 1] to U8 [T, H, W, 3]; Leoma truncates, the others round."""
    frames = (decoded * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 3, 0).float().numpy()
    scaled = frames * 255
    return torch.from_numpy((scaled if preset == "leoma" else scaled.round()).astype(np.uint8))


class _Tap:
    """Replaces attributes for a while; each replacement sees the original's result."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def after(self, owner: Any, name: str, seen: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            seen(result, *args, **kwargs)
            return result

        self._undo.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, wrapped)

    def remove(self) -> None:
        for owner, name, own in self._undo:
            if own is None:  # the class's method shows again
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def capture(pipeline: Any, run: Run) -> dict[str, torch.Tensor]:
    """Runs once and returns the tensors, by the names of the dump."""
    out: dict[str, torch.Tensor] = {}
    steps = {"velocity": 0, "latents": 0}
    guided = run.guidance_scale > 1
    tap = _Tap()

    def ids(_: Any, tokens: torch.Tensor, *__: Any, **___: Any) -> None:
        out["tokens.negative" if "tokens.prompt" in out else "tokens.prompt"] = tokens.to(torch.int32)

    def text(result: Any, *_: Any, **__: Any) -> None:
        out["text.prompt"] = result[0]
        if result[1] is not None:
            out["text.negative"] = result[1]

    def start(result: Any, *_: Any, **__: Any) -> None:
        if run.image is None:
            out["noise"] = result
            return
        out["noise"] = result[0]
        out["image_latents" if len(result) == 3 else "condition"] = result[1]

    def velocity(result: Any, *_: Any, **__: Any) -> None:
        call = steps["velocity"]
        steps["velocity"] += 1
        index, branch = (call // 2, ("cond", "uncond")[call % 2]) if guided else (call, "cond")
        out[f"velocity_{branch}.{index:02}"] = result[0]

    def stepped(result: Any, *_: Any, **__: Any) -> None:
        out[f"latents.{steps['latents']:02}"] = result[0]
        steps["latents"] += 1

    def decoded(result: Any, latents: torch.Tensor, *_: Any, **__: Any) -> None:
        out["decode_input"] = latents
        out["decoded"] = result[0]

    tap.after(pipeline.text_encoder, "forward", ids)
    tap.after(pipeline, "encode_prompt", text)
    tap.after(pipeline, "prepare_latents", start)
    for expert in (pipeline.transformer, pipeline.transformer_2):
        if expert is not None:
            tap.after(expert, "forward", velocity)
    tap.after(pipeline.scheduler, "step", stepped)
    tap.after(pipeline.vae, "decode", decoded)
    try:
        frames = _call(pipeline, run, "np")
    finally:
        tap.remove()

    out["timesteps"] = pipeline.scheduler.timesteps.float()
    out["sigmas"] = pipeline.scheduler.sigmas.float()
    final = out[f"latents.{run.steps - 1:02}"].clone()
    if "image_latents" in out:
        final[:, :, :1] = out["image_latents"]
    out["latents.final"] = final
    _check_final(pipeline, final, out.pop("decode_input"))
    out["frames_u8"] = to_u8(out["decoded"], run.preset)
    assert np.array_equal((frames[0] * 255).astype(np.uint8), to_u8(out["decoded"], "leoma").numpy())
    return {name: tensor.detach().contiguous().clone() for name, tensor in out.items()}


def _check_final(pipeline: Any, final: torch.Tensor, decode_input: torch.Tensor) -> None:
    """`latents.final` is rebuilt here: make sure that it is what the pipeline decoded."""
    config = pipeline.vae.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
    inverse = 1.0 / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
    assert torch.equal(final / inverse + mean, decode_input), "latents.final is not what was decoded"


def reference(folder: Path, run: Run, verify: bool = True) -> dict[str, torch.Tensor]:
    """Captures a run of the checkpoint in `folder`; `verify` repeats it untouched and compares."""
    pipeline = load_pipeline(folder, run.image is not None)
    config = pipeline.scheduler.config
    with torch.no_grad():
        set_scheduler(pipeline, config, run)
        tensors = capture(pipeline, run)
        if verify:
            set_scheduler(pipeline, config, run)
            plain = _call(pipeline, run, "np")
            same = (tensors["decoded"] * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 3, 0).numpy()
            assert np.array_equal(plain[0], same), "the capture changed the result"
    return tensors


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--num-frames", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--guidance-scale-2", type=float)
    parser.add_argument("--flow-shift", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="unipc")
    parser.add_argument("--preset", choices=("leoma", "diffusers"), default="diffusers")
    arguments = vars(parser.parse_args())
    folder, out = arguments.pop("model"), arguments.pop("out")
    torch.set_num_threads(1)
    tensors = reference(folder, Run(**arguments))
    save_file(tensors, out)
    for name, tensor in tensors.items():
        spread = tensor.float().std().item() if tensor.numel() > 1 else 0.0
        print(f"{name:24} {tensor.dtype!s:14} {list(tensor.shape)!s:24} std {spread:.3f}")


if __name__ == "__main__":
    main()
