"""Whether a destination can be reached, and what to do where it cannot: C-ECHO (PS3.4 annex A), or a QIDO-RS search."""

import time
from dataclasses import dataclass

from dicom_node.deliver import scu
from dicom_node.deliver.stow import Stow
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import Destination, WebDestination
from dicom_node.settings.sections import Settings

SUCCESS = 0x0000
_ADVICE = (
    ("Calling AE title", "let the PACS know our AE title (node.ae_title) and address"),
    ("Called AE title", "put the PACS's own AE title into ae_title"),
    ("rejected", "look into the log of the PACS for the reason"),
    ("aborted", "is it a DICOM port, and with the right TLS? Look into the log of the PACS"),
    ("no association", "see host and port, whether the PACS runs, and the firewall between"),
    ("C-ECHO", "the association stands, but the PACS does not answer: look into its log"),
)
"""What to do, by words of the reason; a reason of DICOMweb says it itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """What came of trying one destination.

    Attributes:
        destination: its name.
        over: "DICOM" or "DICOMweb".
        reached: whether it answers and lets us in.
        seconds: that it took.
        said: what it says, or why it cannot be reached.
        advice: what to do, or the empty string.
    """

    destination: str
    over: str
    reached: bool
    seconds: float
    said: str
    advice: str = ""


def echo(settings: Settings, name: str) -> Echo:
    """Try one destination.

    Raises:
        ConfigError: there is none of that name.
    """
    destination = settings.destination(name)
    over = "DICOMweb" if isinstance(destination, WebDestination) else "DICOM"
    begun = time.monotonic()
    try:
        reached, said = True, _try(settings, destination)
    except DeliveryUnreachable as error:
        reached, said = False, str(error)
    seconds = time.monotonic() - begun
    todo = "" if reached or over == "DICOMweb" else advice(said)
    return Echo(destination=name, over=over, reached=reached, seconds=seconds, said=said, advice=todo)


def _try(settings: Settings, destination: Destination | WebDestination) -> str:
    timeout = settings.delivery.timeout
    if isinstance(destination, WebDestination):
        return Stow().echo(destination, timeout=timeout)
    status = scu.echo(destination, calling_ae_title=settings.node.ae_title, timeout=timeout)
    if status != SUCCESS:
        raise DeliveryUnreachable(f"status 0x{status:04X} to C-ECHO")
    return "answers C-ECHO" + (" over TLS" if destination.tls is not None else "")


def advice(reason: str) -> str:
    """What to do about a reason why there is no association; "" where nothing is known."""
    return next((todo for words, todo in _ADVICE if words in reason), "")
