"""`evidence_lite0` on the larger trunk of EfficientNet-Lite2: a second network of its quality, asked beside it."""

from typing import ClassVar

from explain_core.classifiers.efficientnet_lite0 import LITE2, Scale
from explain_core.classifiers.evidence_lite0 import EvidenceLite0


class EvidenceLite2(EvidenceLite0):
    """21 blocks, 1.1 times as wide; see `EvidenceLite0`."""

    scale: ClassVar[Scale] = LITE2


PLUGIN = EvidenceLite2
