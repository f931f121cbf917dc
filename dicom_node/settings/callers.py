"""Who may send: an entry of `node.calling_ae_titles`, and whether somebody is on the list.

    PACS                   that AE title, from anywhere
    PACS@10.1.0.0/16       that AE title, from that network
    PACS@192.0.2.7         from that address alone
    PACS@2001:db8::/32     the same of IPv6

An AE title is a claim that anybody can make; an address takes more to forge, a certificate (DICOM TLS) the key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One entry; `network` is None where any address will do."""

    ae_title: str
    network: IPv4Network | IPv6Network | None


def caller(text: str) -> Caller:
    """An entry as it is written. Of an AE title that has an @ itself, the last one is ours.

    Raises:
        ValueError: what follows the @ is no address and no network; the message says what to write.
    """
    title, at, place = text.strip().rpartition("@")
    if not at:
        return Caller(ae_title=place, network=None)
    try:
        return Caller(ae_title=title.strip(), network=ip_network(place.strip()))
    except ValueError:
        raise ValueError(f"after the @ stands an address or a network, such as {_example(place.strip())}") from None


def why_not(callers: Sequence[Caller], ae_title: str, address: str) -> str | None:
    """Why somebody may not send, for the log of the node alone; None when they may.

    The peer is told the same in every case: whoever guesses an AE title learns nothing from it.

    Args:
        callers: the entries; empty: nobody may.
        ae_title: the calling AE title, without padding.
        address: of the peer, IPv4 or IPv6; an IPv4 address in IPv6 form (::ffff:192.0.2.7) is an IPv4 address.
    """
    named = [one for one in callers if one.ae_title == ae_title]
    if not named:
        return "the AE title is not in node.calling_ae_titles"
    if any(one.network is None for one in named):
        return None
    there = plain(address)
    if there is not None and any(there in one.network for one in named if one.network is not None):
        return None
    return "node.calling_ae_titles has this AE title from other addresses only"


def plain(address: str) -> IPv4Address | IPv6Address | None:
    """An address without zone, and as IPv4 where it is one; None where it is none."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _example(place: str) -> str:
    """The network that was probably meant."""
    try:
        return str(ip_network(place, strict=False))
    except ValueError:
        return "10.1.0.0/16"


_AE_TITLE_LENGTH = 16  # PS3.5, 6.2


def _ae_title(value: str) -> str:
    title = value.strip()
    if not 0 < len(title) <= _AE_TITLE_LENGTH or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _caller(value: str) -> str:
    _ae_title(caller(value).ae_title)
    return value.strip()


AETitleText = Annotated[str, AfterValidator(_ae_title)]
CallerText = Annotated[str, AfterValidator(_caller)]
