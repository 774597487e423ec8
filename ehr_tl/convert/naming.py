"""How events write codes: the short names of code systems, and the canonical form of their codes."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: System of codings that name none.
LOCAL = "LOCAL"


class Naming:
    """Names the codes of an adapter.

    Args:
        names: URL of a code system -> its short name. Several URLs of one name are one system.
        forms: Short name -> form of its codes, see `written`.
    """

    def __init__(self, names: Mapping[str, str], forms: Mapping[str, str]):
        self._names, self._forms = dict(names), dict(forms)
        self._first: dict[str, str] = {}
        for url, name in self._names.items():
            self._first.setdefault(name, url)

    def system(self, url: str | None) -> str:
        """Short name of a system; of one that is not named, the last part of its URL."""
        if not url:
            return LOCAL
        return self._names.get(url) or re.split(r"[/:|#]", url.rstrip("/"))[-1] or LOCAL

    def code(self, url: str | None, code: str) -> str:
        """A code of a system in its canonical form."""
        form = self._forms.get(self.system(url))
        return written(code, form) if form else code

    def name(self, url: str | None, code: str) -> str:
        """`SYSTEM//CODE`, as events write it."""
        return f"{self.system(url)}//{self.code(url, code)}"

    def key(self, url: str | None, code: str) -> tuple[str, str]:
        """What tells a code from all others: however its system and its dot were written it is the same.

        Examples:
            >>> icd = Naming({"urn:icd": "ICD10CM", "urn:oid:6.90": "ICD10CM"}, {"ICD10CM": "icd"})
            >>> icd.key("urn:oid:6.90", "E119"), icd.key("urn:codes/icd", "E119")
            (('urn:icd', 'E11.9'), ('urn:codes/icd', 'E119'))
        """
        return self.url(url), self.code(url, code)

    def url(self, url: str | None) -> str:
        """The URL that stands for all of a system, without the version of a canonical one."""
        bare = (url or "").partition("|")[0]
        return self._first.get(self._names.get(bare, ""), bare)


def written(code: str, form: str) -> str:
    """A code in its canonical, dotted form.

    Args:
        code: As a source writes it.
        form: `icd`, `icd9` or `icd9_procedure`, see `Manifest.forms`.

    Examples:
        >>> written("E119", "icd"), written("E11.90†", "icd"), written("25000", "icd9"), written("E8859", "icd9")
        ('E11.9', 'E11.90', '250.00', 'E885.9')
        >>> written("3897", "icd9_procedure")
        '38.97'
    """
    code = code.strip().rstrip("†*!+#").upper().replace(".", "").rstrip("-")
    head = 2 if form == "icd9_procedure" else 4 if form == "icd9" and code.startswith("E") else 3
    return f"{code[:head]}.{code[head:]}" if len(code) > head else code
