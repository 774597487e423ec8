"""A FHIR export and an adapter to events: a MEDS 0.4 dataset, coverage and quarantine."""

from ehr_tl.convert.adapter import adapter_names, load_adapter
from ehr_tl.convert.conversion import convert
from ehr_tl.convert.coverage import coverage_text

__all__ = ["adapter_names", "convert", "coverage_text", "load_adapter"]
