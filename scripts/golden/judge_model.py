"""Tiny random Qwen3-VL checkpoints of the true architecture, as transformers 5.14.1 saves them.

    python judge_model.py --seed 7 --out /tmp/judge

All sizes vary with the seed, so that a loader with built-in sizes cannot open them; norm weights and biases
are drawn too. The tokenizer is byte-level like Qwen's, with a few merges.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen's own expression.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
MERGES = (
    "Ġ t,h e,i n,e r,Ġ a,r e,o n,Ġ s,a t,e n,o r,Ġ w,e s,i s,Ġt h,o u,in g,Ġth e,Ġ f,Ġ o,e d,s t,a n,s e,"
    "co n,c o,con d,Ġs e,Ġse cond,Ġsecond s"
)


@dataclass(frozen=True)
class Sizes:
    """What of the architecture is free."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    layers: int
    section: tuple[int, int, int]
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int
    depth: int
    deepstack: tuple[int, ...]
    patch: int
    side: int
    tied: bool
    theta: float
    weights: torch.dtype
    max_shard_size: str


def drawn_sizes(seed: int) -> Sizes:
    """Sizes for a seed."""
    rng = random.Random(f"judge/{seed}")
    kv_heads, group = rng.choice((1, 2, 3)), rng.choice((1, 2, 4))
    half = rng.choice((8, 12, 16))
    height = rng.randint(1, half // 3)
    width = rng.randint(1, half // 3)
    depth, layers = rng.randint(2, 4), rng.randint(2, 4)
    levels = rng.randint(1, min(depth, layers))
    vision_heads = rng.choice((1, 2, 3))
    return Sizes(
        hidden=rng.choice((40, 64, 96)),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=2 * half,
        intermediate=rng.choice((56, 96, 130)),
        layers=layers,
        section=(half - height - width, height, width),
        vision_hidden=vision_heads * rng.choice((8, 12, 16)),
        vision_heads=vision_heads,
        vision_intermediate=rng.choice((40, 72)),
        depth=depth,
        deepstack=tuple(sorted(rng.sample(range(depth), levels))),
        patch=rng.choice((8, 16)),
        side=rng.choice((4, 7, 12)),
        tied=rng.random() < 0.5,
        theta=rng.choice((1e4, 1e6, 5e6)),
        weights=rng.choice((torch.float32, torch.bfloat16)),
        max_shard_size=rng.choice(("10GB", "60KB")),
    )


def make_tokenizer() -> Tokenizer:
    """Every byte a token, some pairs merged, the marks of a conversation special."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = [tuple(pair.split(" ")) for pair in MERGES.split(",")]
    # A merge may only use what exists: order by length, keep the given order otherwise.
    words, usable = list(alphabet), []
    while len(usable) < len(merges):
        added = [pair for pair in merges if pair not in usable and pair[0] in words and pair[1] in words]
        assert added, "a merge needs a word that is never made"
        usable += added
        words += [a + b for a, b in added if a + b not in words]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, usable))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def save_tokenizer(folder: Path) -> Tokenizer:
    """`tokenizer.json` and `tokenizer_config.json`."""
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def save_processors(folder: Path, sizes: Sizes) -> None:
    """The two files of the published layout; budgets small enough that both rules are met by small pictures."""
    factor = 2 * sizes.patch
    common = {
        "patch_size": sizes.patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.45, 0.4],
        "image_std": [0.5, 0.4, 0.3],
        "processor_class": "Qwen3VLProcessor",
    }
    image = {
        "size": {"shortest_edge": 2 * factor**2, "longest_edge": 12 * factor**2},
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    video = {
        "size": {"shortest_edge": 4 * factor**2, "longest_edge": 40 * factor**2},
        "video_processor_type": "Qwen3VLVideoProcessor",
    }
    for name, extra in (("preprocessor_config.json", image), ("video_preprocessor_config.json", video)):
        (folder / name).write_text(json.dumps(common | extra, indent=2) + "\n")


def fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter: unit-gain matrices, norm weights around one, small biases, sharp attention."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.split(".")[-2] and name.endswith("weight"):
                # Larger norms of q and k make attention choose, so that masks and positions count.
                value = (1.6 if name.split(".")[-2] in ("q_norm", "k_norm") else 1.0) + 0.3 * noise
            elif name.endswith("bias"):
                value = 0.2 * noise
            elif "pos_embed" in name:
                value = noise
            elif "embed_tokens" in name or "lm_head" in name:
                # Small beside what the layers add: a tied model would only repeat its last token.
                value = 0.4 * noise
            else:
                gain = 2.0 if "language_model" in name and ("o_proj" in name or "down_proj" in name) else 1.0
                value = gain * noise * parameter[0].numel() ** -0.5
            parameter.copy_(value)


def make_model(seed: int, folder: Path, sizes: Sizes | None = None) -> Sizes:
    """Writes a checkpoint; returns its sizes."""
    sizes = sizes or drawn_sizes(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(folder)
    save_processors(folder, sizes)
    words = tokenizer.get_vocab_size()
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": words + 9,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": sizes.theta,
                "mrope_interleaved": True,
                "mrope_section": list(sizes.section),
            },
            "tie_word_embeddings": sizes.tied,
        },
        vision_config={
            "depth": sizes.depth,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": sizes.vision_intermediate,
            "num_heads": sizes.vision_heads,
            "patch_size": sizes.patch,
            "out_hidden_size": sizes.hidden,
            "num_position_embeddings": sizes.side**2,
            "deepstack_visual_indexes": list(sizes.deepstack),
        },
        image_token_id=tokenizer.token_to_id("<|image_pad|>"),
        video_token_id=tokenizer.token_to_id("<|video_pad|>"),
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
        tie_word_embeddings=sizes.tied,
    )
    model = Qwen3VLForConditionalGeneration(config)
    fill(model, torch.Generator().manual_seed(seed))
    model.tie_weights()
    model.to(sizes.weights).save_pretrained(folder, max_shard_size=sizes.max_shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return sizes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(make_model(arguments.seed, arguments.out))


if __name__ == "__main__":
    main()
