"""Python source, written line by line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Source:
    """The lines of a function. Its variables have names of their own; a view's never become names."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0
        self._names = 0
        self._known: list[dict[str, str]] = [{}]  # expression -> variable, in this block and those around it

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def cut(self, length: int) -> None:
        """Takes lines back."""
        del self._lines[length:]

    def line(self, text: str) -> None:
        self._lines.append(" " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What is written inside is below `head`, such as `if x:`."""
        self.line(head)
        start = len(self)
        self._depth += 1
        self._known.append({})
        yield
        if len(self) == start:
            self.line("pass")
        self._known.pop()
        self._depth -= 1

    def name(self) -> str:
        """A variable that nothing else uses."""
        self._names += 1
        return f"v{self._names}"

    def let(self, code: str) -> str:
        """A variable that holds what an expression gives; it is computed once."""
        if code.isidentifier():
            return code
        for known in self._known:
            if code in known:
                return known[code]
        name = self._known[-1][code] = self.name()
        self.line(f"{name} = {code}")
        return name
