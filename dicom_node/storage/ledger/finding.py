"""Ledger, for somebody who looks for a study: by a part of its UID, or by hashes of what it is known by elsewhere."""

from collections.abc import Iterable

from sqlalchemy import Column, Index, Table, select, union

from dicom_node.storage.ledger.schema import KEY, UID, instances, metadata, studies
from dicom_node.storage.ledger.store import Store, insert_missing

search_terms = Table(
    "search_terms",
    metadata,
    Column("term", KEY, primary_key=True),  # storage.search_terms
    Column("study_instance_uid", UID, primary_key=True),
    Index("search_terms_by_study", "study_instance_uid"),
)


class Finding(Store):
    """Which studies somebody may mean."""

    def add_terms(self, study_instance_uid: str, terms: Iterable[str]) -> None:
        """Record by what a study can be found; what is recorded already stays."""
        with self._write() as connection:
            for one in sorted(set(terms)):
                insert_missing(connection, search_terms, {"term": one, "study_instance_uid": study_instance_uid})

    def find(self, *, prefix: str = "", term: str = "", limit: int = 50) -> list[str]:
        """Study Instance UIDs that begin with `prefix`, or that were recorded with `term`; sorted.

        Args:
            prefix: of the UID: digits and dots; empty looks for none.
            term: as of `storage.search_terms`; empty looks for none.
            limit: most of them.
        """
        queries = []
        if prefix:
            for table in (studies, instances):
                uid = table.c.study_instance_uid
                queries.append(select(uid).where(uid.startswith(prefix, autoescape=True)))
        if term:
            queries.append(select(search_terms.c.study_instance_uid).where(search_terms.c.term == term))
        if not queries:
            return []
        with self._read() as connection:
            found = connection.execute(union(*queries).order_by("study_instance_uid").limit(limit))
            return list(found.scalars())
