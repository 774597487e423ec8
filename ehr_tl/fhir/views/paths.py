"""FHIRPath trees compiled to Python functions over decoded JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ehr_tl.fhir.references import reference_key
from ehr_tl.fhir.views.collections import Evaluate, boolean, is_empty, items, one, text_of
from ehr_tl.fhir.views.moments import boundary
from ehr_tl.fhir.views.operators import ARITHMETIC, COMPARISONS, arithmetic, comparison, equality, indexed, logic, minus
from ehr_tl.fhir.views.parse import (
    Binary,
    Call,
    Constant,
    Expression,
    Index,
    Literal,
    Member,
    Minus,
    PathError,
    This,
)
from ehr_tl.fhir.views.types import CHOICES, DATA_TYPES, SUFFIXES, TEMPORAL

ROW_INDEX = Constant("rowIndex")


def compile_tree(tree: Expression, constants: Mapping[str, Literal]) -> Evaluate:
    """Compiles an expression; `constants` are those of the view.

    Raises:
        PathError: It names an unknown constant or function.
    """
    return _Compiler(constants).compile(tree)


def _step(node: Any, name: str) -> list | None:
    """Element `name` of all items of a list; a primitive has none."""
    if node.__class__ is not list:
        return None
    found: list = []
    for item in node:
        value = item.get(name) if item.__class__ is dict else None
        if value.__class__ is list:
            found += value
        elif value is not None:
            found.append(value)
    return found


def _each(base: Evaluate, read: Callable[[Any], Any]) -> Evaluate:
    """`read` applied to every item of `base`."""

    def evaluate(node: Any, index: int) -> Any:
        value = base(node, index)
        if value.__class__ is not list:
            return None if value is None else read(value)
        return [found for item in items(value) for found in items(read(item))]

    return evaluate


class _Compiler:
    def __init__(self, constants: Mapping[str, Literal]):
        self.constants = constants

    def compile(self, tree: Expression) -> Evaluate:
        match tree:
            case This():
                return lambda node, index: node
            case Literal(value):
                return lambda node, index: value
            case Constant("rowIndex"):
                return lambda node, index: index
            case Constant():
                return self.compile(self.constant(tree))
            case Member(base, name) if name in CHOICES:
                return _each(self.compile(base), lambda item: _choice(item, name))
            case Member(_, name) if _is_type(tree):
                return lambda node, index: node if _get(node, "resourceType") == name else None
            case Member():
                return self.members(tree)
            case Index(base, position):
                return indexed(self.compile(base), self.compile(position))
            case Call():
                return self.call(tree)
            case Minus(operand):
                return minus(self.compile(operand))
            case Binary():
                return self.binary(tree)
        raise PathError(f"{tree} cannot be compiled")

    def constant(self, tree: Constant) -> Literal:
        if tree.name not in self.constants:
            raise PathError(f"the view declares no constant %{tree.name}")
        return self.constants[tree.name]

    def members(self, tree: Expression) -> Evaluate:
        """A chain of plain elements, in one function: most of the time of a view is spent here."""
        names: list[str] = []
        while isinstance(tree, Member) and tree.name not in CHOICES and not _is_type(tree):
            names.insert(0, tree.name)
            tree = tree.base

        walk = _walk(names)
        if isinstance(tree, This):
            return walk
        base = self.compile(tree)
        return lambda node, index: walk(base(node, index), index)

    def call(self, tree: Call) -> Evaluate:
        function = _FUNCTIONS.get(tree.function)
        if function is None:
            raise PathError(f"{tree.function}() is not a function that views may use ({', '.join(_FUNCTIONS)})")
        compiled, fewest, most = function
        if not fewest <= len(tree.arguments) <= most:
            number = str(most) if fewest == most else f"{fewest} to {most}"
            raise PathError(f"{tree.function}() takes {number} arguments")
        return compiled(self, tree)

    def binary(self, tree: Binary) -> Evaluate:
        left, right = self.compile(tree.left), self.compile(tree.right)
        match tree.operator:
            case "and":
                return logic(left, right, decides=False)
            case "or":
                return logic(left, right, decides=True)
            case "=":
                return equality(left, right, self.temporal(tree.left) or self.temporal(tree.right), wanted=True)
            case "!=":
                return equality(left, right, self.temporal(tree.left) or self.temporal(tree.right), wanted=False)
            case "<" | ">" | "<=" | ">=":
                return comparison(left, right, COMPARISONS[tree.operator])
            case "&":
                return lambda node, index: "".join(text_of(one(side(node, index))) for side in (left, right))
        return arithmetic(left, right, ARITHMETIC[tree.operator])

    def temporal(self, tree: Expression) -> bool:
        """Whether a value is known to be a date or time."""
        match tree:
            case Literal():
                return tree.temporal
            case Constant(name) if name in self.constants:
                return self.constants[name].temporal
            case Call(_, "ofType", (argument,)):
                return _type_name(argument) in TEMPORAL
        return False

    # Functions. Each takes the call and gives what evaluates it.

    def where(self, tree: Call) -> Evaluate:
        base, test = self.compile(tree.base), self.compile(tree.arguments[0])

        def evaluate(node: Any, index: int) -> Any:
            value = base(node, index)
            if value.__class__ is list:
                return [item for item in value if item is not None and boolean(test(item, index))]
            return value if value is not None and boolean(test(value, index)) else None

        return evaluate

    def exists(self, tree: Call) -> Evaluate:
        base = self.where(tree) if tree.arguments else self.compile(tree.base)
        return lambda node, index: not is_empty(base(node, index))

    def empty(self, tree: Call) -> Evaluate:
        base = self.compile(tree.base)
        return lambda node, index: is_empty(base(node, index))

    def first(self, tree: Call) -> Evaluate:
        base = self.compile(tree.base)

        def evaluate(node: Any, index: int) -> Any:
            value = base(node, index)
            return next((item for item in value if item is not None), None) if value.__class__ is list else value

        return evaluate

    def not_(self, tree: Call) -> Evaluate:
        base = self.compile(tree.base)

        def evaluate(node: Any, index: int) -> bool | None:
            value = boolean(base(node, index))
            return None if value is None else not value

        return evaluate

    def join(self, tree: Call) -> Evaluate:
        base = self.compile(tree.base)
        separator = self.compile(tree.arguments[0]) if tree.arguments else lambda node, index: ""

        def evaluate(node: Any, index: int) -> str | None:
            found = [text_of(item) for item in items(base(node, index))]
            return text_of(one(separator(node, index))).join(found) if found else None

        return evaluate

    def low_boundary(self, tree: Call) -> Evaluate:
        return self.boundary(tree.base, high=False)

    def high_boundary(self, tree: Call) -> Evaluate:
        return self.boundary(tree.base, high=True)

    def boundary(self, tree: Expression, high: bool) -> Evaluate:
        base = self.compile(tree)
        match tree:
            case Call(_, "ofType", (argument,)):
                with_time = _type_name(argument) in ("dateTime", "instant")
            case _:
                with_time = False

        def evaluate(node: Any, index: int) -> Any:
            value = one(base(node, index))
            return None if value is None else boundary(value, high, with_time)

        return evaluate

    def extension(self, tree: Call) -> Evaluate:
        return self.where(Call(Member(tree.base, "extension"), "where", (Binary("=", _URL, tree.arguments[0]),)))

    def of_type(self, tree: Call) -> Evaluate:
        name = _type_name(tree.arguments[0])
        if name not in DATA_TYPES and isinstance(tree.base, Member) and tree.base.name in CHOICES:
            raise PathError(f"{name} is no data type that {tree.base.name} may take")
        if name not in DATA_TYPES:
            return _each(self.compile(tree.base), lambda item: item if _get(item, "resourceType") == name else None)
        if not isinstance(tree.base, Member):
            raise PathError(f"ofType({name}) must directly follow the name of an element, as in value.ofType({name})")
        return self.members(Member(tree.base.base, tree.base.name + name[0].upper() + name[1:]))

    def resource_key(self, tree: Call) -> Evaluate:
        return _each(self.compile(tree.base), lambda item: _get(item, "id"))

    def reference_key(self, tree: Call) -> Evaluate:
        wanted = _type_name(tree.arguments[0]) if tree.arguments else None

        def read(item: Any) -> str | None:
            reference = _get(item, "reference")
            if reference.__class__ is not str:
                return None
            kind, key = reference_key(reference)
            return key if wanted is None or (kind or _get(item, "type") or wanted) == wanted else None

        return _each(self.compile(tree.base), read)


#: Name in FHIRPath, what compiles a call, fewest and most arguments.
_FUNCTIONS: dict[str, tuple[Callable[[_Compiler, Call], Evaluate], int, int]] = {
    "where": (_Compiler.where, 1, 1),
    "exists": (_Compiler.exists, 0, 1),
    "empty": (_Compiler.empty, 0, 0),
    "first": (_Compiler.first, 0, 0),
    "not": (_Compiler.not_, 0, 0),
    "join": (_Compiler.join, 0, 1),
    "lowBoundary": (_Compiler.low_boundary, 0, 0),
    "highBoundary": (_Compiler.high_boundary, 0, 0),
    "extension": (_Compiler.extension, 1, 1),
    "ofType": (_Compiler.of_type, 1, 1),
    "getResourceKey": (_Compiler.resource_key, 0, 0),
    "getReferenceKey": (_Compiler.reference_key, 0, 1),
}
_URL = Member(This(), "url")


def _walk(names: list[str]) -> Evaluate:
    """Reads one element below another; the commonest depths, one and two, without a loop."""
    name, *below = names or [None]

    def walk(node: Any, index: int) -> Any:
        for name in names:
            if node.__class__ is dict:
                node = node.get(name)
            elif node is None:
                return None
            else:
                node = _step(node, name)
        return node

    def element(node: Any, index: int) -> Any:
        if node.__class__ is dict:
            return node.get(name)
        return None if node is None else _step(node, name)

    if len(names) == 1:
        return element
    if len(names) != 2:
        return walk
    inner = below[0]

    def part(node: Any, index: int) -> Any:
        node = node.get(name) if node.__class__ is dict else element(node, index)
        if node is None:
            return None
        return node.get(inner) if node.__class__ is dict else _step(node, inner)

    return part


def _is_type(tree: Expression) -> bool:
    """A path may begin with the type of the resource: `Patient.name`."""
    return isinstance(tree, Member) and isinstance(tree.base, This) and tree.name[0].isupper()


def _type_name(tree: Expression) -> str:
    match tree:
        case Member(This() | Member(This(), "FHIR" | "System"), name):
            return name
    raise PathError("the name of a type is needed, as in ofType(Quantity) or getReferenceKey(Patient)")


def _get(item: Any, name: str) -> Any:
    return item.get(name) if item.__class__ is dict else None


def _choice(item: Any, name: str) -> Any:
    """Element `name[x]`, whatever its type."""
    if item.__class__ is not dict:
        return None
    if name in item:
        return item[name]
    start = len(name)
    return next((item[key] for key in item if key[start:] in SUFFIXES and key.startswith(name)), None)
