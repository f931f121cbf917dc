"""Pictures: every image in a folder and those below it, of whatever kind, without labels.

PNG, JPEG, TIFF, BMP and DICOM; an image is its own patient unless the folder below the first one names several, as in
`DIR/PATIENT/image.png`. Split by the patient's name: 20 % test, 10 % validation.
"""

from pathlib import Path

from training.datasets.collecting import Collector
from training.datasets.samples import Dataset, Sample, fold_of_patient, split_of_fold

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm"})


def read(folder: Path) -> Dataset:
    """Read the folder; images that cannot be read are named among its problems."""
    collector = Collector()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    headers = collector.headers(paths)
    samples = []
    for path in paths:
        if path not in headers:
            continue
        parts = path.relative_to(folder).parts
        patient = parts[0] if len(parts) > 1 else path.stem
        fold = fold_of_patient(patient)
        samples.append(
            Sample(
                path=path,
                patient_id=patient,
                fold=fold,
                split=split_of_fold(fold),
                view="",
                target=None,
                target_source="",
                shape=headers[path].shape,
                plain=True,
            )
        )
    return collector.dataset(samples, ("no", "yes"), exclusive=False)


PLUGIN = read
