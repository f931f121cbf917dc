"""The list of callers: who may send, and from where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.settings.callers import caller, plain, why_not

LIST = tuple(
    caller(text)
    for text in ("ANY", "PACS@192.0.2.7", "CT@10.1.0.0/16", "CT@2001:db8::/32", "PACS@192.0.2.9", "ODD@HOME@10.0.0.0/8")
)
UNKNOWN, ELSEWHERE = "is not in node.calling_ae_titles", "from other addresses only"


@pytest.mark.parametrize(
    ("title", "address", "because"),
    [
        ("ANY", "203.0.113.1", None),
        ("ANY", "2001:db8::1", None),
        ("PACS", "192.0.2.7", None),
        ("PACS", "192.0.2.9", None),
        ("PACS", "192.0.2.8", ELSEWHERE),
        ("PACS", "::ffff:192.0.2.7", None),
        ("PACS", "::ffff:192.0.2.8", ELSEWHERE),
        ("CT", "10.1.255.255", None),
        ("CT", "10.2.0.0", ELSEWHERE),
        ("CT", "::ffff:10.1.0.1", None),
        ("CT", "2001:db8:ffff::1", None),
        ("CT", "2001:db9::1", ELSEWHERE),
        ("CT", "no address", ELSEWHERE),
        ("ODD@HOME", "10.0.0.1", None),
        ("ODD", "10.0.0.1", UNKNOWN),
        ("ct", "10.1.0.1", UNKNOWN),
        ("", "10.1.0.1", UNKNOWN),
    ],
)
def test_who_may_send_from_where(title, address, because):
    found = why_not(LIST, title, address)
    assert (found is None) if because is None else (because in found)


def test_nobody_is_on_an_empty_list():
    assert UNKNOWN in why_not((), "PACS", "192.0.2.7")


@pytest.mark.parametrize(
    ("text", "example"),
    [("PACS@10.1.2.3/16", "10.1.0.0/16"), ("PACS@pacs.example", "10.1.0.0/16"), ("P@2001:db8::1/32", "2001:db8::/32")],
)
def test_what_is_no_network_is_refused_with_the_one_that_was_meant(text, example):
    with pytest.raises(ValueError, match=f"such as {example}$"):
        caller(text)


@given(st.ip_addresses(v=4))
def test_an_address_is_the_same_in_its_ipv6_form(address):
    assert plain(f"::ffff:{address}") == plain(str(address)) == address


def test_a_zone_is_no_part_of_an_address():
    assert plain("fe80::1%eth0") == plain("fe80::1")
