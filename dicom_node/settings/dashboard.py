"""[web]: the dashboard, the health of the node and its metrics over HTTP."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from dicom_node.settings.rule_tables import Section


class WebSettings(Section):
    """[web]: where the dashboard listens, and who may log in."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8112
    certificate: Path | None = None
    key: Path | None = None
    proxied: bool = False
    users: Path = Path("var/users.toml")
    session_minutes: PositiveInt = 480
    session_key: Path = Path("var/session.key")
    search_key: Path = Path("var/search.key")
    pictures: bool = True

    @property
    def secret(self) -> bool:
        """Whether nobody on the way can read what is sent: over TLS, or within this machine."""
        try:
            return self.certificate is not None or self.proxied or ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("a certificate and its key belong together: set both or none")
        return self
