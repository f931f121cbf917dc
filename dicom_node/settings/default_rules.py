"""The rules when the settings have none: frontal chest radiographs are explained, all else is told why not.

Data, not code: the same words as in the `[[rules]]` tables of the settings file. First match wins.
"""

from typing import Any

from dicom_node.dicom.codes import MODALITIES

_RADIOGRAPH = {"tag": "Modality", "in": [*MODALITIES]}
_CHEST = {"tag": "BodyPart", "equals": "CHEST"}

DEFAULT_RULES: tuple[dict[str, Any], ...] = (
    {
        "name": "for-processing",
        "action": "ignore",
        "when": [_RADIOGRAPH, {"tag": "PresentationIntentType", "equals": "FOR PROCESSING"}],
        "reason": "it is a raw image for processing, not for presentation",
    },
    {
        "name": "multi-frame",
        "action": "ignore",
        "when": [_RADIOGRAPH, {"tag": "NumberOfFrames", "regex": r"0*([2-9]|[1-9]\d+)"}],
        "reason": "it has several frames",
    },
    {
        "name": "chest-frontal",
        "action": "explain",
        "when": [_RADIOGRAPH, _CHEST, {"tag": "View", "in": ["PA", "AP", "FRONTAL"], "missing": "match"}],
    },
    {
        "name": "chest-lateral",
        "action": "ignore",
        "when": [_RADIOGRAPH, _CHEST, {"tag": "View", "equals": "LATERAL"}],
        "reason": "it is a lateral view",
    },
    {
        "name": "chest-other-view",
        "action": "ignore",
        "when": [_RADIOGRAPH, _CHEST, {"tag": "View", "equals": "OTHER"}],
        "reason": "it is neither a PA nor an AP view",
    },
    {
        "name": "other-body-part",
        "action": "ignore",
        "when": [_RADIOGRAPH, {"tag": "BodyPart", "equals": "OTHER"}],
        "reason": "it does not show the chest",
    },
    {
        "name": "no-body-part",
        "action": "ignore",
        "when": [_RADIOGRAPH],
        "reason": "nothing in its header says that it shows the chest",
    },
    {
        "name": "other-modality",
        "action": "ignore",
        "when": [],
        "reason": "it is not a radiograph (CR, DX, DR or RG)",
    },
)
