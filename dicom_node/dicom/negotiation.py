"""What this node accepts of a peer: presentation contexts. One table, from which docs/conformance.md is made too."""

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
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

from dicom_node.dicom.commitment import accepted_context

NATIVE: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    *(HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, JPEGLossless, RLELossless),
    *NATIVE,
    *(HTJ2K, JPEG2000, JPEGLSNearLossless, JPEGExtended12Bit, JPEGBaseline8Bit),
)
"""Of every storage SOP Class, in the order in which one is chosen where a sender proposes several in one context: who
offers a lossless compression mostly has the object so and need not unpack it; what loses comes after what does not."""


def storage_sop_classes() -> tuple[UID, ...]:
    """Every storage SOP Class of the standard that the library knows, in the order of their UIDs' names."""
    classes = {context.abstract_syntax for context in AllStoragePresentationContexts if context.abstract_syntax}
    return tuple(sorted(classes, key=lambda uid: uid.name))


def presentation_contexts() -> list[PresentationContext]:
    """What the listener accepts: Verification, Storage Commitment, every storage SOP Class in every transfer syntax.

    The limit of 128 presentation contexts (PS3.8 9.3.2.2) holds for a requestor; an acceptor may know more.
    """
    contexts = [build_context(Verification, list(NATIVE)), accepted_context()]
    contexts += [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in storage_sop_classes()]
    return contexts
