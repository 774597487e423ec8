"""The text of a FHIRPath expression (https://hl7.org/fhirpath/N1) as a tree; the part of it that views may use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class PathError(ValueError):
    """An expression is no FHIRPath, or uses what the shareable profile of views does not have."""


@dataclass(frozen=True)
class Expression:
    """A node of the tree."""


@dataclass(frozen=True)
class Literal(Expression):
    """`temporal`: the value is text that means a date or time."""

    value: str | int | float | bool | None
    temporal: bool = False


@dataclass(frozen=True)
class Constant(Expression):
    name: str


@dataclass(frozen=True)
class This(Expression):
    """`$this`, and the start of every path."""


@dataclass(frozen=True)
class Member(Expression):
    base: Expression
    name: str


@dataclass(frozen=True)
class Index(Expression):
    base: Expression
    position: Expression


@dataclass(frozen=True)
class Call(Expression):
    base: Expression
    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True)
class Binary(Expression):
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Minus(Expression):
    operand: Expression


def parse(text: str) -> Expression:
    """Reads an expression.

    Raises:
        PathError: It cannot be read; says where.

    Examples:
        >>> parse("a.b[0]")
        Index(base=Member(base=Member(base=This(), name='a'), name='b'), position=Literal(value=0, temporal=False))
        >>> parse("a.b +")
        Traceback (most recent call last):
        ehr_tl.fhir.views.parse.PathError: the expression ends too early
    """
    return _Parser(text).parse()


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


_TOKENS = re.compile(
    r"""\s*(?:
    (?P<time>@T?\d[\dT:.+\-]*Z?)
  | (?P<number>\d+(?:\.\d+)?)
  | (?P<string>'(?:[^'\\]|\\.)*')
  | (?P<constant>%(?:`[^`]+`|[A-Za-z_]\w*))
  | (?P<name>[A-Za-z_]\w*|`[^`]+`)
  | (?P<symbol>\$this\b|<=|>=|!=|[.,()\[\]=<>+\-*/&])
    )""",
    re.VERBOSE | re.DOTALL,
)

#: How tightly the operators bind.
_BINDING = {
    **dict.fromkeys(["or"], 1),
    **dict.fromkeys(["and"], 2),
    **dict.fromkeys(["=", "!="], 3),
    **dict.fromkeys(["<", ">", "<=", ">="], 4),
    **dict.fromkeys(["+", "-", "&"], 5),
    **dict.fromkeys(["*", "/", "div", "mod"], 6),
}
_SIGN = 7

_DIGITS = 100
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}


def _tokens(text: str) -> list[_Token]:
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKENS.match(text, at)
        if match is None:
            raise PathError(f"nothing in FHIRPath is written like {text[at:].strip()[:20]!r}")
        found.append(_Token(match.lastgroup or "", match[match.lastgroup or 0], match.start(match.lastgroup or 0)))
        at = match.end()
    return found


class _Parser:
    def __init__(self, text: str):
        self.tokens = _tokens(text)
        self.next = 0

    def parse(self) -> Expression:
        tree = self.expression()
        if self.next < len(self.tokens):
            raise PathError(f"{self.tokens[self.next].text!r} cannot stand at position {self.tokens[self.next].at + 1}")
        return tree

    def peek(self) -> str:
        """The next token's text, as far as it may be an operator."""
        token = self.tokens[self.next] if self.next < len(self.tokens) else _Token("", "", 0)
        return token.text if token.kind in ("symbol", "name") else ""

    def take(self) -> _Token:
        if self.next == len(self.tokens):
            raise PathError("the expression ends too early")
        self.next += 1
        return self.tokens[self.next - 1]

    def expect(self, symbol: str) -> None:
        token = self.take()
        if token.text != symbol:
            raise PathError(f"expected {symbol!r} instead of {token.text!r} at position {token.at + 1}")

    def expression(self, binding: int = 0) -> Expression:
        left = self.operand()
        while (strength := _BINDING.get(self.peek(), 0)) > binding:
            left = Binary(self.take().text, left, self.expression(strength))
        return left

    def operand(self) -> Expression:
        if self.peek() in ("-", "+"):
            sign = self.take().text
            operand = self.expression(_SIGN)
            return Minus(operand) if sign == "-" else operand
        tree = self.term()
        while self.peek() in (".", "["):
            if self.take().text == ".":
                tree = self.name(tree, self.take())
            else:
                tree = Index(tree, self.expression())
                self.expect("]")
        return tree

    def term(self) -> Expression:
        token = self.take()
        match token.kind:
            case "string":
                return Literal(re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescape, token.text[1:-1], flags=re.DOTALL))
            case "number":
                return Literal(_number(token))
            case "time":
                return Literal(token.text[1:].removeprefix("T"), temporal=True)
            case "constant":
                return Constant(token.text[1:].strip("`"))
            case "name" if token.text in ("true", "false"):
                return Literal(token.text == "true")
            case "name":
                return self.name(This(), token)
        if token.text == "$this":
            return This()
        if token.text == "(":
            tree = self.expression()
            self.expect(")")
            return tree
        raise PathError(f"{token.text!r} cannot stand at position {token.at + 1}")

    def name(self, base: Expression, token: _Token) -> Expression:
        if token.kind != "name":
            raise PathError(f"expected a name instead of {token.text!r} at position {token.at + 1}")
        if self.peek() != "(" or token.text.startswith("`"):
            return Member(base, token.text.strip("`"))
        self.take()
        arguments: list[Expression] = []
        while self.peek() != ")":
            if arguments:
                self.expect(",")
            arguments.append(self.expression())
        self.take()
        return Call(base, token.text, tuple(arguments))


def _number(token: _Token) -> int | float:
    if len(token.text) > _DIGITS:
        raise PathError(f"the number at position {token.at + 1} is too long")
    return float(token.text) if "." in token.text else int(token.text)


def _unescape(match: re.Match) -> str:
    sign = match[1]
    return chr(int(sign[1:], 16)) if len(sign) > 1 else _ESCAPES.get(sign, sign)
