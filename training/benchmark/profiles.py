"""How large a benchmark is: `quick` shows in minutes that everything runs, `full` is what numbers come from.

What the paper leaves open was chosen on the phantom's validation images (docs/benchmark/README.md): the weights of the
decision, because Table I's 0.001 changes no decision of these classifiers, and the strength of the augmentation.
"""

from dataclasses import dataclass, field, replace

from explain_core.geometry import AffineRange
from explain_core.losses import LossWeights
from training import presets
from training.runs.generators import GeneratorSettings, from_preset
from training.runs.image_classifier import ImageClassifierSettings
from training.runs.mask_generator import MaskSettings

GENERATOR_ROWS = (
    "duo_tv", "duo_w_tv", "single_1_tv", "single_1_w", "single_1_w_tv", "single_2_w", "single_2_w_tv",
    "adversarial_tv",
)  # fmt: skip
FEATURE_ROWS = ("features_gated", "features")
"""Generators on the classifier's own features, bound to its evidence and free; the presets of those names."""
OWN_MAPS = ("evidence", "optimum")
"""Maps that need no generator: the one a classifier decides by, and the best change sought for each image."""
BASELINES = (
    "gradient", "smooth_gradient", "input_gradient", "integrated_gradients", "grad_cam", "bbmp",
    "perceptual_perturbation", "mask_generator",
)  # fmt: skip
SEARCHING = ("bbmp", "perceptual_perturbation", "optimum")
OURS = "single_2_w_tv"
BUNDLE_ROW = "bundle"
"""The generators that a bundle brings along, beside those trained here."""
DELIVERED = "delivered"
"""The map that a bundle delivers: its generators' or its copies' mean, under its own blur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Every setting of a benchmark.

    Attributes:
        name: "quick" or "full".
        phantom: options of the phantom reader, e.g. "train=600".
        size: rows and columns of the input grid in pixels.
        classifier: of both classifiers; the second, for transfer, has the next seed.
        generators: of every generator row; architecture and the weights of Table I come from the row's preset.
        decision_similar, decision_adversarial: weights of equation (7) instead of Table I's 0.001, None to keep it.
        generator_distance: weight of equation (8) where the preset has one, instead of Table I's; None to keep it.
        mask_generator: of the mask generator.
        boxed: test images with boxes at most, the first ones of the test split; 0 for all.
        slow: settings of methods that search anew for each image, by method.
        decision_noise: instead of the generators' own in the paper's presets; None to keep it.
        augment_searching: whether methods that search anew for each image (SEARCHING) get an augmented row too, at
            ten times their cost; arXiv:2012.07332 gives none.
        faithfulness: images for deletion, insertion, ROAD, sensitivity and randomisation; 0 leaves them out.
        randomised_rows: trained methods that are trained anew on a random classifier for the randomisation check; the
            others need no training and are always checked.
        cases: figures drawn.
        augmentations, ranges, seed: of equation (11), Table II.
        repeats: timed calls per method after one to warm up.
    """

    name: str
    phantom: str
    size: int
    classifier: ImageClassifierSettings
    generators: GeneratorSettings
    decision_similar: float | None = 0.05
    decision_adversarial: float | None = 0.15
    generator_distance: float | None = None
    decision_noise: float | None = None
    mask_generator: MaskSettings
    boxed: int
    slow: dict[str, dict[str, int]] = field(default_factory=dict)
    augment_searching: bool = False
    faithfulness: int
    randomised_rows: tuple[str, ...] = (OURS, "adversarial_tv", "mask_generator", *FEATURE_ROWS)
    cases: int
    augmentations: int = 10
    ranges: AffineRange = field(
        default_factory=lambda: AffineRange(degrees=15, height_shift=0.06, width_shift=0.06, zoom=0.3)
    )
    seed: int = 0
    repeats: int

    def generator_settings(self, row: str) -> GeneratorSettings:
        """Settings of one row's generators; those on features are trained as their presets say."""
        if row in FEATURE_ROWS:
            return from_preset(self.generators, row)
        preset = presets.load(row)
        weights: LossWeights = preset.weights
        if self.decision_adversarial is not None:
            weights = replace(weights, decision_adversarial=self.decision_adversarial)
        if self.decision_similar is not None and preset.kind != "naive":
            weights = replace(weights, decision_similar=self.decision_similar)
        if self.generator_distance is not None and weights.generators:
            weights = replace(weights, generators=self.generator_distance)
        made = replace(self.generators, kind=preset.kind, head_layers=preset.head_layers, weights=weights)
        return made if self.decision_noise is None else replace(made, decision_noise=self.decision_noise)


def moved(share: float) -> AffineRange:
    """Shifts alone, of at most this share of the sides."""
    return AffineRange(degrees=0, height_shift=share, width_shift=share, zoom=0, horizontal_flip=0)


QUICK = Profile(
    name="quick",
    phantom="train=1200&validation=120&test=120",
    size=48,
    classifier=ImageClassifierSettings(epochs=4, attack=0.01),
    generators=GeneratorSettings(
        filters=(8, 16), output="plain", steps=300, reconstruction_steps=100, batch=8, learning_rate=4e-3,
        report_every=100, decisions=1, decision_affine=moved(2 / 48), decision_noise=0.02,
    ),
    mask_generator=MaskSettings(filters=(8, 16), steps=200, batch=8, report_every=100),
    boxed=24,
    slow={"bbmp": {"iterations": 30}, "perceptual_perturbation": {"iterations": 10}},
    augment_searching=True,
    faithfulness=4,
    cases=2,
    repeats=3,
)  # fmt: skip

FULL = Profile(
    name="full",
    phantom="train=4000&validation=500&test=600",
    size=64,
    classifier=ImageClassifierSettings(epochs=6, attack=0.03),
    generators=GeneratorSettings(
        filters=(8, 16, 32), output="plain", steps=2000, reconstruction_steps=600, batch=8, learning_rate=4e-3,
        report_every=200, decisions=1, decision_affine=moved(2 / 64), decision_noise=0.02,
    ),
    mask_generator=MaskSettings(filters=(8, 16, 32), steps=2000, batch=8, report_every=200),
    boxed=0,
    faithfulness=32,
    cases=6,
    repeats=15,
)  # fmt: skip
PROFILES = {profile.name: profile for profile in (QUICK, FULL)}
