"""How large the bundle is that tests train in seconds."""

from dataclasses import replace

from training.bundle import Recipe
from training.runs.evidence_classifier import EvidenceSettings
from training.runs.generators import GeneratorSettings, from_preset

TINY = Recipe(
    size=64,
    classifier=EvidenceSettings(copies=1, epochs=1, noise_epochs=1, batch=4, part_batch=2),
    generators=replace(from_preset(GeneratorSettings(), "features_gated"), steps=4, report_every=2, batch=4, width=8),
)
