"""SQL-on-FHIR ViewDefinitions (https://sql-on-fhir.org, `shareable` profile), compiled once and run over dicts."""

from ehr_tl.fhir.views.collections import RowError
from ehr_tl.fhir.views.view import View, compile_view, run_view

__all__ = ["RowError", "View", "compile_view", "run_view"]
