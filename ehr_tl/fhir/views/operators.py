"""The operators of FHIRPath. Nothing on either side gives nothing, unless the other side decides."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from ehr_tl.fhir.views.collections import Evaluate, RowError, boolean, items, one
from ehr_tl.fhir.views.moments import order

COMPARISONS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "div": lambda left, right: math.trunc(left / right),
    "mod": math.fmod,
}


def indexed(base: Evaluate, position: Evaluate) -> Evaluate:
    """`base[position]`."""

    def evaluate(node: Any, index: int) -> Any:
        at = one(position(node, index))
        if at.__class__ is not int:
            raise RowError("the number in [ ] must be an integer")
        found = items(base(node, index))
        return found[at] if 0 <= at < len(found) else None

    return evaluate


def _number(value: Any) -> bool:
    return value.__class__ is int or value.__class__ is float


def minus(operand: Evaluate) -> Evaluate:
    return arithmetic(lambda node, index: 0, operand, operator.sub)


def logic(left: Evaluate, right: Evaluate, decides: bool) -> Evaluate:
    """Three-valued `and` (False decides) and `or` (True decides)."""

    def evaluate(node: Any, index: int) -> bool | None:
        first = boolean(left(node, index))
        if first is decides:
            return decides
        second = boolean(right(node, index))
        if second is decides:
            return decides
        return None if first is None or second is None else not decides

    return evaluate


def equality(left: Evaluate, right: Evaluate, temporal: bool, wanted: bool) -> Evaluate:
    def evaluate(node: Any, index: int) -> bool | None:
        one_side, other = left(node, index), right(node, index)
        if one_side.__class__ is str and other.__class__ is str and not temporal:
            return (one_side == other) is wanted
        one_side, other = items(one_side), items(other)
        if not one_side or not other:
            return None
        if temporal and len(one_side) == len(other) == 1:
            ranked = order(one_side[0], other[0])
            return None if ranked is None else (ranked == 0) is wanted
        return _same(one_side, other) is wanted

    return evaluate


def _same(left: Any, right: Any) -> bool:
    """Equality that keeps true apart from 1."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right and (left.__class__ is bool) is (right.__class__ is bool)


def comparison(left: Evaluate, right: Evaluate, compare: Callable[[Any, Any], bool]) -> Evaluate:
    def evaluate(node: Any, index: int) -> bool | None:
        one_side, other = one(left(node, index)), one(right(node, index))
        if one_side is None or other is None:
            return None
        if _number(one_side) and _number(other):
            return compare(one_side, other)
        if one_side.__class__ is str and other.__class__ is str:
            ranked = order(one_side, other)
            return None if ranked is None else compare(ranked, 0)
        raise RowError("< and > compare two numbers, two texts or two times")

    return evaluate


def arithmetic(left: Evaluate, right: Evaluate, compute: Callable[[Any, Any], Any]) -> Evaluate:
    def evaluate(node: Any, index: int) -> Any:
        one_side, other = one(left(node, index)), one(right(node, index))
        if one_side is None or other is None:
            return None
        if not (_number(one_side) and _number(other)):
            if compute is operator.add and one_side.__class__ is str and other.__class__ is str:
                return one_side + other
            raise RowError("arithmetic needs two numbers")
        try:
            return compute(one_side, other)
        except (ZeroDivisionError, OverflowError, ValueError):
            return None

    return evaluate
