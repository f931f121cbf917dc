"""[web]: the dashboard, the health of the node and its metrics over HTTP."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dicom_node.settings.rule_tables import Section


class WebSettings(Section):
    """[web]: where the dashboard listens, and who may log in."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8112
    users: Path = Path("var/users.toml")
