"""The figures of DiffEx over seeds, with intervals by image, and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.measure.estimates import Figures, mean_of
from training.report.evaluation import cell, table

Floats = NDArray[np.float64]
KINDS: Mapping[str, str] = {
    "attributes": "attributes that were chosen",
    "part": "parts of the evidence, all",
    "learnt": "directions learnt by contrast, all",
    "mean difference": "difference of the two decisions' means",
    "logistic regression": "weight of a logistic regression",
    "axis": "principal axes",
    "random": "random directions",
}


_Row = tuple[Mapping[str, Any], Sequence[str]]
"""What was found of one direction, and whose images they were."""


def figures(judged: Sequence[Mapping[str, Any]]) -> Figures:
    """All figures of several seeds of one run, from what `judge.judge` returned of each."""
    found: Figures = {
        "seeds": len(judged),
        "use": {name: [one["use"][name] for one in judged] for name in judged[0]["use"]},
        "questions": {name: _question([one["questions"][name] for one in judged]) for name in judged[0]["questions"]},
    }
    if "factors" in judged[0]:
        found["factors"] = judged[0]["factors"]
        found["meter"] = {
            factor["name"]: [one["meter"][number] for one in judged] for number, factor in enumerate(found["factors"])
        }
        for name, part in found["questions"].items():
            part["covered"] = [_covered(one, one["questions"][name]["attributes"]) for one in judged]
    return found


def _question(rows: Sequence[Mapping[str, Any]]) -> Figures:
    kinds: dict[str, list[_Row]] = {name: [] for name in KINDS}
    for one in rows:
        kinds["attributes"] += [(row, one["patients"]) for row in one["attributes"]]
        for reference in one["references"]:
            kind = next(kind for kind in KINDS if reference["name"].startswith(kind))
            kinds[kind].append((reference, one["patients"]))
    patients = [one["patients"] for one in rows]
    found: Figures = {
        "kinds": {kind: _kind(among) for kind, among in kinds.items() if among},
        "order": {name: [one["order"][name] for one in rows] for name in rows[0]["order"]},
        "first": [one["attributes"][0].get("factor", "") if one["attributes"] else "" for one in rows],
        "whole_bank": [one["whole_bank"] for one in rows],
        "stability": stability([one["attributes"] for one in rows]),
        "truth": [one["truth"] for one in rows if "truth" in one],
    }
    for name in ("together", "random"):
        deepest = min(len(one["together"]) for one in rows)
        found[name] = [_mean([one[name][depth] for one in rows], patients) for depth in range(deepest)]
    deepest = min(len(one["together"]) for one in rows)
    if deepest:
        both = [np.subtract(one["together"][deepest - 1], one["random"][deepest - 1]) for one in rows]
        found["sufficient"] = _mean([row.tolist() for row in both], patients)
    return found


def _mean(columns: Sequence[Sequence[float]], patients: Sequence[Sequence[str]]) -> Figures | None:
    """Over images of several seeds; a patient's images of all seeds are drawn together."""
    return mean_of(np.concatenate([np.asarray(c, np.float64) for c in columns]), np.concatenate(patients))


def _kind(rows: Sequence[_Row]) -> Figures:
    patients = [whose for _, whose in rows]
    found: Figures = {
        name: _mean([row[name] for row, _ in rows], patients)
        for name in ("probability", "crossed", "monotone", "oracle")
        if name in rows[0][0]
    }
    if "selectivity" in rows[0][0]:
        found["selectivity"] = float(np.median([row["selectivity"] for row, _ in rows]))
    return found


def _covered(one: Mapping[str, Any], attributes: Sequence[Mapping[str, Any]]) -> Figures:
    """Which of the factors that define the class lead an attribute, and which nuisances do."""
    defining = [factor["name"] for factor in one["factors"] if factor["defining"]]
    led = [row["factor"] for row in attributes]
    return {
        "defining": len(set(defining) & set(led)),
        "of": len(defining),
        "nuisances": [name for name in led if name not in defining],
        "led": led,
    }


def stability(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    """How alike the attributes of different seeds are, None for one seed.

    For each, the nearest one of every other seed, by the cosine of their mean changes of the images; averaged.
    """
    pictures = [[np.asarray(row["picture"]).ravel() for row in rows] for rows in seeds]
    found = []
    for one, mine in enumerate(pictures):
        for other, theirs in enumerate(pictures):
            if one != other and mine and theirs:
                found += [max(_cosine(a, b) for b in theirs) for a in mine]
    return float(np.mean(found)) if found else None


def _cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}" for value in values)


def markdown(found: Figures) -> str:
    """The figures as tables."""
    use = found["use"]
    said = (
        f"{found['seeds']} seed(s). Use of the code: {_numbers(use['use'])} (at least .2); the classifier says of a "
        f"decoded image what it says of the image: {_numbers(use['agreement'])} (at least .95), from one noise for all "
        f"{_numbers(use['agreement_fixed'])}, from its own {_numbers(use['agreement_inverted'])}; PSNR "
        f"{_numbers(use['psnr'])} dB."
    )
    lines = [said, "", *(f"Refused, {name}: {why}." for name, why in found.get("refused", {}).items()), ""]
    for name, part in found["questions"].items():
        rows = [
            [
                KINDS[kind], cell(row["probability"], signed=True), cell(row["crossed"]), cell(row["monotone"]),
                cell(row.get("oracle"), signed=True), f"{row['selectivity']:.1f}" if "selectivity" in row else "-",
            ]
            for kind, row in part["kinds"].items()
        ]  # fmt: skip
        heads = ["towards it", "probability", "turned alone", "monotone", "oracle", "selectivity"]
        lines += [*table(f"Towards '{name}', on test images of the other decision", heads, rows), ""]
        order = part["order"]
        lines.append(
            "Order foreseen and found, Kendall's tau of all directions at their better signs: "
            f"{_numbers(order['tau'])} (by logit {_numbers(order['tau_evidence'])}; from own and from one noise "
            f"{_numbers(order['tau_noise'])})."
        )
        if part["together"]:
            steps = "; ".join(
                f"{n + 1}: {cell(own)} against {cell(by_chance)}"
                for n, (own, by_chance) in enumerate(zip(part["together"], part["random"], strict=True))
            )
            lines.append(f"Turned by the first attributes together against random directions of their length: {steps}.")
            lines.append(f"More than at random, all together: {cell(part['sufficient'], signed=True)}.")
        if part["stability"] is not None:
            lines.append(f"Likeness of the attributes of different seeds: {_numbers([part['stability']])}.")
        for number, covered in enumerate(part.get("covered", [])):
            lines.append(
                f"Seed {number}: the attributes lead {', '.join(covered['led'])}; {covered['defining']} of "
                f"{covered['of']} factors that define the class, {len(covered['nuisances'])} nuisances."
            )
        for number, truth in enumerate(part["truth"]):
            told = "; ".join(
                f"{factor} to {row['to']:+.0f}: {row['probability']:+.3f}, {row['crossed']:.2f} turned"
                for factor, row in truth.items()
            )
            lines.append(f"Seed {number}, the truth: images drawn anew with one factor at its end: {told}.")
        lines.append("")
    if "meter" in found:
        told = "; ".join(f"{name} {_numbers(values)}" for name, values in found["meter"].items())
        lines.append(f"Variance of each factor that its meter reads off test images: {told}.")
    return "\n".join(lines) + "\n"
