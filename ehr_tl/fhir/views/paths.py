"""FHIRPath trees compiled to Python source.

One compiler writes for two forms of a resource: dicts, as JSON decodes, and the structs of a `Reader`. They differ in
how an element is read, and in what is certain of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ehr_tl.fhir.views.definition import ROW_INDEX
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
from ehr_tl.fhir.views.shapes import BOOLEAN, PRIMITIVE, TEXT, Shape, Unfit
from ehr_tl.fhir.views.source import Source
from ehr_tl.fhir.views.types import CHOICES, DATA_TYPES, MANY, ONCE, TEMPORAL, choices, is_choice, typed
from ehr_tl.fhir.views.values import attribute


@dataclass(frozen=True)
class Value:
    """Source of a collection; an expression without side effects.

    Attributes:
        code: The expression.
        shapes: Of the elements in it: one, several for a choice of types, none where it is computed. Structs only.
        node: It is one element, for certain; if it has parts it is no list and no primitive.
        single: It is no list.
        listed: Being a `field`, it is None or a list of elements, without nulls.
        field: It is what one element of a struct holds, so that its class can be what the element is taken for.
        known: It is of that class, or None; `int` is never None, `object` is any primitive.
        name: Name in JSON of the elements, or the resource's type, where that is known.
        guard: Writes a test that must be true of the element that the path starts from; else there is nothing. It is
            not asked where there is nothing anyway.
    """

    code: str
    shapes: tuple[Shape, ...] = ()
    node: bool = False
    single: bool = False
    listed: bool = False
    field: bool = False
    known: type | None = None
    name: str | None = None
    guard: Callable[[], str] | None = None


@dataclass(frozen=True)
class Here:
    """Where an expression starts: an element, and source of the index of its row."""

    this: Value
    index: str


class Paths:
    """Writes what expressions compute.

    Args:
        source: Gets the lines.
        constants: Those of the view.
        structs: For structs, not for dicts.
    """

    def __init__(self, source: Source, constants: Mapping[str, Literal], structs: bool):
        self.source, self.constants, self.structs = source, constants, structs

    def value(self, tree: Expression, here: Here) -> Value:
        """What an expression gives.

        Raises:
            PathError: It names an unknown constant or function, or uses one wrongly.
            Unfit: Structs do not give what it reads.
        """
        return self.settled(self.guarded(tree, here))

    def guarded(self, tree: Expression, here: Here) -> Value:
        """The same, with a test that is still to be made."""
        match tree:
            case This():
                return here.this
            case Literal(value):
                return Value(_literal(value), single=True, known=type(value))
            case Constant():
                if tree == ROW_INDEX:
                    return Value(here.index, single=True, known=int)
                return self.value(self.constant(tree), here)
            case Member(This(), name) if name[0].isupper():  # `Patient.name`: a path may begin with the type
                return self.of_resource(here.this, name)
            case Member(base, name):
                owner = self.guarded(base, here)
                if is_choice(name, owner.name):
                    return self.choice(owner, name)
                return self.member(owner, name, name in ONCE)
            case Index(base, position):
                found = self.value(base, here)
                at = self.whole(self.value(position, here), PRIMITIVE)
                return self.picked(found, f"at({found.code}, {at})")
            case Call():
                return self.call(tree, here)
            case Minus(operand):
                return self.arithmetic("-", Value("0", known=int), self.value(operand, here))
            case Binary():
                return self.binary(tree, here)
        raise PathError(f"{tree} cannot be compiled")

    def constant(self, tree: Constant) -> Literal:
        if tree.name not in self.constants:
            raise PathError(f"the view declares no constant %{tree.name}")
        return self.constants[tree.name]

    def settled(self, value: Value) -> Value:
        """Makes the test that is still to be made."""
        if value.guard is None:
            return value
        source, code = self.source, self.source.let(value.code)
        if value.node:
            return replace(value, code=f"({code} if {value.guard()} else None)", node=False, guard=None)
        result = source.name()
        source.line(f"{result} = {code}")
        with source.block(f"if {result} is not None:"):
            source.line(f"if not {value.guard()}: {result} = None")
        return replace(value, code=result, guard=None)

    def whole(self, value: Value, kind: str, certain: bool = False) -> str:
        """Source of a value that is looked at as what `kind` says.

        Args:
            certain: If it is a `field`, it must be that or None, and no list.
        """
        for shape in value.shapes:
            shape.take_for(kind if len(value.shapes) == 1 else PRIMITIVE)
            shape.once = shape.once or (certain and value.field)
        return value.code

    def picked(self, base: Value, code: str) -> Value:
        """One item of a collection; in JSON that may be a list in a list."""
        return replace(base, code=code, node=False, single=self.structs, field=False)

    # Elements.

    def member(self, base: Value, name: str, once: bool) -> Value:
        shapes = tuple(shape.part(name, once, name in MANY) for shape in base.shapes)
        code = self.source.let(base.code)
        plain = f"{code}.{attribute(name)}" if self.structs else f"{code}.get({name!r})"
        gathered = f"step({code}, {name!r})"
        if base.node and (shapes or not self.structs):
            read = plain
        elif len(shapes) == 1:
            read = f"None if {code} is None else {plain}"
            read = f"({read})" if base.single else f"({read} if {code}.__class__ is not list else {gathered})"
        elif self.structs:
            read = gathered
        else:
            read = f"(None if {code} is None else {plain} if {code}.__class__ is dict else {gathered})"
        field = len(shapes) == 1 and (base.node or base.single)
        return Value(read, shapes, single=field and once, listed=name in MANY, field=field, name=name, guard=base.guard)

    def choice(self, base: Value, name: str) -> Value:
        if len(base.shapes) > 1:
            raise Unfit("a choice of types below another")
        names = choices(name, base.name)
        shapes = tuple(shape.part(each) for shape in base.shapes for each in names)
        return Value(f"choice({base.code}, {names!r})", shapes, name=name, guard=base.guard)

    def of_resource(self, base: Value, name: str) -> Value:
        for shape in base.shapes:
            shape.part("resourceType").take_for(TEXT)
        single = base.node or base.single
        return replace(base, code=f"of_resource({base.code}, {name!r})", node=False, single=single, field=False)

    @contextmanager
    def each(self, base: Value) -> Iterator[Value]:
        """A block that is run for every item of a collection."""
        code = self.source.let(base.code)
        item = self.source.name()
        with self.source.block(f"for {item} in items({code}):"):
            yield replace(base, code=item, node=self.structs, single=self.structs, field=False)

    # Conditions.

    def boolean(self, tree: Expression, here: Here) -> str:
        """Source of True, False or None."""
        return self.truth(self.value(tree, here))

    def truth(self, value: Value) -> str:
        code = self.whole(value, BOOLEAN, certain=True)
        return code if value.known is bool or value.field else f"boolean({code})"

    def test(self, tree: Expression, here: Here) -> str:
        """Source of a condition that is true if the expression is; where that is open, it is not."""
        match tree:
            case Binary("and" | "or" as operator):
                return self.all_or_any(operator, _operands(tree, operator), here)
            case Binary("="):
                return self.equality(tree, here)
            case Call(_, "exists" | "empty"):
                return self.value(tree, here).code
        return self.boolean(tree, here)

    def all_or_any(self, operator: str, tests: list[Expression], here: Here) -> str:
        """`and` or `or` of tests; what a test needs is computed only where those before it leave it open."""
        source = self.source
        known = self.test(tests[0], here)
        for tree in tests[1:]:
            before, result = len(source), source.name()
            source.line(f"{result} = {known}")
            with source.block(f"if {result}:" if operator == "and" else f"if not {result}:"):
                start = len(source)
                test = self.test(tree, here)
                computes = len(source) > start
                source.line(f"{result} = {test}")
            if computes:
                known = result
            else:
                source.cut(before)
                known = f"{known} {operator} {test}"
        return f"({known})"

    def logic(self, tree: Binary, here: Here) -> Value:
        """Three-valued `and` (False decides) and `or` (True decides)."""
        decides = tree.operator == "or"
        result = self.source.name()
        self.source.line(f"{result} = {self.boolean(tree.left, here)}")
        with self.source.block(f"if {result} is not {decides}:"):
            right = self.source.let(self.boolean(tree.right, here))
            self.source.line(f"{result} = {right} if {result} is {not decides} or {right} is {decides} else None")
        return Value(result, single=True, known=bool)

    def equality(self, tree: Binary, here: Here) -> str:
        left, right = self.value(tree.left, here), self.value(tree.right, here)
        temporal = self.temporal(tree.left) or self.temporal(tree.right)
        if self.is_text(tree.left) and not temporal:
            return self.equal_text(right, left.code)
        if self.is_text(tree.right) and not temporal:
            return self.equal_text(left, right.code)
        return f"equal({self.whole(left, PRIMITIVE)}, {self.whole(right, PRIMITIVE)}, {temporal})"

    def equal_text(self, value: Value, text: str) -> str:
        code = self.source.let(self.whole(value, TEXT, certain=True))
        if value.field:
            return f"({code} == {text} if {code} is not None else None)"
        return f"({code} == {text} if {code}.__class__ is str else equal({code}, {text}, False))"

    def is_text(self, tree: Expression) -> bool:
        match tree:
            case Literal(value):
                return isinstance(value, str)
            case Constant() if tree != ROW_INDEX:
                return self.is_text(self.constant(tree))
        return False

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

    def binary(self, tree: Binary, here: Here) -> Value:
        match tree.operator:
            case "and" | "or":
                return self.logic(tree, here)
            case "=":
                return Value(self.equality(tree, here), single=True, known=bool)
            case "!=":
                return Value(f"opposite({self.equality(tree, here)})", single=True, known=bool)
        left, right = self.value(tree.left, here), self.value(tree.right, here)
        if tree.operator in ("<", ">", "<=", ">=", "&"):
            sides = self.whole(left, PRIMITIVE), self.whole(right, PRIMITIVE)
            if tree.operator == "&":
                return Value(f"together({', '.join(sides)})", single=True, known=str)
            return Value(f"compared({', '.join(sides)}, {tree.operator!r})", single=True, known=bool)
        return self.arithmetic(tree.operator, left, right)

    def arithmetic(self, operator: str, left: Value, right: Value) -> Value:
        if left.known is right.known is int and operator in ("+", "-", "*"):
            return Value(f"({left.code} {operator} {right.code})", single=True, known=int)
        sides = self.whole(left, PRIMITIVE), self.whole(right, PRIMITIVE)
        return Value(f"computed({', '.join(sides)}, {operator!r})", single=True, known=object)

    # Functions.

    def call(self, tree: Call, here: Here) -> Value:
        function = _FUNCTIONS.get(tree.function)
        if function is None:
            raise PathError(f"{tree.function}() is not a function that views may use ({', '.join(_FUNCTIONS)})")
        write, fewest, most = function
        if not fewest <= len(tree.arguments) <= most:
            number = str(most) if fewest == most else f"{fewest} to {most}"
            raise PathError(f"{tree.function}() takes {number} arguments")
        return write(self, tree, here)

    def where(self, tree: Call, here: Here) -> Value:
        base = self.value(tree.base, here)
        if base.node:
            return replace(base, guard=lambda: self.test(tree.arguments[0], Here(base, here.index)))
        code, found = self.source.let(base.code), self.source.name()
        self.source.line(f"{found} = []")
        with self.each(replace(base, code=code)) as item:
            test = self.test(tree.arguments[0], Here(item, here.index))
            self.source.line(f"if {test}: {found}.append({item.code})")
        return replace(base, code=found, node=False, single=False, field=False)

    def exists(self, tree: Call, here: Here) -> Value:
        return Value(f"(not {self.nothing(tree, here)})", single=True, known=bool)

    def empty(self, tree: Call, here: Here) -> Value:
        return Value(self.nothing(tree, here), single=True, known=bool)

    def nothing(self, tree: Call, here: Here) -> str:
        """Source of whether there is nothing that a call of exists() or empty() would count."""
        base = self.settled(self.where(tree, here)) if tree.arguments else self.value(tree.base, here)
        if base.single or base.field:
            code = self.source.let(base.code)
            return f"({code} is None or {code}.__class__ is list and is_empty({code}))"
        return f"is_empty({base.code})"

    def first(self, tree: Call, here: Here) -> Value:
        base = self.value(tree.base, here)
        return self.picked(base, f"first({base.code})")

    def not_(self, tree: Call, here: Here) -> Value:
        return Value(f"opposite({self.boolean(tree.base, here)})", single=True, known=bool)

    def join(self, tree: Call, here: Here) -> Value:
        base = self.whole(self.value(tree.base, here), PRIMITIVE)
        separator = self.whole(self.value(tree.arguments[0], here), PRIMITIVE) if tree.arguments else "''"
        return Value(f"joined({base}, {separator})", single=True, known=str)

    def low_boundary(self, tree: Call, here: Here) -> Value:
        return self.boundary(tree.base, here, high=False)

    def high_boundary(self, tree: Call, here: Here) -> Value:
        return self.boundary(tree.base, here, high=True)

    def boundary(self, tree: Expression, here: Here, high: bool) -> Value:
        match tree:
            case Call(_, "ofType", (argument,)):
                with_time = _type_name(argument) in ("dateTime", "instant")
            case _:
                with_time = False
        base = self.whole(self.value(tree, here), PRIMITIVE)
        return Value(f"boundary(one({base}), {high}, {with_time})", single=True, known=object)

    def extension(self, tree: Call, here: Here) -> Value:
        test = Binary("=", Member(This(), "url"), tree.arguments[0])
        return self.where(Call(Member(tree.base, "extension"), "where", (test,)), here)

    def of_type(self, tree: Call, here: Here) -> Value:
        name = _type_name(tree.arguments[0])
        base = tree.base
        if name not in DATA_TYPES and isinstance(base, Member) and base.name in CHOICES:
            raise PathError(f"{name} is no data type that {base.name} may take")
        if name not in DATA_TYPES:
            return self.of_resource(self.value(base, here), name)
        if not isinstance(base, Member):
            raise PathError(f"ofType({name}) must directly follow the name of an element, as in value.ofType({name})")
        return self.member(self.guarded(base.base, here), typed(base.name, name), once=True)

    def resource_key(self, tree: Call, here: Here) -> Value:
        return self.member(self.value(tree.base, here), "id", once=True)

    def reference_key(self, tree: Call, here: Here) -> Value:
        wanted = _type_name(tree.arguments[0]) if tree.arguments else None
        base = self.value(tree.base, here)
        for shape in base.shapes:
            shape.part("reference").take_for(TEXT)
            shape.part("type").take_for(TEXT)
        single = base.node or base.single
        return Value(f"referred({base.code}, {wanted!r})", single=single, known=str if single else None)


#: Name in FHIRPath, what writes a call, fewest and most arguments.
_FUNCTIONS: dict[str, tuple[Callable[[Paths, Call, Here], Value], int, int]] = {
    "where": (Paths.where, 1, 1),
    "exists": (Paths.exists, 0, 1),
    "empty": (Paths.empty, 0, 0),
    "first": (Paths.first, 0, 0),
    "not": (Paths.not_, 0, 0),
    "join": (Paths.join, 0, 1),
    "lowBoundary": (Paths.low_boundary, 0, 0),
    "highBoundary": (Paths.high_boundary, 0, 0),
    "extension": (Paths.extension, 1, 1),
    "ofType": (Paths.of_type, 1, 1),
    "getResourceKey": (Paths.resource_key, 0, 0),
    "getReferenceKey": (Paths.reference_key, 0, 1),
}


def _literal(value: str | int | float | bool | None) -> str:
    """A primitive in Python; `repr` gives no more than one literal."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PathError("a number is too large")
    return f"({value!r})" if isinstance(value, int | float) else repr(value)


def _operands(tree: Expression, operator: str) -> list[Expression]:
    """`a`, `b` and `c` of `a or b or c`."""
    found = []
    while isinstance(tree, Binary) and tree.operator == operator:
        found.append(tree.right)
        tree = tree.left
    return [tree, *reversed(found)]


def _type_name(tree: Expression) -> str:
    match tree:
        case Member(This() | Member(This(), "FHIR" | "System"), name):
            return name
    raise PathError("the name of a type is needed, as in ofType(Quantity) or getReferenceKey(Patient)")
