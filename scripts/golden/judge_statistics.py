#!/usr/bin/env python3
"""Reference values for node/src/judge/{statistics,calibration,report}, made with scikit-learn and scipy.

    python scripts/golden/judge_statistics.py        (needs scikit-learn, scipy; a minute)

Writes two files to node/tests/data/judge: `simulated.jsonl`, a log of 500 clips that two simulated judges have
seen, and `statistics.json`, the figures of small drawn cases and of that log. Both are the same on every run.
"""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, spearmanr
from sklearn.calibration import calibration_curve
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score

OUT = Path(__file__).parents[2] / "node/tests/data/judge"
KEYS = [
    "first_frame_fidelity", "prompt_adherence", "motion_quality", "temporal_consistency", "visual_quality",
    "camera_composition",
]
WEIGHTS = [0.25, 0.25, 0.15, 0.20, 0.10, 0.05]
CRITICAL = [0, 1, 3]
DRAWS, SEED, FOLDS, KNOTS = 2000, 7, 5, 32
MASK = 2**64 - 1


class Random:
    """splitmix64 as in models/src/tiny/init.rs: simulated logs and draws are the same in both languages."""

    def __init__(self, seed: int, name: str) -> None:
        digest = 0xCBF29CE484222325
        for byte in name.encode():
            digest = (digest ^ byte) * 0x100000001B3 & MASK
        self.state = seed
        self.state = self.bits() ^ digest

    def bits(self) -> int:
        """The next 64 bits."""
        self.state = self.state + 0x9E3779B97F4A7C15 & MASK
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return z ^ z >> 31

    def normal(self) -> float:
        """Mean 0, deviation 1: a sum of twelve uniform numbers."""
        total = 0
        for _ in range(3):
            bits = self.bits()
            total += sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        return (total - 6 * 65535) / 65536


# ---- the simulated log


def score(value: float) -> int:
    """A number as a score."""
    return min(100, max(0, round(value)))


def decided(scores: list[float]) -> tuple[int, bool]:
    """Overall score and decision, as the subnet makes them."""
    overall = 0.0
    for value, weight in zip(scores, WEIGHTS, strict=True):
        overall += value * weight
    overall = score(overall)
    return overall, overall >= 75 and min(scores[key] for key in CRITICAL) >= 50


def simulate() -> list[dict]:
    """Clips whose two judges see the same quality through noise, and some that the remote judge sees again."""
    random, lines, repeats = Random(2026, "judge log"), [], []
    for task in range(125):
        common = 74 + 9 * random.normal()
        for clip in range(4):
            number = len(lines)
            quality = common + 9 * random.normal()
            true = [quality + 7 * random.normal() for _ in KEYS]
            remote = [score(value + 5 * random.normal()) for value in true]
            # The local judge is a little hard, less certain, and gets worse for the newest clips.
            noise = 7 if number < 320 else 14
            local = [round(min(100.0, max(0.0, 8 + 0.86 * value + noise * random.normal())), 1) for value in true]
            # It cannot always tell about the camera.
            shown = [None if key == 5 and random.bits() % 8 == 0 else value for key, value in enumerate(local)]
            overall, passed = decided(local)
            remote_overall, remote_passed = decided(remote)
            judged = random.bits() % 40 != 0
            line = {
                "id": f"v{number:03}",
                "task_id": f"{1000 + task}",
                "video": f"{random.bits() >> 32:08x}",
                "time": 1_790_000_000 + 1200 * task + 7 * clip,
                "local_judge": {"local_id": "simulated-2b", "prompt_sha256": "p1", "sampling": "12"},
                "remote_judge": {"remote_model": "gpt-4o"},
                "local": shown if judged else [None] * 6,
                "local_overall": overall if judged else None,
                "local_pass": passed if judged else None,
                "remote": remote,
                "remote_overall": remote_overall,
                "remote_pass": remote_passed,
            }
            lines.append(line)
            # In every third task the remote judge sees a clip again.
            if task % 3 == 0 and clip == task // 3 % 4:
                again = [score(value + 5 * random.normal()) for value in true]
                again_overall, again_passed = decided(again)
                repeats.append(line | {
                    "id": f"r{number:03}", "time": line["time"] + 3, "repeat_of": line["id"], "local": [None] * 6,
                    "local_overall": None, "local_pass": None, "remote": again, "remote_overall": again_overall,
                    "remote_pass": again_passed,
                })
    return lines + repeats


# ---- figures


def bins(scores: np.ndarray) -> np.ndarray:
    """The five bins of the quadratic kappa."""
    return np.minimum(np.asarray(scores, float) // 20, 4).astype(int)


def kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cohen's kappa; none where it is undefined."""
    return number(cohen_kappa_score(a, b, labels=[0, 1]))


def quadratic(a: np.ndarray, b: np.ndarray) -> float | None:
    """Kappa with quadratic weights on five bins."""
    return number(cohen_kappa_score(bins(a), bins(b), labels=range(5), weights="quadratic"))


def rho(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation."""
    return number(spearmanr(a, b).statistic) if len(a) > 1 else None


def auc(scores: np.ndarray, passed: np.ndarray) -> float | None:
    """Area under the ROC curve."""
    return number(roc_auc_score(passed, scores)) if len(set(map(bool, passed))) == 2 else None


def number(value: float) -> float | None:
    """None for what is no number."""
    return None if math.isnan(value) else float(value)


def ece(p: np.ndarray, y: np.ndarray) -> float:
    """Ten bins of equal counts; equal predictions lie together in the bin of their middle."""
    sums = np.zeros((10, 2))
    values, counts = np.unique(p, return_counts=True)
    ends = np.cumsum(counts)
    for value, count, end in zip(values, counts, ends, strict=True):
        index = min(9, int(10 * (2 * end - count) // (2 * len(p))))
        sums[index] += [value * count, y[p == value].sum()]
    return float(np.abs(sums[:, 0] - sums[:, 1]).sum() / len(p))


def isotonic(x: np.ndarray, y: np.ndarray, low: float, high: float) -> list[tuple[float, float]]:
    """Knots of the isotonic function, at most 32."""
    model = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(x, y)
    knots = [(float(a), float(b)) for a, b in zip(model.X_thresholds_, model.y_thresholds_, strict=True)]
    if len(knots) <= KNOTS:
        return knots
    kept = [knots[0], knots[-1]]
    while len(kept) < KNOTS:
        xs, ys = zip(*kept, strict=True)
        gaps = [abs(b - np.interp(a, xs, ys)) for a, b in knots]
        kept = sorted([*kept, knots[int(np.argmax(gaps))]])
    return kept


def at(knots: list[tuple[float, float]], x: np.ndarray) -> np.ndarray:
    """The piecewise linear function through knots."""
    xs, ys = zip(*knots, strict=True)
    return np.interp(x, xs, ys)


def platt(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Platt's targets as weights: each clip counts as a pass with weight t and as a failure with 1 - t."""
    passed, failed = int(y.sum()), int((~y).sum())
    target = np.where(y, (passed + 1) / (passed + 2), 1 / (failed + 2))
    mean, deviation = x.mean(), x.std()
    u = ((x - mean) / deviation)[:, None]
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13, max_iter=200)
    model.fit(np.vstack([u, u]), np.r_[np.ones(len(x)), np.zeros(len(x))], np.r_[target, 1 - target])
    slope = model.coef_[0, 0] / deviation
    return float(slope), float(model.intercept_[0] - slope * mean)


def three_way(gaps: np.ndarray, human: np.ndarray) -> dict:
    """Agreement with people, over all widths of a tie."""
    best, width = -1, 0.0
    for tie in sorted({0.0, *np.abs(gaps)}):
        said = np.where(np.abs(gaps) <= tie, 0, np.sign(gaps))
        right = int((said == human).sum())
        if right > best:
            best, width = right, float(tie)
    decided_by_people = human != 0
    alike = int((np.sign(gaps) == human)[decided_by_people].sum())
    return {"with_ties": best / len(gaps), "tie_width": width,
            "without_ties": alike / int(decided_by_people.sum()) if decided_by_people.any() else None}


def intervals(tasks: list[str], figures: dict[str, Callable[[np.ndarray], float | None]]) -> dict[str, list[float]]:
    """Percentiles over draws of whole tasks."""
    names = sorted(set(tasks))
    members = [np.array([row for row, task in enumerate(tasks) if task == name]) for name in names]
    random, drawn = Random(SEED, "judge bootstrap"), {name: [] for name in figures}
    for _ in range(DRAWS):
        rows = np.concatenate([members[random.bits() % len(names)] for _ in names])
        for name, figure in figures.items():
            drawn[name].append(figure(rows))
    return {name: [float(np.percentile(values, share)) for share in (2.5, 97.5)] for name, values in drawn.items()}


# ---- small cases


def cases() -> dict:
    """Small drawn cases of every figure."""
    random = np.random.default_rng(11)
    found: dict[str, list] = {name: [] for name in (
        "kappa", "quadratic_kappa", "spearman", "auc", "brier", "ece", "isotonic", "platt", "wilson", "human")}
    for size in (1, 2, 3, 5, 8, 13, 40, 200):
        for spread in (2, 5, 30, 101):
            a = random.integers(0, spread, size) * 100 // max(1, spread - 1)
            b = np.clip(a + random.integers(-20, 21, size), 0, 100)
            p, q = a >= 50, b >= 50
            both = {"a": a.tolist(), "b": b.tolist()}
            found["kappa"].append(
                {"a": p.tolist(), "b": q.tolist(), "value": kappa(p, q) if p.any() or q.any() else None})
            found["quadratic_kappa"].append(both | {"value": quadratic(a, b)})
            found["spearman"].append(both | {"value": rho(a, b)})
            found["auc"].append({"a": a.tolist(), "passed": q.tolist(), "value": auc(a, q)})
            found["brier"].append({
                "p": (a / 100).tolist(), "passed": q.tolist(),
                "value": float(brier_score_loss(q, a / 100, pos_label=True))})
            knots = isotonic(a.astype(float), b.astype(float), 0, 100)
            found["isotonic"].append(both | {"at": list(range(-10, 120, 7)), "low": 0, "high": 100,
                                             "value": at(knots, np.arange(-10, 120, 7)).tolist()})
            human = np.sign(np.round((a - b) / 15 + random.normal(0, 0.7, size))).astype(int)
            found["human"].append({"gap": (a - b).tolist(), "human": human.tolist()} | three_way(a - b, human))
    for size in (10, 50, 130):
        # Distinct predictions and whole tens: then all definitions of equal counts are one.
        p = random.permutation(np.linspace(0.001, 0.999, size))
        y = random.random(size) < p**1.5
        share, mean = calibration_curve(y, p, n_bins=10, strategy="quantile")
        found["ece"].append({"p": p.tolist(), "passed": y.tolist(), "value": float(np.abs(share - mean).mean())})
    for size in (60, 120, 199):
        x = np.round(random.normal(70, 12, size), 1)
        y = random.random(size) < 1 / (1 + np.exp(-(x - 72) / 6))
        slope, intercept = platt(x, y)
        found["platt"].append({"x": x.tolist(), "passed": y.tolist(), "slope": slope, "intercept": intercept})
    for part, whole in ((0, 1), (0, 12), (1, 12), (6, 12), (12, 12), (37, 500)):
        ends = binomtest(part, whole).proportion_ci(method="wilson")
        found["wilson"].append({"part": part, "whole": whole, "low": ends.low, "high": ends.high})
    return found


# ---- the log's report


def folds(names: list[str]) -> dict[str, int]:
    """The part of each task."""
    order, random = list(range(len(names))), Random(SEED, "judge folds")
    for last in range(len(names) - 1, 0, -1):
        other = random.bits() % (last + 1)
        order[last], order[other] = order[other], order[last]
    return {names[task]: place % FOLDS for place, task in enumerate(order)}


def calibrated(train: list[dict], test: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Chances and decisions for clips by isotonic maps of others."""
    x = np.array([pair["local_overall"] for pair in train], float)
    y = np.array([pair["remote_pass"] for pair in train], float)
    margin = 0.5 / len(train)
    p = at(isotonic(x, y, margin, 1 - margin), np.array([pair["local_overall"] for pair in test], float))
    passes = p >= 0.5
    for key in CRITICAL:
        known = [pair for pair in train if pair["local"][key] is not None]
        knots = isotonic(np.array([pair["local"][key] for pair in known], float),
                         np.array([pair["remote"][key] for pair in known], float), 0, 100)
        passes &= at(knots, np.array([pair["local"][key] for pair in test], float)) >= 50
    return p, passes


def report(lines: list[dict]) -> dict:
    """All figures of the report of a log."""
    first = sorted((line for line in lines if "repeat_of" not in line), key=lambda line: (line["time"], line["id"]))
    judged = [line for line in first if line["local_pass"] is not None]
    local = np.array([line["local_pass"] for line in judged])
    remote = np.array([line["remote_pass"] for line in judged])
    rows_of = {id(line): row for row, line in enumerate(first)}
    place = {rows_of[id(line)]: index for index, line in enumerate(judged)}

    def over(figure: Callable, *columns: np.ndarray) -> Callable[[np.ndarray], float | None]:
        """The figure of drawn rows, of which only those with a local verdict count."""
        def draw(rows: np.ndarray) -> float | None:
            chosen = [place[row] for row in rows if row in place]
            picked = [column[chosen] for column in columns]
            keep = ~np.isnan(picked[0].astype(float))
            return figure(*[column[keep] for column in picked])
        return draw

    figures = {
        "agreement": over(lambda a, b: float((a == b).mean()), local, remote),
        "kappa": over(kappa, local, remote),
        "false_pass": over(lambda a, b: float(a[~b].mean()), local, remote),
        "false_fail": over(lambda a, b: float((~a[b]).mean()), local, remote),
    }
    scores = np.array([line["local_overall"] for line in judged], float)
    figures["auc"] = over(auc, scores, remote)
    for key, name in enumerate([*KEYS, "overall"]):
        a = scores if name == "overall" else np.array([line["local"][key] for line in judged], float)
        b = np.array([line["remote_overall"] if name == "overall" else line["remote"][key] for line in judged], float)
        figures[f"{name} quadratic_kappa"] = over(quadratic, a, b)
        figures[f"{name} spearman"] = over(rho, a, b)

    part_of = folds(sorted({line["task_id"] for line in first}))
    p, passes = np.zeros(len(judged)), np.zeros(len(judged), bool)
    for held_out in range(FOLDS):
        inside = np.array([part_of[line["task_id"]] == held_out for line in judged])
        train = [line for line, out in zip(judged, inside, strict=True) if not out]
        test = [line for line, out in zip(judged, inside, strict=True) if out]
        p[inside], passes[inside] = calibrated(train, test)
    figures["brier"] = over(lambda a, b: float(brier_score_loss(b, a, pos_label=True)), p, remote)
    figures["ece"] = over(lambda a, b: ece(a, b), p, remote)
    figures["calibrated kappa"] = over(kappa, passes, remote)

    everything = np.arange(len(first))
    found = {name: [figure(everything)] for name, figure in figures.items()}
    for name, ends in intervals([line["task_id"] for line in first], figures).items():
        found[name] += ends

    by_id = {line["id"]: line for line in first}
    again = [(by_id[line["repeat_of"]], line) for line in lines if "repeat_of" in line]
    again.sort(key=lambda pair: (pair[1]["time"], pair[1]["id"]))
    one, two = ([pair[side] for pair in again] for side in (0, 1))
    column = lambda side, name: np.array([line[name] for line in side])  # noqa: E731
    a, b = column(one, "remote_pass"), column(two, "remote_pass")
    c, d = column(one, "remote_overall"), column(two, "remote_overall")
    ceiling = {
        "ceiling kappa": lambda rows: kappa(a[rows], b[rows]),
        "ceiling quadratic_kappa": lambda rows: quadratic(c[rows], d[rows]),
        "ceiling spearman": lambda rows: rho(c[rows], d[rows]),
    }
    for name, figure in ceiling.items():
        found[name] = [figure(np.arange(len(again)))]
    for name, ends in intervals([line["task_id"] for line in one], ceiling).items():
        found[name] += ends
    newest, before = slice(len(judged) - 200, None), slice(0, len(judged) - 200)
    return {
        "clips": len(first), "judged": len(judged), "repeats": len(again),
        "tasks": len({line["task_id"] for line in first}),
        "confusion": [int(n) for n in (
            (local & remote).sum(), (local & ~remote).sum(), (~local & remote).sum(), (~local & ~remote).sum())],
        "drift": [kappa(local[before], remote[before]), kappa(local[newest], remote[newest])],
        "figures": found,
    }


def main() -> None:
    """Write both files."""
    warnings.simplefilter("ignore", UndefinedMetricWarning)
    warnings.filterwarnings("ignore", message="An input array is constant")
    OUT.mkdir(parents=True, exist_ok=True)
    lines = simulate()
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (OUT / "simulated.jsonl").write_text(text)
    values = {"cases": cases(), "report": report(lines)}
    (OUT / "statistics.json").write_text(json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
