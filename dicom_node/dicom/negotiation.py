"""What this node accepts of a peer: presentation contexts. One table, from which docs/conformance.md is made too."""

from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
)
"""Of every storage SOP Class. Which one an association uses is the sender's choice: the first it proposes."""

_VERIFICATION_SYNTAXES = TRANSFER_SYNTAXES[:4]


def storage_sop_classes() -> tuple[UID, ...]:
    """Every storage SOP Class of the standard that the library knows, in the order of their UIDs' names."""
    classes = {context.abstract_syntax for context in AllStoragePresentationContexts if context.abstract_syntax}
    return tuple(sorted(classes, key=lambda uid: uid.name))


def presentation_contexts() -> list[PresentationContext]:
    """What the listener accepts: Verification, and every storage SOP Class in every transfer syntax.

    The limit of 128 presentation contexts (PS3.8 9.3.2.2) holds for a requestor; an acceptor may know more.
    """
    contexts = [build_context(Verification, list(_VERIFICATION_SYNTAXES))]
    contexts += [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in storage_sop_classes()]
    return contexts
