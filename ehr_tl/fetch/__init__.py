"""A FHIR server's Bulk Data export to a folder that `ehr_tl.convert` reads."""

from ehr_tl.fetch.fetching import Fetched, fetch

__all__ = ["Fetched", "fetch"]
