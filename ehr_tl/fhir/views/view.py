"""Compiled ViewDefinitions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from ehr_tl.errors import AdapterError
from ehr_tl.fhir.views.definition import read_definition
from ehr_tl.fhir.views.rows import Row, Rows, compile_rows
from ehr_tl.fhir.views.shapes import Shape
from ehr_tl.fhir.views.values import Node, RowError, element


class View:
    """A compiled ViewDefinition.

    Attributes:
        resource: The type of resource that it reads.
        columns: Names of the columns.
        definition: The ViewDefinition.
    """

    def __init__(self, definition: dict[str, Any]):
        self.definition = definition
        try:
            self._checked = read_definition(definition)
            self._dict_rows, _ = compile_rows(self._checked, structs=False)
        except RecursionError:
            raise AdapterError("The view is nested too deeply") from None
        self.resource = self._checked.resource
        self.columns = tuple(column.name for column in self._checked.select.every_column)

    def __reduce__(self) -> tuple[Any, ...]:
        """A view that is sent to another process is compiled there."""
        return compile_view, (self.definition,)

    def rows(self, resource: dict[str, Any] | Node) -> list[Row]:
        """The rows of one resource.

        Args:
            resource: As JSON decodes, or as a `Reader` that was made for this view does.

        Returns:
            Values in the order of `columns`. A column without `collection` holds None or a primitive.

        Raises:
            RowError: The resource does not fit.
        """
        try:
            return self._dict_rows(resource) if resource.__class__ is dict else self._struct_rows(resource)
        except RowError as error:
            name = f"{element(resource, 'resourceType')}/{element(resource, 'id')}"
            raise RowError(f"{name} does not fit the view: {error.problem}", fix=error.fix) from None

    @property
    def shape(self) -> Shape:
        """What it names of a resource.

        Raises:
            Unfit: Structs do not give what it reads.
        """
        return self._for_structs[1]

    @cached_property
    def _struct_rows(self) -> Rows:
        return self._for_structs[0]

    @cached_property
    def _for_structs(self) -> tuple[Rows, Shape]:
        return compile_rows(self._checked, structs=True)


def compile_view(view: dict[str, Any]) -> View:
    """Compiles a ViewDefinition.

    Raises:
        AdapterError: It is wrong or uses what the shareable profile does not have; names the element.
    """
    return View(view)


def run_view(view: dict[str, Any], resources: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs a SQL-on-FHIR ViewDefinition over decoded resources; those of other types are passed over.

    Args:
        view: The ViewDefinition, as JSON gives it.
        resources: Decoded FHIR resources.

    Returns:
        One dict per row, keys in the order of the view's columns.

    Raises:
        AdapterError: The view is wrong or uses what its shareable profile does not have.
        RowError: A resource does not fit the view.

    Examples:
        >>> view = {"resource": "Patient", "select": [{"column": [{"name": "born", "path": "birthDate"}]}]}
        >>> run_view(view, [{"resourceType": "Patient", "birthDate": "1970"}, {"resourceType": "Group"}])
        [{'born': '1970'}]
    """
    compiled = compile_view(view)
    return [
        dict(zip(compiled.columns, row))
        for resource in resources
        if resource.get("resourceType") == compiled.resource
        for row in compiled.rows(resource)
    ]
