"""What became of a soak: of each acknowledged image its result, and nothing twice. Values in, values out."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from soak.modality import Sent
from soak.pacs import Arrival

REPORT = "SR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts are of images, but for `doubled`.

    Attributes:
        sent: those that a modality began to send.
        tries: C-STORE requests for them.
        explained: the destination has a picture about them.
        reported: the destination has a report about them and no picture: "not analysed".
        lost: acknowledged, and the destination has nothing about them; their SOP Instance UIDs.
        doubled: what is there in two versions; each in words.
        arrivals, repeated: objects that came to the destination, and those of them that had come before, unchanged.
        seconds: by percentile, from the last image acknowledged to the report about it, of a study.
        store_seconds: by percentile, of a C-STORE that was acknowledged.
    """

    sent: int
    tries: int
    acknowledged: int
    explained: int
    reported: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    arrivals: int
    repeated: int
    seconds: dict[str, float]
    store_seconds: dict[str, float]

    @property
    def good(self) -> bool:
        return self.acknowledged > 0 and not self.lost and not self.doubled


def verdict(studies: Sequence[Sent], arrivals: Sequence[Arrival], tasks: Mapping[str, int]) -> Verdict:
    """Compare what was acknowledged with what arrived.

    Args:
        studies: as their modalities know them.
        arrivals: in the destination, in order.
        tasks: how many the node made, by Study Instance UID.
    """
    acknowledged = {uid: at for one in studies for uid, at in one.acknowledged.items()}
    reported, pictured = _first_about(arrivals, reports=True), _first_about(arrivals, reports=False)
    waited = [
        max(found) - max(one.acknowledged.values())
        for one in studies
        if (found := [reported[uid] for uid in one.acknowledged if uid in reported])
    ]
    explained = acknowledged.keys() & pictured.keys() & reported.keys()
    return Verdict(
        sent=sum(max(len(one.acknowledged), bool(one.tries)) for one in studies),
        tries=sum(one.tries for one in studies),
        acknowledged=len(acknowledged),
        explained=len(explained),
        reported=len((acknowledged.keys() & reported.keys()) - explained),
        lost=tuple(sorted(acknowledged.keys() - reported.keys())),
        doubled=tuple(sorted(_doubled(arrivals, tasks))),
        arrivals=len(arrivals),
        repeated=len(arrivals) - len({(one.uid, one.digest) for one in arrivals}),
        seconds=percentiles(waited),
        store_seconds=percentiles(second for one in studies for second in one.seconds),
    )


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """The 50th, 95th and 99th, and the largest; by nearest rank; empty for no values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    ranks = {f"p{part}": math.ceil(part / 100 * len(ordered)) - 1 for part in (50, 95, 99)}
    return {name: ordered[rank] for name, rank in ranks.items()} | {"max": ordered[-1]}


def _first_about(arrivals: Iterable[Arrival], *, reports: bool) -> dict[str, float]:
    """When the first report, or picture, about each SOP Instance UID came."""
    found: dict[str, float] = {}
    for one in arrivals:
        if (one.modality == REPORT) is reports:
            for uid in one.about:
                found.setdefault(uid, one.at)
    return found


def _doubled(arrivals: Iterable[Arrival], tasks: Mapping[str, int]) -> list[str]:
    contents: dict[str, set[str]] = defaultdict(set)
    pictures: dict[tuple[str, int], set[str]] = defaultdict(set)
    reports: dict[str, set[str]] = defaultdict(set)
    for one in arrivals:
        contents[one.uid].add(one.digest)
        if one.modality == REPORT:
            reports[one.study].add(one.uid)
        else:
            for uid in one.about:
                pictures[uid, one.series_number].add(one.uid)
    return [
        *(f"{uid}: {len(seen)} contents" for uid, seen in contents.items() if len(seen) > 1),
        *(f"{uid}: {len(seen)} objects of series {of}" for (uid, of), seen in pictures.items() if len(seen) > 1),
        *(
            f"{study}: {len(seen)} reports of {tasks.get(study, 0)} tasks"
            for study, seen in reports.items()
            if len(seen) > tasks.get(study, 0)
        ),
    ]
