"""SQL-on-FHIR ViewDefinitions (https://sql-on-fhir.org, `shareable` profile), compiled once to Python functions.

A view runs over decoded resources. A `Reader` decodes no more of them than the views name.
"""

from ehr_tl.fhir.views.reader import Reader, compile_reader
from ehr_tl.fhir.views.values import Node, RowError, element, set_element
from ehr_tl.fhir.views.view import View, compile_view, run_view

__all__ = [
    "Node",
    "Reader",
    "RowError",
    "View",
    "compile_reader",
    "compile_view",
    "element",
    "run_view",
    "set_element",
]
