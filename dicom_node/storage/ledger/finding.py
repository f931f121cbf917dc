"""Ledger, for somebody who looks for a study: by hashes of what it is known by elsewhere."""

from collections.abc import Iterable

from sqlalchemy import Column, Index, Table, select

from dicom_node.nouns import StudyInstanceUID
from dicom_node.storage.ledger.schema import KEY, UID, metadata
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

    def find_term(self, term: str, limit: int = 50) -> list[StudyInstanceUID]:
        """Studies that were recorded with a term, in order of their UIDs; at most `limit`."""
        query = select(search_terms.c.study_instance_uid).where(search_terms.c.term == term)
        with self._read() as connection:
            found = connection.execute(query.order_by(search_terms.c.study_instance_uid).limit(limit))
            return [StudyInstanceUID(uid) for uid in found.scalars()]
