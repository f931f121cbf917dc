"""The report of a training run as one HTML page, and the model card, both from the figures of `training.comparison`.

The page loads nothing from elsewhere, names no patient and no file, and can be read without colour and on paper.
"""

from training.run_report.card import TRAINING_HEADING, card, sheet
from training.run_report.page import html

__all__ = ["TRAINING_HEADING", "card", "html", "sheet"]
