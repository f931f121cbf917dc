"""Ledger, for whoever watches the node: which processes live, what needs a person, and what was looked for last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import and_, delete, insert, or_, select, update

from dicom_node.storage.ledger.schema import alerts, heartbeats, looks
from dicom_node.storage.ledger.store import Store, insert_missing

FORGOTTEN_AFTER: Final = timedelta(days=1)
"""A process that has been silent for so long is no process of the node any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A process of the node.

    Attributes:
        seen_at: when it last said that it lives.
        detail: what it says of itself: device and model of a worker.
    """

    role: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Something that needs a person.

    Attributes:
        name: of what is wrong, e.g. "disk" or "destination:pacs".
        level: "bad" or "warning".
        said: what is wrong and what to do.
        began_at: since when.
        seen_at: when it was last so.
        told_at: when somebody was told; None before.
    """

    name: str
    level: str
    said: str
    began_at: datetime
    seen_at: datetime
    told_at: datetime | None = None


class Pulse(Store):
    """What every process says of itself, and what the one that tells people remembers."""

    def beat(self, role: str, host: str, pid: int, now: datetime, detail: Mapping[str, str]) -> None:
        """A process lives; what has been silent for a day is forgotten."""
        mine = and_(heartbeats.c.role == role, heartbeats.c.host == host, heartbeats.c.pid == pid)
        told = {"seen_at": now, "detail": json.dumps(dict(detail))}
        with self._write() as connection:
            if not connection.execute(update(heartbeats).where(mine).values(told)).rowcount:
                connection.execute(delete(heartbeats).where(heartbeats.c.seen_at < now - FORGOTTEN_AFTER))
                row = {"role": role, "host": host, "pid": pid, "started_at": now}
                connection.execute(insert(heartbeats).values(row | told))

    def end_beat(self, role: str, host: str, pid: int) -> None:
        """A process ends in order: nobody waits for it."""
        mine = and_(heartbeats.c.role == role, heartbeats.c.host == host, heartbeats.c.pid == pid)
        with self._write() as connection:
            connection.execute(delete(heartbeats).where(mine))

    def heartbeats(self) -> list[Heartbeat]:
        """Every process that has lived within a day and did not end in order, by role, host and age."""
        order = (heartbeats.c.role, heartbeats.c.host, heartbeats.c.started_at, heartbeats.c.pid)
        with self._read() as connection:
            rows = connection.execute(select(heartbeats).order_by(*order)).mappings()
            return [Heartbeat(**{**row, "detail": json.loads(row["detail"])}) for row in rows]

    def noted(self) -> list[Noted]:
        """What needs a person, by name."""
        with self._read() as connection:
            rows = connection.execute(select(alerts).order_by(alerts.c.name)).mappings()
            return [Noted(**row) for row in rows]

    def note(self, now_wrong: Sequence[Noted]) -> None:
        """Record what is wrong now; since when, and when somebody was told, stays as it is."""
        with self._write() as connection:
            for one in now_wrong:
                row = {"level": one.level, "said": one.said, "seen_at": one.seen_at}
                new = {"name": one.name, "began_at": one.began_at, "told_at": None}
                if not insert_missing(connection, alerts, row | new):
                    connection.execute(update(alerts).where(alerts.c.name == one.name).values(row))

    def claim_alert(self, name: str, now: datetime, before: datetime | None) -> bool:
        """Be the one that tells people; of several that want to, one is given it.

        Args:
            name: of what is wrong.
            now: when they are told.
            before: when they were told last, as the caller knows it; another process may have told them since.
        """
        unchanged = alerts.c.told_at.is_(None) if before is None else alerts.c.told_at == before
        with self._write() as connection:
            claimed = connection.execute(update(alerts).where(alerts.c.name == name, unchanged).values(told_at=now))
            return claimed.rowcount == 1

    def unclaim_alert(self, name: str, claimed: datetime, before: datetime | None) -> None:
        """Nobody could be told: it is as it was."""
        mine = and_(alerts.c.name == name, alerts.c.told_at == claimed)
        with self._write() as connection:
            connection.execute(update(alerts).where(mine).values(told_at=before))

    def end_alert(self, name: str, seen: datetime) -> bool:
        """It is over; True for the one process that is to tell. False where it was seen again since."""
        calm = and_(alerts.c.name == name, alerts.c.seen_at <= seen)
        with self._write() as connection:
            return connection.execute(delete(alerts).where(calm)).rowcount == 1

    def restore_alert(self, one: Noted) -> None:
        """That it is over could not be told: it is there again."""
        row = {"level": one.level, "said": one.said, "began_at": one.began_at, "seen_at": one.seen_at}
        with self._write() as connection:
            insert_missing(connection, alerts, row | {"name": one.name, "told_at": one.told_at})

    def keep_look(self, name: str, now: datetime, found: Any) -> None:
        """Record what was found, in place of what was found before.

        Args:
            name: of the kind of look.
            now: when.
            found: anything that JSON can say.
        """
        row = {"looked_at": now, "found": json.dumps(found)}
        with self._write() as connection:
            if not connection.execute(update(looks).where(looks.c.name == name).values(row)).rowcount:
                connection.execute(insert(looks).values(row | {"name": name}))

    def look(self, name: str) -> tuple[datetime, Any] | None:
        """When there was a look of that kind last, and what it found; None before the first."""
        with self._read() as connection:
            row = connection.execute(select(looks).where(looks.c.name == name)).mappings().one_or_none()
            return None if row is None else (row["looked_at"], json.loads(row["found"]))

    def claim_look(self, name: str, now: datetime, every: timedelta) -> bool:
        """Whether a look is due, and the caller is the one to have it: of several that ask, one is."""
        with self._write() as connection:
            row = {"name": name, "looked_at": now, "found": "null"}
            if insert_missing(connection, looks, row):
                return True
            due = and_(looks.c.name == name, or_(looks.c.looked_at <= now - every, looks.c.looked_at > now + every))
            return connection.execute(update(looks).where(due).values(looked_at=now)).rowcount == 1
