"""The tokenizer: SentencePiece unigram on the grammar's captions and common film words, UMT5's special ids."""

from __future__ import annotations

import argparse
import io
import json
import math
import random
from collections import Counter
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from .captions import caption
from .pool import TRAIN
from .scenes import draw

# Every printable ASCII character has a piece, so that no English prompt meets an unknown one.
ASCII = "".join(chr(c) for c in range(33, 127))
COMMON = """
low quality, blurry, distorted, static, overexposed, worst quality, watermark, text, logo
a wide shot, a close-up, cinematic, soft morning light, shallow depth of field, highly detailed, 4k, 16 frames
a person walks along the street, a dog runs on the beach, a boat drifts across a still lake, birds fly over mountains
the sun rises, rain falls, waves roll, smoke rises, leaves fall, a car drives, a train passes, people dance
""".strip().splitlines()


def make_tokenizer(folder: Path, seed: int, pieces: int = 640) -> int:
    """Writes the tokenizer's files; returns the number of ids."""
    rng = random.Random(seed)
    lines = [caption(draw(TRAIN - 1 - i, ("x",)), rng) for i in range(6000)]
    lines += COMMON * 40 + [" ".join(ASCII)] * 60
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=buffer,
        model_type="unigram",
        vocab_size=pieces,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
        normalization_rule_name="nmt_nfkc",
    )
    model = proto.ModelProto.FromString(buffer.getvalue())
    vocabulary = [(piece.piece, piece.score) for piece in model.pieces]
    # SentencePiece learns parts of words; the words of the grammar get pieces of their own.
    counts = Counter(word.strip(",.;:") for line in lines for word in line.split())
    known = {piece for piece, _ in vocabulary}
    total = sum(counts.values())
    for word, times in sorted(counts.items()):
        if times >= 20 and word.isascii() and len(word) > 1 and f"▁{word}" not in known:
            vocabulary.append((f"▁{word}", math.log(times / total)))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    config = special | {
        "tokenizer_class": "T5TokenizerFast",
        "bos_token": "<s>",
        "extra_ids": 0,
        "additional_special_tokens": [],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return len(vocabulary)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{make_tokenizer(arguments.out, arguments.seed)} pieces")


if __name__ == "__main__":
    main()
