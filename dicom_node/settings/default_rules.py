"""The rules when the settings have none: frontal chest radiographs are explained, all else is told why not.

Data, not code: the same words as in the `[[rules]]` tables of the settings file. First match wins.
"""

from typing import Any

_RADIOGRAPH = {"tag": "Modality", "in": ["CR", "DX"]}
_NO_VIEW_POSITION = {"tag": "ViewPosition", "equals": "", "missing": "match"}
_CHEST = {"tag": "BodyPartExamined", "in": ["CHEST", "THORAX"]}

# PS3.16 CID 4010 "DX View" in SNOMED CT and, as older equipment sends it, SNOMED RT.
_LATERAL_CODES = [
    *("399067008", "R-102CD"),  # lateral
    *("399173006", "R-10236"),  # left lateral
    *("399198007", "R-10232"),  # right lateral
    *("399352003", "R-10228"),  # latero-medial
    *("399260004", "R-10224"),  # medio-lateral
    *("30730003", "G-A145"),  # sagittal
]
_FRONTAL_CODES = [
    *("272479007", "R-40888", "R-10214"),  # postero-anterior
    *("399348003", "R-10206"),  # antero-posterior
    *("399033003", "R-10202"),  # frontal
]

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
        "name": "chest-lateral",
        "action": "ignore",
        "when": [
            _RADIOGRAPH,
            _CHEST,
            {"tag": "ViewPosition", "in": ["LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "L", "R"]},
        ],
        "reason": "it is a lateral view",
    },
    {
        "name": "chest-lateral-by-code",
        "action": "ignore",
        "when": [_RADIOGRAPH, _CHEST, {"tag": "ViewCodeSequence.CodeValue", "in": _LATERAL_CODES}],
        "reason": "it is a lateral view",
    },
    {
        "name": "chest-other-view-by-code",
        "action": "ignore",
        "when": [
            _RADIOGRAPH,
            _CHEST,
            _NO_VIEW_POSITION,
            {"tag": "ViewCodeSequence.CodeValue", "regex": rf"(?!({'|'.join(_FRONTAL_CODES)})$).+"},
        ],
        "reason": "it is neither a PA nor an AP view",
    },
    {
        "name": "chest-lateral-by-orientation",
        "action": "ignore",
        "when": [
            _RADIOGRAPH,
            _CHEST,
            _NO_VIEW_POSITION,
            {"tag": "PatientOrientation", "regex": r"[AP][FHLR]*"},
        ],
        "reason": "it is a lateral view",
    },
    {
        "name": "chest-frontal",
        "action": "explain",
        "when": [
            _RADIOGRAPH,
            _CHEST,
            {"tag": "ViewPosition", "in": ["PA", "AP"], "missing": "match"},
        ],
    },
    {
        "name": "chest-other-view",
        "action": "ignore",
        "when": [_RADIOGRAPH, _CHEST],
        "reason": "it is neither a PA nor an AP view",
    },
    {
        "name": "other-body-part",
        "action": "ignore",
        "when": [_RADIOGRAPH],
        "reason": "its Body Part Examined does not say chest",
    },
    {
        "name": "other-modality",
        "action": "ignore",
        "when": [],
        "reason": "it is not a radiograph (CR or DX)",
    },
)
