"""The keys of a destination that is reached over DICOMweb: where it is, and how this node shows who it is."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dicom_node.settings.rule_tables import Section

ENVIRONMENT = "environment"


def _address(value: str) -> str:
    """An http or https URL that holds no secret and can be followed by a path."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(letter.isspace() or not letter.isprintable() for letter in value):
        raise ValueError("use a URL such as https://pacs.example.org/dicom-web")
    if parts.username is not None or parts.password is not None:
        raise ValueError("put no user name and no password into a URL")
    if parts.query or parts.fragment:
        raise ValueError("a URL here has no ? and no #")
    return value.rstrip("/")


def _proxy(value: str) -> str:
    return value if value == ENVIRONMENT else _address(value)


def _in_the_open(url: str | None) -> bool:
    """Whether everybody on the way can read what is sent there."""
    if url is None or urlsplit(url).scheme == "https":
        return False
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


Address = Annotated[str, AfterValidator(_address)]
Word = Annotated[str, Field(min_length=1, max_length=1000)]


class WebKeys(Section):
    """Of a `[[destinations]]` table: the keys that DICOMweb needs, and no others do."""

    url: Address | None = None
    token_url: Address | None = None
    client_id: Word | None = None
    client_secret_file: Path | None = None
    client_secret_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    scope: Word | None = None
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        credentials = (self.client_id, self.client_secret_file, self.client_secret_variable, self.scope)
        if self.token_url is None and any(one is not None for one in credentials):
            raise ValueError("client credentials need a token_url: add it, or remove them")
        if self.token_url is not None:
            if self.client_id is None or (self.client_secret_file is None) == (self.client_secret_variable is None):
                raise ValueError("a token_url needs client_id and one of client_secret_file and client_secret_variable")
            if _in_the_open(self.url) or _in_the_open(self.token_url):
                raise ValueError("secrets and tokens go over https only: change url and token_url")
        if self.key is not None and self.certificate is None:
            raise ValueError("a key needs its certificate: add it")
        return self
