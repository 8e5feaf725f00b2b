"""A small Unigram tokenizer with the special ids of the published UMT5 one.

SentencePiece trains it on a fixed multilingual corpus in one thread, so that the same seed always gives
the same files: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `spiece.model`.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

CORPUS = """
a red panda rides a bicycle along the river while the morning sun rises over the mountains
the camera slowly pans across a quiet harbour, boats rocking on calm water, birds circling above
an old lighthouse in a storm, waves crashing against the rocks, dramatic sky, cinematic lighting
two children build a sandcastle on the beach; the tide comes in and washes it away
close-up of a blacksmith hammering glowing iron, sparks flying, shallow depth of field
low quality, blurry, distorted, static, overexposed, worst quality, jpeg artifacts, watermark
a train crosses a long bridge at dusk, its windows glowing; steam drifts behind it
wide shot of a field of sunflowers turning towards the light, 4k, highly detailed
der alte Mann geht langsam über die Brücke, schöne Gärten im Hintergrund
une jeune femme lit un livre près de la fenêtre, la pluie tombe doucement
un perro corre por la playa al atardecer, el mar está en calma, ¿quién lo espera?
色调艳丽,过曝,静态,细节模糊不清,字幕,风格,作品,画作,画面,静止,整体发灰
最差质量,低质量,JPEG压缩残留,丑陋的,残缺的,多余的手指,画得不好的手部,画得不好的脸部
畸形的,毁容的,形态畸形的肢体,手指融合,静止不动的画面,杂乱的背景,三条腿,背景人很多,倒着走
0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz !"#$%&'()*+,-./:;<=>?@[]^_{|}~
""".strip()


def _rules(path: Path) -> Path:
    """Writes a small normalisation table: enough to show whether the character map is applied."""
    pairs = {"É": "e", "Ü": "U", "®": "(R)", "™": "TM", "Œ": "OE", "½": "1/2", "\u2026": "..."}
    rows = (f"{' '.join(f'{ord(c):X}' for c in k)}\t{' '.join(f'{ord(c):X}' for c in v)}" for k, v in pairs.items())
    path.write_text("\n".join(rows) + "\n")
    return path


def make_tokenizer(folder: Path, seed: int, vocab_size: int, full_charsmap: bool) -> int:
    """Trains the tokenizer and writes its files to `folder`; returns the number of ids.

    `full_charsmap` uses SentencePiece's whole NFKC table (300 kB) instead of a handful of rules.
    """
    lines = CORPUS.splitlines()
    random.Random(seed).shuffle(lines)
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as scratch:
        rule = (
            {"normalization_rule_name": "nmt_nfkc"}
            if full_charsmap
            else {"normalization_rule_tsv": str(_rules(Path(scratch) / "rules.tsv"))}
        )
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines * 4),
            model_writer=buffer,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1.0,
            hard_vocab_limit=False,
            num_threads=1,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            minloglevel=2,
            **rule,
        )
    model = proto.ModelProto.FromString(buffer.getvalue())
    model.normalizer_spec.normalization_rule_tsv = ""  # a scratch path, new on every run
    pieces = [(piece.piece, piece.score) for piece in model.pieces]

    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
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
    (folder / "spiece.model").write_bytes(model.SerializeToString(deterministic=True))
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
    return len(pieces)
