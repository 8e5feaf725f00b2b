r"""Holds a dump of the local judge against transformers 5.14.1 on the same model folder.

    leoma-node judge --video clip.mp4 --first-frame first.png --prompt "..." --mode local \
        --local-model DIR --dump dump.safetensors
    python judge_compare.py dump.safetensors DIR

or with a model and a clip made from a seed, `cargo run -p leoma-models --example judge_dump`.

From the patches, grids and tokens of the dump the reference computes positions, features and, for each of the
six questions, the scores of all words at its end. Prints the relative L2 distance of each and its share of the
limit; exits 1 when a limit is passed. The weights of the folder are computed with in float32: a dump made in
bf16 will not pass.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from compare import relative_l2
from judge_reference import load, visual_of

LIMIT = 2e-5
KEYS = (
    "first_frame_fidelity",
    "prompt_adherence",
    "motion_quality",
    "temporal_consistency",
    "visual_quality",
    "camera_composition",
)


def expected(folder: Path, dump: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the reference makes of the patches and tokens of a dump."""
    model, _ = load(folder)
    config = model.config
    ids = dump["input_ids"][None]
    kinds = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
    # The rubric shows one image, then one video.
    grid = {"image_grid_thw": dump["grid"][:1], "video_grid_thw": dump["grid"][1:]}
    positions, deltas = model.model.get_rope_index(ids, kinds, **grid)
    found = visual_of(model, dump["pixel_values"], dump["grid"])
    found["position_ids"] = positions[:, 0]

    first = int(dump["grid"][0].prod())
    pixels = {"pixel_values": dump["pixel_values"][:first], "pixel_values_videos": dump["pixel_values"][first:]}
    logits = []
    for key in KEYS:
        question = dump[f"questions.{key}"][None]
        whole = torch.cat((ids, question), 1)
        more = torch.arange(question.shape[1]) + ids.shape[1] + deltas[0]
        with torch.no_grad():
            output = model(
                input_ids=whole,
                position_ids=torch.cat((positions, more.expand(3, 1, -1)), 2),
                mm_token_type_ids=torch.cat((kinds, torch.zeros_like(question, dtype=kinds.dtype)), 1),
                logits_to_keep=1,
                **pixels,
                **grid,
            )
        logits.append(output.logits[0, -1])
    found["logits"] = torch.stack(logits)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump", type=Path)
    parser.add_argument("model", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dump = load_file(arguments.dump)
    wanted = expected(arguments.model, dump)
    same = torch.equal(dump["position_ids"], wanted["position_ids"])
    print(f"  {'ok  ' if same else 'FAIL'} position_ids  {'identical' if same else 'different'}")
    failed = not same
    for name in ("vision", "deepstack", "logits"):
        if dump[name].shape != wanted[name].shape:
            print(f"  FAIL {name:12} {list(dump[name].shape)}, wanted {list(wanted[name].shape)}")
            failed = True
            continue
        value = relative_l2(dump[name], wanted[name])
        bad = not value <= LIMIT
        failed |= bad
        print(f"  {'FAIL' if bad else 'ok  '} {name:12}  {value:9.2e}  {value / LIMIT:7.1%} of {LIMIT:.0e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
