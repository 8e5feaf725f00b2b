"""Fixtures of the two picture encoders: tiny random CLIP and DINOv2, and what transformers 5.14.1 makes of pictures.

    python embeddings_fixtures.py                            # models/tests/fixtures/embeddings, as committed
    python embeddings_fixtures.py --seed 3 --out /tmp/other  # other sizes, weights and pictures

`cargo test -p leoma-models --test embeddings` compares with the committed ones, or with the folder that
LEOMA_EMBEDDINGS_FIXTURE names. Settings vary with the seed, so that a loader with built-in sizes cannot open them;
norm weights, biases and layer scales are drawn too. Pictures are resized by Pillow, as the processors without
torchvision do it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SEED = 20251123
TEXTS = (
    "A red panda rides a bicycle, 4k. It's 12 seconds long!",
    "Zoë's  café\nby NIGHT",
    # More than the positions of the tiny model: cut as the published one cuts after 77.
    "a slow pan over the sea at dawn, waves and gulls, then the camera turns to the harbour and stops",
)
MERGES = "t h,i n,a n,e r,o n,th e</w>,r e,s e,a</w> n</w>,in g</w>,p an,c a,d a,o r,ca m,cam er,l o,s t,w a"


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth random picture with a little noise."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-6, 7, (height, width, 3))
    return (np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8)


def fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter: matrices of gain one to two, norm weights and layer scales around one, small biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight") or "lambda1" in name:
                value = 1 + 0.3 * noise
            elif name.endswith("bias"):
                value = 0.2 * noise
            elif "embedding" in name and "patch_embedding" not in name or "token" in name or parameter.dim() == 0:
                value = 0.6 * noise
            else:
                # Larger q and k make attention choose, so that masks and positions count.
                gain = 2.0 if any(part in name for part in ("q_proj", "k_proj", "query", "key")) else 1.0
                value = gain * noise * parameter[0].numel() ** -0.5
            parameter.copy_(value)


def make_tokenizer() -> CLIPTokenizer:
    """Every byte a token, at the end of a word and before it, and some merges."""
    alphabet = sorted(ByteLevel.alphabet())
    words = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[tuple[str, str]] = []
    for pair in MERGES.split(","):
        a, b = pair.split(" ")
        if a in words and b in words:
            merges.append((a, b))
            words.append(a + b)
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def save_json(path: Path, value: object) -> None:
    """One value a line where it is a list of settings."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def make_clip(draw: random.Random, generator: torch.Generator, folder: Path) -> None:
    """A CLIP folder in the layout of the published ones, older spellings in its processor file included."""
    patch, side = draw.choice((6, 8)), draw.choice((3, 4))
    tokenizer = make_tokenizer()
    words = tokenizer.backend_tokenizer.get_vocab_size()
    positions = draw.choice((24, 33))
    config = CLIPConfig(
        text_config={
            "vocab_size": words,
            "hidden_size": 24,
            "intermediate_size": draw.choice((40, 56)),
            "num_hidden_layers": 2,
            "num_attention_heads": draw.choice((2, 3)),
            "max_position_embeddings": positions,
            "hidden_act": "quick_gelu",
            # As in the published files; the mark is then found as the largest id.
            "eos_token_id": 2,
            "bos_token_id": 0,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": draw.choice((48, 72)),
            "num_hidden_layers": 2,
            "num_attention_heads": draw.choice((2, 4)),
            "image_size": patch * side,
            "patch_size": patch,
            "hidden_act": "quick_gelu",
        },
        projection_dim=20,
    )
    model = CLIPModel(config)
    fill(model, generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    # Files of transformers before 4.31 hold these counters, the published ones among them.
    tensors["text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(side * side + 1)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    processor = {
        "crop_size": patch * side,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": patch * side,
    }
    save_json(folder / "preprocessor_config.json", processor)


def make_dinov2(draw: random.Random, generator: torch.Generator, folder: Path) -> None:
    """A DINOv2 folder: pictures have another size than the position table, as with the published ones."""
    patch = draw.choice((5, 7))
    trained, shown = draw.choice(((5, 3), (6, 4), (4, 6)))
    config = Dinov2Config(
        hidden_size=36,
        num_hidden_layers=2,
        num_attention_heads=draw.choice((2, 3)),
        mlp_ratio=draw.choice((2, 3)),
        image_size=trained * patch,
        patch_size=patch,
    )
    model = Dinov2Model(config)
    fill(model, generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    crop = shown * patch
    processor = {
        "crop_size": {"height": crop, "width": crop},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": crop + patch},
    }
    save_json(folder / "preprocessor_config.json", processor)


def pictures(seed: int) -> list[np.ndarray]:
    """Wide and tall ones, larger and smaller than what the models see."""
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    sizes = [(draw.randint(40, 60), draw.randint(61, 90)), (draw.randint(61, 80), draw.randint(25, 50)), (20, 23)]
    return [picture(rng, height, width) for height, width in sizes]


def make(seed: int, folder: Path) -> None:
    """Both models and everything that is compared."""
    shutil.rmtree(folder, ignore_errors=True)
    draw, generator = random.Random(f"embeddings/{seed}"), torch.Generator().manual_seed(seed)
    make_clip(draw, generator, folder / "clip")
    make_dinov2(draw, generator, folder / "dinov2")
    shown = pictures(seed)
    tensors = {f"picture.{index}": torch.from_numpy(image) for index, image in enumerate(shown)}

    as_reference = {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    clip = CLIPModel.from_pretrained(folder / "clip", **as_reference).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    positions = clip.config.text_config.max_position_embeddings
    with torch.no_grad():
        pixels = processor(shown, return_tensors="pt")["pixel_values"]
        tensors["clip.pixels"] = pixels
        tensors["clip.images"] = clip.get_image_features(pixels).pooler_output
        for index, text in enumerate(TEXTS):
            batch = tokenizer([text], truncation=True, max_length=positions, return_tensors="pt")
            tensors[f"clip.ids.{index}"] = batch["input_ids"][0]
            tensors[f"clip.text.{index}"] = clip.get_text_features(**batch).pooler_output[0]

        dinov2 = Dinov2Model.from_pretrained(folder / "dinov2", **as_reference).eval()
        processor = BitImageProcessorPil.from_pretrained(folder / "dinov2")
        pixels = processor(shown, return_tensors="pt")["pixel_values"]
        tensors["dinov2.pixels"] = pixels
        tensors["dinov2.images"] = dinov2(pixels).pooler_output
        # At the size of the position table nothing is interpolated.
        side = dinov2.config.image_size
        trained = torch.randn((1, 3, side, side), generator=generator)
        tensors["dinov2.trained.pixels"] = trained
        tensors["dinov2.trained.images"] = dinov2(trained).pooler_output
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "golden.safetensors")
    save_json(folder / "golden.json", {"pictures": len(shown), "texts": list(TEXTS)})
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    print(f"{sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e3:.0f} kB in {folder}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="other models and pictures; needs --out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.seed is None:
        root = Path(__file__).parents[2]
        make(SEED, arguments.out or root / "models" / "tests" / "fixtures" / "embeddings")
    elif arguments.out is None:
        parser.error("--seed needs --out: the committed fixture has a seed of its own")
    else:
        make(arguments.seed, arguments.out)


if __name__ == "__main__":
    main()
