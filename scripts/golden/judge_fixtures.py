"""The judge's fixture: a tiny random Qwen3-VL and what transformers 5.14.1 makes of two conversations.

    python judge_fixtures.py                                  # models/tests/fixtures/judge, as committed
    python judge_fixtures.py --seed 123 --out /tmp/judge      # another model, other sizes, other pictures

`cargo test -p leoma-models --test judge` compares with the committed one, or with the folder that
LEOMA_JUDGE_FIXTURE names.
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
from safetensors.torch import save_file

from judge_model import Sizes, make_model
from judge_reference import Case, run

SEED = 20251122
COMMITTED = Sizes(
    hidden=40,
    heads=4,
    kv_heads=2,
    head_dim=24,
    intermediate=56,
    layers=3,
    section=(6, 4, 2),
    vision_hidden=24,
    vision_heads=2,
    vision_intermediate=40,
    depth=3,
    deepstack=(0, 2),
    patch=8,
    side=5,
    tied=True,
    theta=5e6,
    weights=torch.bfloat16,
    max_shard_size="60KB",
)
TEXTS = (
    "text:Image: ",
    "text:\nVideo: ",
    "text:\nTask: a red panda rides a bicycle, 4k. It's 12 seconds long!\nScore: ",
    "text:静止的画面 🙂 naïve café\n\n  two  spaces",
)


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth random picture with a little noise."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-6, 7, (height, width, 3))
    return (np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8)


def cases(seed: int, factor: int) -> dict[str, Case]:
    """An image with a video and text round them; several images; text alone."""
    rng = np.random.default_rng(seed)
    draw = random.Random(seed)

    def side(low: float, high: float) -> int:
        return draw.randint(int(low * factor), int(high * factor))

    height, width = side(1.7, 3.4), side(1.7, 3.4)
    count = draw.randint(3, 6)
    indices = sorted(draw.sample(range(81), count))
    first = [picture(rng, height, width)]
    clip = np.stack([picture(rng, height, width) for _ in range(count)])
    images = [picture(rng, side(1.2, 5), side(1.2, 5)) for _ in range(2)]
    # Both sides are multiples of the factor: nothing is resampled, so patches must agree to the last bit.
    exact = [picture(rng, 2 * factor, 3 * factor)]
    return {
        "clip": Case([TEXTS[0], "image", TEXTS[1], "video", TEXTS[2]], first, clip, indices, draw.choice((16.0, 24.0))),
        "images": Case(["image", TEXTS[3], "image"], images),
        "exact": Case(["image", "text:?"], exact),
        "text": Case([TEXTS[2] + TEXTS[3].removeprefix("text:")]),
    }


def save(folder: Path, name: str, case: Case) -> None:
    """One case: its pictures, the reference's tensors, and in the metadata what the test needs to repeat it."""
    tensors = run(folder / "model", case)
    for index, image in enumerate(case.images):
        tensors[f"image.{index}"] = torch.from_numpy(image)
    if case.video is not None:
        tensors["video"] = torch.from_numpy(case.video)
    settings = {"parts": case.parts, "indices": case.indices, "fps": case.fps}
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(settings, ensure_ascii=False, indent=1) + "\n")


def make(seed: int, folder: Path, sizes: Sizes | None) -> None:
    """Model and cases."""
    shutil.rmtree(folder, ignore_errors=True)
    sizes = make_model(seed, folder / "model", sizes)
    for name, case in cases(seed, 2 * sizes.patch).items():
        save(folder, name, case)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    print(f"{sizes}\n{sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e6:.2f} MB in {folder}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="a new model, all of whose sizes are drawn; needs --out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.seed is None:
        root = Path(__file__).parents[2]
        make(SEED, arguments.out or root / "models" / "tests" / "fixtures" / "judge", COMMITTED)
    elif arguments.out is None:
        parser.error("--seed needs --out: the committed fixture has a seed of its own")
    else:
        make(arguments.seed, arguments.out, None)


if __name__ == "__main__":
    main()
