"""Which model version runs, which runs in its shadow, and what ran before.

The table only grows: what a role has now is its last row. Rolling back walks down the promotions: each promotion is
laid on those before it, each rollback takes the topmost away, and the next promotion is laid on what is left. So two
rollbacks in a row go two versions back and never to and fro; below the first promotion lies the configured bundle.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Boolean, Column, Connection, Integer, RowMapping, String, Table, Text, insert, select
from sqlalchemy.exc import IntegrityError

from dicom_node.storage.ledger.schema import KEY, STATE, UTCDateTime, metadata
from dicom_node.storage.ledger.store import Store, noun_of, row_of

Role = Literal["champion", "challenger"]
Action = Literal["deploy", "rollback", "withdraw"]

_ATTEMPTS: Final = 20

deployments = Table(
    "deployments",
    metadata,
    Column("role", STATE, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("action", STATE, nullable=False),
    Column("digest", KEY, nullable=False),  # empty: the configured bundle, or no challenger
    Column("number", Integer),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("deployed_at", UTCDateTime, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("previous_digest", KEY, nullable=False),
)

model_swaps = Table(
    "model_swaps",
    metadata,
    Column("swap_id", Integer, primary_key=True, autoincrement=True),
    Column("at", UTCDateTime, nullable=False),
    Column("process", String(64), nullable=False),
    Column("wanted", KEY, nullable=False),
    Column("digest", KEY, nullable=False),
    Column("version", Text, nullable=False),
    Column("trouble", Text),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One row: from `deployed_at` on, a role has this version.

    Attributes:
        sequence: of the rows of the role, from 1.
        digest: of the bundle; empty where no version is deployed: the configured bundle runs, or no challenger does.
        number: of the version in the registry.
        name, version: what the bundle says of itself.
        by: the user of the operating system.
        reason: in plain words; empty when none was given.
        forced: against the gate, or without one.
        previous_digest: what the role had before; empty likewise.
    """

    role: Role
    sequence: int
    action: Action
    digest: str
    number: int | None
    name: str
    version: str
    deployed_at: datetime
    by: str
    reason: str
    forced: bool
    previous_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What a worker did about a deployment.

    Attributes:
        process: host and process id.
        wanted: digest that was deployed; empty for the configured bundle.
        digest, version: what the worker goes on with.
        trouble: why that is not what was deployed, or None.
    """

    at: datetime
    process: str
    wanted: str
    digest: str
    version: str
    trouble: str | None


class NothingBefore(LookupError):
    """The configured bundle runs: there is nothing to go back to."""


class Overtaken(RuntimeError):
    """Somebody else was faster."""

    def __init__(self) -> None:
        super().__init__("another version was deployed at the same moment; look again")


class Deployments(Store):
    """Which model version runs, which runs in its shadow, and what ran before."""

    def deployed(self, role: Role) -> Deployment | None:
        """What a role has now; None: the configured bundle is champion, or there is no challenger."""
        with self._read() as connection:
            row = _last(connection, role)
        return row if row is not None and row.digest else None

    def history(self, role: Role | None = None) -> list[Deployment]:
        """Every row in the order in which they were written, role by role unless one is named."""
        query = select(deployments).order_by(deployments.c.role.desc(), deployments.c.sequence)
        if role is not None:
            query = query.where(deployments.c.role == role)
        with self._read() as connection:
            return [_deployment(row) for row in connection.execute(query).mappings()]

    def deploy(
        self,
        role: Role,
        *,
        digest: str,
        number: int | None,
        name: str,
        version: str,
        by: str,
        reason: str,
        now: datetime,
        forced: bool = False,
        expected: str | None = None,
    ) -> Deployment:
        """Give a role a version, in one transaction; a challenger that becomes champion is challenger no longer.

        The bundle must be in the store already: workers take it with their next study. What the role has already is
        left as it is.

        Args:
            role: of the two.
            digest: of the bundle.
            number: of the version in the registry.
            name: of the bundle.
            version: as the bundle has it.
            by: who does it.
            reason: why.
            now: the time.
            forced: against the gate, or without one.
            expected: digest that the role had when the caller decided; where it has another, nothing is deployed.

        Raises:
            Overtaken: the role has not what is `expected`.
        """

        def made(connection: Connection, last: Deployment | None) -> Deployment:
            if last is not None and last.digest == digest:
                return last
            if expected is not None and expected != (last.digest if last is not None else ""):
                raise Overtaken
            row = _insert(
                connection,
                last,
                role=role,
                action="deploy",
                digest=digest,
                number=number,
                name=name,
                version=version,
                deployed_at=now,
                by=by,
                reason=reason,
                forced=forced,
            )
            challenger = _last(connection, "challenger")
            if role == "champion" and challenger is not None and challenger.digest == digest:
                _insert(connection, challenger, **_nothing("challenger", "withdraw", "it was promoted", by=by, now=now))
            return row

        return self._append(role, made)

    def rollback(self, role: Role, *, by: str, reason: str, now: datetime, expected: str | None = None) -> Deployment:
        """Give a role what it had before its last promotion that was not taken back yet, in one transaction.

        Args:
            role: of the two.
            by: who does it.
            reason: why.
            now: the time.
            expected: digest that the caller has made sure of; another one is not deployed.

        Raises:
            NothingBefore: no promotion is left to take back.
            Overtaken: what comes before is not `expected`.
        """

        def made(connection: Connection, last: Deployment | None) -> Deployment:
            rows = connection.execute(
                select(deployments).where(deployments.c.role == role).order_by(deployments.c.sequence)
            ).mappings()
            before = before_last(_deployment(row) for row in rows)
            if expected is not None and expected != (before.digest if before is not None else ""):
                raise Overtaken
            values = _nothing(role, "rollback", reason, by=by, now=now)
            if before is not None:
                values |= {name: getattr(before, name) for name in ("digest", "number", "name", "version")}
            return _insert(connection, last, **values)

        return self._append(role, made)

    def withdraw(self, role: Role, *, by: str, reason: str, now: datetime) -> bool:
        """Take a role's version away; False when it has none."""
        if self.deployed(role) is None:
            return False
        values = _nothing(role, "withdraw", reason, by=by, now=now)
        self._append(role, lambda connection, last: _insert(connection, last, **values))
        return True

    def swapped(self, swap: Swap) -> None:
        """Record what a worker did about a deployment."""
        with self._write() as connection:
            connection.execute(insert(model_swaps).values(row_of(swap, model_swaps)))

    def swaps(self, limit: int = 20) -> list[Swap]:
        """What workers did about deployments, newest first."""
        query = select(model_swaps).order_by(model_swaps.c.swap_id.desc()).limit(limit)
        with self._read() as connection:
            return [noun_of(Swap, row) for row in connection.execute(query).mappings()]

    def _append(self, role: Role, made: Any) -> Deployment:
        """One transaction that reads the last row and writes the next; again when another process was faster."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._write() as connection:
                    row: Deployment = made(connection, _last(connection, role))
                    return row
            except IntegrityError:
                if attempt + 1 == _ATTEMPTS:
                    raise
        raise AssertionError


def before_last(rows: Iterable[Deployment]) -> Deployment | None:
    """What a rollback deploys, from all rows of a role, oldest first; None: the configured bundle.

    Raises:
        NothingBefore: no promotion is left to take back.
    """
    left = standing(rows)
    if not left:
        raise NothingBefore("no promotion is left to take back: the configured bundle runs")
    return left[-2] if len(left) > 1 else None


def standing(rows: Iterable[Deployment]) -> Sequence[Deployment]:
    """The promotions that were not taken back, oldest first."""
    left: list[Deployment] = []
    for row in rows:
        if row.action == "deploy":
            left.append(row)
        elif row.action == "rollback":
            left.pop()
        else:
            left.clear()
    return left


def _nothing(role: Role, action: Action, reason: str, *, by: str, now: datetime) -> dict[str, Any]:
    """A row without a version."""
    return {
        "role": role,
        "action": action,
        "digest": "",
        "number": None,
        "name": "",
        "version": "",
        "deployed_at": now,
        "by": by,
        "reason": reason,
        "forced": False,
    }


def _insert(connection: Connection, last: Deployment | None, **values: Any) -> Deployment:
    """The row after `last`; the key lets one of two that come together in."""
    values |= {
        "sequence": 1 if last is None else last.sequence + 1,
        "previous_digest": "" if last is None else last.digest,
    }
    connection.execute(insert(deployments).values(values))
    return Deployment(**values)


def _last(connection: Connection, role: Role) -> Deployment | None:
    query = select(deployments).where(deployments.c.role == role).order_by(deployments.c.sequence.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _deployment(row)


def _deployment(row: RowMapping) -> Deployment:
    return Deployment(**row)
