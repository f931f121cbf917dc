"""The model-randomisation test (Adebayo et al. 2018, arXiv:1810.03292): what is left of a map of random weights.

A map that stays as it was, or that still finds lesions, does not come from what the classifier has learnt. Networks of
trained methods are trained anew against the random classifier.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from explain_core.quality import faithfulness
from training.benchmark.figures import Figures, few_images, few_maps, localisation_figures
from training.benchmark.keeping import or_absent, remembered
from training.benchmark.profiles import SEARCHING
from training.benchmark.rows import (
    CHANCE,
    SMOOTHED,
    Row,
    chance_row,
    control_rows,
    method_fingerprint,
    method_row,
    smoothed_row,
)
from training.benchmark.stages import Bench
from training.checkpoints import fingerprint


def measure(bench: Bench, names: Sequence[str], absent: dict[str, str], advance: Callable[[], object]) -> Figures:
    """This test alone: where the smoothed map of each row points, learnt and random, and how alike the two are.

    Returns:
        "part", and "localisation" and "faithfulness" as a whole benchmark has them; no row is compared with all others.
    """
    wanted = [name for name in names if _is_tested(bench, name)]
    absent |= {name: "trained, and not among the profile's randomised rows" for name in names if name not in wanted}
    rows: dict[str, Row] = {}
    for name in wanted:
        if len(bench.boxed):
            bench.say(f"explained with {name}")
            with or_absent(bench, name, absent):
                rows[name + SMOOTHED] = smoothed_row(bench, method_row(bench, name))
        advance()
    result: Figures = {"part": "randomisation", "localisation": None, "faithfulness": {}}
    if rows:
        first = next(iter(rows))
        rows |= chance_rows(bench, wanted, absent) | control_rows(bench, rows[first])
        result["localisation"] = localisation_figures(bench, rows, first) | {"best": None, "ahead": {}}
    for name in wanted:
        bench.say(f"randomisation of {name}")
        with or_absent(bench, f"randomisation of {name}", absent):
            result["faithfulness"][name] = similarity(bench, name)
        advance()
    return result


def chance_rows(bench: Bench, names: Sequence[str], absent: dict[str, str]) -> dict[str, Row]:
    """Smoothed maps of a classifier with random weights, of methods that do not search anew for each image."""
    chance, rows = bench.random_classifier, dict[str, Row]()
    for name in names:
        if chance is not None and name not in SEARCHING and _is_tested(bench, name):
            bench.say(f"explained with {name} of random weights")
            with or_absent(bench, CHANCE + name, absent):
                rows[CHANCE + name + SMOOTHED] = chance_row(bench, name, chance)
    return rows


def similarity(bench: Bench, name: str) -> Figures:
    """How alike a method's maps of the classifier and of random weights are, on the images of `few_images`.

    Returns:
        Means of "randomisation" (Spearman's rank correlation, -1 to 1) and "randomisation_ssim"; empty where weights
        are hidden, or where the method is trained and not among the profile's randomised rows.
    """
    chance = bench.random_classifier
    if chance is None or not _is_tested(bench, name):
        return {}

    def made() -> Figures:
        _, x, classes = few_images(bench)
        method = bench.method(name, chance, "_random_classifier")
        parts = zip(x.split(16), classes.split(16), strict=True)
        random_maps = torch.cat([method(chance, part, wanted) for part, wanted in parts])
        found = faithfulness.randomisation_similarity(few_maps(bench, name), random_maps)
        return {
            "randomisation": float(np.mean(found["spearman"])), "randomisation_ssim": float(np.mean(found["ssim"])),
        }  # fmt: skip

    mark = fingerprint(method_fingerprint(bench, bench.method(name)), bench.network_of(chance))
    return remembered(bench, f"randomisation-{name}", mark, made)


def _is_tested(bench: Bench, name: str) -> bool:
    """Whether a method needs no training, or is trained anew against the random classifier."""
    return name in bench.profile.randomised_rows or not bench.is_trained(name)
