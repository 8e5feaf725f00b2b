"""Judges every pair with `leoma-node audit compare`, and writes the table of docs/audit.md."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .plan import COPIES, COPY, LIMITS, PARTS, WORLDS, Pair, pairs

FIGURES = (
    "cosine",
    "median_cosine",
    "coefficient",
    "reverse_coefficient",
    "coefficient_spread",
    "copied_share",
    "moved_a",
    "moved_b",
    "resolution",
    "displaced_share",
    "equal_share",
    "low_rank_change",
)


def judge(node: Path, work: Path, pair: Pair) -> dict[str, Any]:
    """The comparison of a pair, without its weights."""
    home = work / pair.world
    command = [node, "audit", "compare", home / pair.a, home / pair.b, "--base", home / "base", "--format", "json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"error: {pair.a} {pair.b}: {done.stderr}")
    report = json.loads(done.stdout)
    evidence = {name: report["evidence"].get(name) for name in FIGURES}
    return vars(pair) | {"verdict": report["verdict"], "statement": report["statement"], "evidence": evidence}


def is_right(row: dict[str, Any]) -> bool:
    """A copy is found, in the way it should be; anybody else is not accused."""
    if not row["copied"]:
        return row["verdict"] not in COPY
    return row["verdict"] in (COPIES | LIMITS).get(row["kind"], COPY)


def counts(row: dict[str, Any]) -> bool:
    """Whether a pair is one that has to be right."""
    return row["kind"] not in LIMITS


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each kind of pair, the parts beside each other; limits last."""
    kinds: dict[tuple[bool, bool, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kinds[not counts(row), not row["copied"], row["kind"]][row["part"]].append(row)
    heads = "".join(f" {part} part right |" for part in PARTS)
    lines = [f"| pairs |{heads} cosine | verdicts |", "|---|" + "---|" * (len(PARTS) + 2)]
    for (_, _, kind), parts in sorted(kinds.items(), key=lambda item: item[0][:2]):
        right = "".join(f" {sum(map(is_right, parts[part]))} of {len(parts[part])} |" for part in PARTS)
        every = [row for part in PARTS for row in parts[part]]
        cosines = [row["evidence"]["cosine"] for row in every if row["evidence"]["cosine"] is not None]
        spread = f"{min(cosines):.2f} to {max(cosines):.2f}" if cosines else "-"
        verdicts = ", ".join(sorted({row["verdict"] for row in every}))
        lines.append(f"| {kind} |{right} {spread} | {verdicts} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--node", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = [pair for world in WORLDS for pair in pairs(world)]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda pair: judge(arguments.node, arguments.work, pair), chosen))
    (arguments.work / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = table(rows)
    (arguments.work / "table.md").write_text(text + "\n")
    print(text)
    for part in PARTS:
        of_part = [row for row in rows if row["part"] == part and counts(row)]
        missed = [row for row in of_part if row["copied"] and not is_right(row)]
        accused = [row for row in of_part if not row["copied"] and not is_right(row)]
        copies = sum(row["copied"] for row in of_part)
        print(
            f"\n{part} part: {copies - len(missed)} of {copies} copies found, "
            f"{len(accused)} of {len(of_part) - copies} others accused"
        )
        for row in missed + accused:
            what = "missed" if row["copied"] else "accused"
            print(f"  {what}: {row['world']} {row['a']} {row['b']}: {row['verdict']}; {row['statement']}")


if __name__ == "__main__":
    main()
