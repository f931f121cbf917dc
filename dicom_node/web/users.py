"""Who may log in: a file of names, of roles and of password hashes (Argon2id, RFC 9106), written by `dicom-node user`.

[users.anna]
role = "administrator"
password = "$argon2id$v=19$m=65536,t=3,p=4$..."
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_node.errors import ConfigError
from explain_core import toml_files
from explain_core.files import write

SHORTEST: Final = 12
"""Characters of a password (NIST SP 800-63B asks for 8 beside a limit of attempts, which there is too)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASHER: Final = PasswordHasher()
_NOBODY: Final = _HASHER.hash("")


class UserRole(StrEnum):
    """What somebody may do: look at pictures and names; or act, too."""

    VIEWER = "viewer"
    ADMINISTRATOR = "administrator"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in.

    Attributes:
        name: of the user.
        role: what the user may do.
        seal: changes with the password: a session that was begun with another one is over.
    """

    name: str
    role: UserRole
    seal: str

    @property
    def administers(self) -> bool:
        """Whether the user may act."""
        return self.role is UserRole.ADMINISTRATOR


class Users:
    """The file of users; read anew at every question, so that a change counts at once.

    Args:
        path: `[web] users`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def user(self, name: str) -> User | None:
        """Somebody by name, or None.

        Raises:
            ConfigError: the file cannot be used; the message says what to do.
        """
        row = self._rows().get(name)
        return None if row is None else _user(name, row)

    def checked(self, name: str, password: str) -> User | None:
        """Somebody whose password this is, or None; takes as long for a name that there is not.

        Raises:
            ConfigError: the file cannot be used.
        """
        row = self._rows().get(name)
        try:
            _HASHER.verify(_NOBODY if row is None else row["password"], password)
        except (VerificationError, InvalidHashError):
            return None
        return None if row is None else _user(name, row)

    def all(self) -> list[User]:
        """Everybody, by name.

        Raises:
            ConfigError: the file cannot be used.
        """
        return [_user(name, row) for name, row in sorted(self._rows().items())]

    def put(self, name: str, password: str, role: UserRole) -> None:
        """Add somebody, or change password and role; whoever was logged in under that name is logged out.

        Raises:
            ConfigError: the name or the password is none that can be used, or the file is damaged.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r}: a name has letters, digits, '.', '_', '@' and '-', at most 64")
        if len(password) < SHORTEST:
            raise ConfigError(f"a password has at least {SHORTEST} characters; a few words are easy to keep in mind")
        self._save(self._rows() | {name: {"role": role.value, "password": _HASHER.hash(password)}})

    def remove(self, name: str) -> bool:
        """Remove somebody; False where there is nobody of that name.

        Raises:
            ConfigError: the file is damaged.
        """
        rows = self._rows()
        if rows.pop(name, None) is None:
            return False
        self._save(rows)
        return True

    def _rows(self) -> dict[str, Mapping[str, str]]:
        if not self._path.exists():
            return {}
        try:
            mode = self._path.stat().st_mode
            found, _ = toml_files.read(self._path, "the file of users")
        except (OSError, toml_files.TomlWrong) as error:
            raise ConfigError(f"web.users: {error}; restore the file, or make it anew with `dicom-node user`") from None
        if mode & 0o077:
            raise ConfigError(f"web.users: {self._path}: others may read or write it: chmod 600 {self._path}")
        rows = found.get("users", {})
        wrong = [name for name, row in rows.items() if not _sound(name, row)]
        if wrong or found.keys() - {"users"}:
            raise ConfigError(f"web.users: {self._path}: not as `dicom-node user` writes it: {wrong or 'other tables'}")
        return dict(rows)

    def _save(self, rows: Mapping[str, Mapping[str, str]]) -> None:
        tables = [
            f'[users."{name}"]\nrole = "{row["role"]}"\npassword = "{row["password"]}"\n' for name, row in rows.items()
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write(self._path, "\n".join(tables), mode=0o600)


def _sound(name: str, row: object) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() == {"role", "password"}
        and row["role"] in {*UserRole}
        and isinstance(row["password"], str)
        and _NAME.fullmatch(name) is not None
    )


def _user(name: str, row: Mapping[str, str]) -> User:
    seal = hmac.new(row["password"].encode(), row["role"].encode(), hashlib.sha256).hexdigest()[:32]
    return User(name=name, role=UserRole(row["role"]), seal=seal)
