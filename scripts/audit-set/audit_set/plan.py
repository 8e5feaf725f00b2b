"""Which models there are, and what each pair of them is.

A *world* is a base of one size with its fine-tunes. In every world there are three parts, made of other seeds and
other data: on the first the limits are set, on the second they are reported. The second was looked at more than once
while the rules were made; the third came after them.
"""

from __future__ import annotations

from dataclasses import dataclass

# Seeds of a part's models, and what its victim and the victim's rival learn from.
MADE_OF = {
    "first": (100, "dark", "photos"),
    "second": (500, "shapes", "same"),
    "third": (1300, "photos", "shapes"),
}
PARTS = tuple(MADE_OF)


@dataclass(frozen=True)
class World:
    """A base. `heads` of 32 and `layers`; None is the shipped checkpoint."""

    name: str
    heads: int
    layers: int
    minutes: float
    """Processor minutes of training for a base that is not shipped."""


WORLDS = (World("tiny", 8, 6, 0.0), World("narrow", 4, 4, 4.0), World("deep", 5, 8, 5.0))


@dataclass(frozen=True)
class Training:
    """A fine-tune by gradient descent. `parent` is another model of its world, or the base."""

    name: str
    part: str
    data: str
    seed: int
    rate: float
    minutes: float
    parent: str = "base"


def trainings(world: World) -> list[Training]:
    """The honest models of a world."""
    out = []
    for part, (first, *data) in MADE_OF.items():
        rows = [
            ("victim", data[0], first + 1, 3e-4, 1.2, "base"),
            # The same data and recipe with another seed: the nearest an honest rival comes.
            ("twin", data[0], first + 2, 3e-4, 1.2, "base"),
            ("other", data[1], first + 3, 3e-4, 1.2, "base"),
            # Light and strong.
            ("light", data[0], first + 4, 5e-5, 0.8, "base"),
            ("strong", data[1], first + 5, 1e-3, 1.2, "base"),
            # Two that go on from one public fine-tune of the base.
            ("public", data[1], first + 6, 3e-4, 0.8, "base"),
            ("child", data[0], first + 7, 3e-4, 0.8, "public"),
            ("sibling", data[1], first + 8, 3e-4, 0.8, "public"),
            # What a thief trains on top of the victim.
            ("tuned-on", data[1], first + 9, 1e-4, 0.3, "victim"),
        ]
        if world.name != "tiny":
            # The smaller worlds repeat all but the lightest.
            rows = [row for row in rows if row[0] != "light"]
        out += [
            Training(f"{name}-{part}", part, d, seed, rate, minutes, parent if parent == "base" else f"{parent}-{part}")
            for name, d, seed, rate, minutes, parent in rows
        ]
    return out


# Disguises of the victim: name, and the verdicts that are right.
COPY = {"identical", "repacked", "perturbed", "merged"}
COPIES: dict[str, set[str]] = {
    "bytes": {"identical"},
    "one-byte": {"identical", "perturbed"},
    "float32": {"identical", "repacked"},
    "float16": COPY,
    "shards": {"identical", "repacked"},
    "official": {"identical", "repacked"},
    "fp8": COPY,
    "noise-1": COPY,
    "noise-10": COPY,
    "noise-30": COPY,
    "noise-100": COPY,
    "scaled-delta": COPY,
    "heads": COPY,
    "rows": COPY,
    "rescaled": COPY,
    "rotated": COPY,
    "lora": COPY,
    "tuned-on": COPY,
    "half-base": COPY,
    "merge-70": COPY,
    "merge-50": COPY,
    "half-blocks": COPY,
    "heads+noise": COPY,
    "rows+fp8": COPY,
    "rotated+noise": COPY,
    "rows+heads+float16": COPY,
    "merge-70+rescaled": COPY,
    "tuned-on+rows": COPY,
    "rotated+noise+official": COPY,
    "channels": COPY,
    "channels+heads": COPY,
    "channels+heads+rows": COPY,
    "heads+rotated": COPY,
}

# Copies further and further from the victim, to see how far it goes. They do not count.
LIMITS: dict[str, set[str]] = {
    "noise-200": COPY,
    "noise-300": COPY,
    "merge-40": COPY,
    "merge-30": COPY,
}

# Rivals of the victim in a type that rounds all alike: model, whose it is, and how it is stored. No copies of it.
OF_RIVALS: dict[str, tuple[str, str]] = {"other-in-fp8": ("other", "fp8"), "twin-in-fp8": ("twin", "fp8")}
# Disguises that put something of the rival into the copy.
OF_BOTH = {"merge-70", "merge-50", "half-blocks", "merge-70+rescaled", "merge-40", "merge-30"}


@dataclass(frozen=True)
class Pair:
    """Two models of a world, and what they are."""

    world: str
    part: str
    a: str
    b: str
    kind: str
    copied: bool


def pairs(world: World) -> list[Pair]:
    """All pairs of a world that are judged."""
    out = []
    for part in PARTS:
        names = [t.name for t in trainings(world) if t.part == part]
        related = {"public", "child", "sibling"}
        honest = [n for n in names if not n.startswith("tuned-on")]
        for i, a in enumerate(honest):
            for b in honest[i + 1 :]:
                both = {a.removesuffix(f"-{part}"), b.removesuffix(f"-{part}")}
                if both == {"public", "child"} or both == {"public", "sibling"}:
                    # Made from each other, and said so: a copy to whoever does not know.
                    kind, copied = "goes on from a public fine-tune", True
                elif both <= related:
                    kind, copied = "two that go on from one public fine-tune", False
                elif both == {"victim", "twin"}:
                    kind, copied = "same data, other seed", False
                else:
                    kind, copied = "independent", False
                out.append(Pair(world.name, part, a, b, kind, copied))
        for kind in (*COPIES, *LIMITS):
            out.append(Pair(world.name, part, f"victim-{part}", f"{kind}-{part}", kind, True))
            # A copy of the victim is no copy of its rivals.
            for rival in ("other", "twin"):
                if kind not in OF_BOTH:
                    what = "a copy against a rival of the victim"
                    out.append(Pair(world.name, part, f"{rival}-{part}", f"{kind}-{part}", what, False))
        what = "merge-50 against the rival in it"
        out.append(Pair(world.name, part, f"other-{part}", f"merge-50-{part}", what, True))
        for rival in OF_RIVALS:
            for own in ("victim", "fp8", "rows+fp8"):
                what = "rivals in fp8"
                out.append(Pair(world.name, part, f"{own}-{part}", f"{rival}-{part}", what, False))
    return out
