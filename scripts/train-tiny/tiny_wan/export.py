"""Stage 4: the checkpoint in the diffusers layout, bfloat16. `python -m tiny_wan.export --run DIR --out DIR`."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5EncoderModel

from .latents import trained_vae
from .networks import make_text_encoder, make_transformer

# Shift of the sampler's schedule, written to scheduler_config.json.
FLOW_SHIFT = 3.0


def model_index() -> dict[str, object]:
    """`model_index.json` as the published conversion of the 5B writes it."""
    return {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.35.2",
        "boundary_ratio": None,
        "expand_timesteps": True,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def write(
    out: Path, vae: AutoencoderKLWan, text: UMT5EncoderModel, transformer: WanTransformer3DModel, tokenizer: Path
) -> None:
    """Writes a checkpoint into the new folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    vae.to(torch.bfloat16).save_pretrained(out / "vae")
    text.to(torch.bfloat16).save_pretrained(out / "text_encoder")
    transformer.to(torch.bfloat16).save_pretrained(out / "transformer")
    UniPCMultistepScheduler(
        num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
    ).save_pretrained(out / "scheduler")
    (out / "tokenizer").mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(tokenizer / name, out / "tokenizer" / name)
    (out / "model_index.json").write_text(json.dumps(model_index(), indent=2, sort_keys=True) + "\n")


def digests(folder: Path) -> str:
    """One line per file: SHA-256, bytes, name."""
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md"):
        data = path.read_bytes()
        lines.append(f"{hashlib.sha256(data).hexdigest()}  {len(data):>9}  {path.relative_to(folder)}")
    return "\n".join(lines)


def card(folder: Path, template: Path) -> None:
    """The model card: the committed text with the digests of these files."""
    (folder / "README.md").write_text(template.read_text().replace("@DIGESTS@", digests(folder)))


@torch.no_grad()
def trained(run: Path) -> tuple[AutoencoderKLWan, UMT5EncoderModel, WanTransformer3DModel]:
    """The networks of a run, with the averaged weights of stage 3."""
    vae = trained_vae(run)
    state = torch.load(run / "dit.pt", map_location="cpu")
    sizes = state["sizes"]
    text = make_text_encoder(0, state["vocabulary"])
    transformer = make_transformer(0, sizes["heads"], sizes["layers"])
    parameters = [*text.parameters(), *transformer.parameters()]
    # Behind these weights are the guide's, which stay here.
    for parameter, weight in zip(parameters, state["average"][: len(parameters)], strict=True):
        parameter.copy_(weight)
    mean, std = state["statistics"]
    vae.register_to_config(latents_mean=[round(v, 6) for v in mean], latents_std=[round(v, 6) for v in std])
    return vae, text, transformer


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    beside = arguments.out.with_name(f".{arguments.out.name}.tmp")
    if beside.exists():
        shutil.rmtree(beside)
    write(beside, *trained(arguments.run), arguments.run / "tokenizer")
    card(beside, Path(__file__).parent.parent / "MODEL_CARD.md")
    if arguments.out.exists():
        shutil.rmtree(arguments.out)
    beside.rename(arguments.out)
    size = sum(p.stat().st_size for p in arguments.out.rglob("*") if p.is_file())
    print(f"{arguments.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
