"""Figures as a comparison makes them, from numbers that a test chooses, and two small bundles that differ."""

import shutil
import tomllib
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from explain_core.bundles.files import toml_text, write_sums
from explain_core.explainer import open_bundle
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.geometry import InputSpec
from training import datasets
from training.cohort import load
from training.gate import GROUPS, LEVELS, MEASURES

SIZE = 96


def estimate(value, half=0.02, images=100):
    """A figure whose bounds widen with the level, by `half` at 0.95."""
    width = {level: half * (0.5 + level) / 1.45 for level in LEVELS}
    return {
        "value": value,
        "images": images,
        "interval": [value - half, value + half],
        "bounds": {f"{level:g}": [value - width[level], value + width[level]] for level in LEVELS},
    }


VALUES = dict.fromkeys(MEASURES, 0.9) | {"ece": 0.05, "psnr_similar": 45.0, "kept_rate": 0.99}


def gate_figures(gains=None, values=None, counts=None, half=0.02, leaks=(0, 0)):
    """A challenger with `values`, better than the champion by `gains` in every group, all else as good.

    `gains` are in the direction of better; `counts` are of every group.
    """
    gains, values = gains or {}, VALUES | (values or {})
    counts = {"images": 300, "patients": 200, "labelled": 200, "positive": 100, "negative": 100, "boxed": 50} | (
        counts or {}
    )
    own, other, differences = {}, {}, {}
    for name, measure in MEASURES.items():
        raw = gains.get(name, 0.0) * (1 if measure.higher else -1)
        own[name] = {group: estimate(values[name], half) for group in GROUPS}
        other[name] = {group: estimate(values[name] - raw, half) for group in GROUPS}
        differences[name] = {group: estimate(raw, half) for group in GROUPS}
    return {
        "groups": {group: dict(counts) for group in GROUPS},
        "leaks": {
            "patients": {"count": leaks[0], "between": [["train", "test", leaks[0]]] if leaks[0] else []},
            "images": {"count": leaks[1], "between": [["train", "test", leaks[1]]] if leaks[1] else []},
        },
        "models": {"challenger": {"figures": own}, "champion": {"figures": other}},
        "differences": differences,
    }


def small_bundle(default, folder):
    """The default bundle's classifier on 96 x 96 pixels, with two small untrained generators: quick, and it decides."""
    copy = folder / "small"
    shutil.copytree(default, copy)
    description = tomllib.loads((copy / "bundle.toml").read_text())
    description["input"]["size"] = SIZE
    table = {"kind": "single", "head_layers": 2, "output": "identity", "dropout": 0.0, "decisions": 2}
    description["generators"] = table | {"filters": [4, 8]}
    torch.manual_seed(0)
    generators = SimilarAdversarial([4, 8], **table)
    for head in (generators.similar, *generators.adversarial):
        torch.nn.init.normal_(head[-1].weight, std=0.05)
    save_file(
        {name: value.contiguous() for name, value in generators.state_dict().items()}, copy / "generators.safetensors"
    )
    (copy / "bundle.toml").write_text(toml_text(description))
    write_sums(copy)
    return copy


def halved(bundle, images, strength=0.0):
    """Disturb a bundle's convolutions, and set its threshold so that it calls half of `images` positive."""
    weights = load_file(bundle / "classifier.safetensors")
    generator = torch.Generator().manual_seed(0)
    for key, value in weights.items():
        if value.is_floating_point() and value.ndim == 4:
            noise = torch.randn(value.shape, generator=generator) * value.float().std()
            weights[key] = (value.float() + strength * noise).to(value.dtype)
    save_file(weights, bundle / "classifier.safetensors")
    write_sums(bundle)
    explainer = open_bundle(bundle, device="cpu")
    with torch.inference_mode():
        rising = explainer.probabilities(images.float() / 255).double().sort().values
    half = len(rising) // 2
    description = tomllib.loads((bundle / "bundle.toml").read_text())
    description["threshold"] = float(rising[half - 1] + rising[half]) / 2
    assert rising[half] - rising[half - 1] > 1e-4, f"the images look alike to this classifier: {rising}"
    (bundle / "bundle.toml").write_text(toml_text(description))
    write_sums(bundle)
    return bundle


def small_cohorts(nih_folder):
    """Test images and all others of the small folder, with sexes and ages of our own."""
    cohort, _ = load(datasets.read(f"nih:{nih_folder}"), InputSpec(size=SIZE))
    cohort = replace(
        cohort,
        sexes=tuple("FM"[index // 2 % 2] for index in range(len(cohort))),
        ages=np.array([20.0 + 2 * (index // 2) for index in range(len(cohort))]),
    )
    splits = np.array(cohort.splits)
    return cohort.take(np.flatnonzero(splits == "test")), cohort.take(np.flatnonzero(splits != "test"))
