"""From the codings of a FHIR CodeableConcept to the code of an event, its other codes, and what lies above them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from ehr_tl import schema
from ehr_tl.concepts import TEXT
from ehr_tl.convert.adapter import Adapter

#: System, code and display, as a resource writes them.
Coding = tuple[str | None, str | None, str | None]

#: System of codings without a system.
LOCAL = "LOCAL"

#: Meanings of ConceptMap equivalences (R4) and relationships (R5) by which an event may take the target's code: what is
#: true of the source is true of the target.
_SAFE = {"equivalent", "equal", "wider", "subsumes", "source-is-narrower-than-target"}

_ICD = ("ICD10CM", "ICD10GM", "ICD10", "ICD9CM", "ICD9Proc")
_LONGEST_TEXT = 120


@dataclass(eq=False)
class Concept:
    """One code of events; the same object for every event that has it.

    Attributes:
        code: `SYSTEM//CODE`.
        source: What the hospital wrote, where `code` is the target of a map.
        others: Further codes of the same fact: other codings, what a mapped code was mapped from.
        counts: (system as the hospital wrote it, `kept` | `mapped` | `unmapped`), for coverage.
        descriptions: What the codes mean, where it is said: (code, description).
        above: (code, the one above it): the code below a prefix, the question of an answer.
        displays: (code, display) of the codings that have one. A description may be what somebody typed, a display
            comes with the code.
        nothing_known: The concept says that nothing is known or present.
        denies: As an answer it denies its question.
    """

    code: str
    source: str | None
    others: tuple[str, ...]
    counts: tuple[tuple[str, str], ...]
    descriptions: tuple[tuple[str, str], ...] = ()
    above: tuple[tuple[str, str], ...] = ()
    displays: tuple[tuple[str, str], ...] = ()
    nothing_known: bool = False
    denies: bool = False

    @property
    def description(self) -> str | None:
        return dict(self.descriptions).get(self.code)


class _Candidate(NamedTuple):
    rank: tuple[int, int, int]
    code: str
    description: str | None
    count: tuple[str, str]
    source: str | None = None


class Codes:
    """Chooses codes by an adapter's systems and ConceptMaps: the same for the same codings, whatever came before."""

    def __init__(self, adapter: Adapter):
        manifest = adapter.manifest
        self._names = {**manifest.systems, **manifest.local_systems}
        self._rank = {name: rank for rank, name in enumerate(dict.fromkeys(self._names.values()))}
        self._standard = set(manifest.systems.values())
        self._forms = manifest.forms
        self._no_code = {system: set(codes) for system, codes in manifest.no_code.items()}
        self._nothing = {system: set(codes) for system, codes in manifest.nothing_known.items()}
        self._maps: dict[tuple[str | None, str], tuple[str, str, str | None]] = {}
        for concept_map in adapter.concept_maps:
            for key, target in _targets(concept_map):
                self._maps.setdefault(key, target)
        self._denials = {system: set(codes) for system, codes in manifest.denials.items()}
        self._apart = {rule.prefix for rule in manifest.events.values() if rule.apart}
        self._roles = {rule.bare for rule in manifest.events.values() if rule.bare}
        self._concepts: dict[tuple, Concept | None] = {}
        self._answered: dict[tuple[Concept, Concept], Concept] = {}

    def concept(
        self, codings: tuple[Coding, ...], text: str | None, prefix: str | None = None, bare: str | None = None
    ) -> Concept | None:
        """The concept that codings and text stand for; None if they say nothing.

        Args:
            codings: All codings of the CodeableConcept.
            text: Its text, used if no coding has a code, and as description of codings that have none.
            prefix: First part of the code.
            bare: System whose name is left out after the prefix.
        """
        described = all(
            code and display and not _listed(self._no_code, system, code) for system, code, display in codings
        )
        key = (codings, None if described else text, prefix, bare)
        try:
            return self._concepts[key]
        except KeyError:
            concept = self._concepts[key] = self._choose(*key)
            return concept

    def fixed(self, code: str) -> Concept:
        """A concept that is the adapter's own, such as MEDS_BIRTH."""
        return self._concepts.setdefault((code,), Concept(code, None, (), ()))

    def answered(self, question: Concept, answer: Concept) -> Concept:
        """The concept of a question with a coded answer. The question is its parent, unless the answer denies it."""
        pair = (question, answer)
        if pair not in self._answered:
            mapped = question.source or answer.source
            code = f"{question.code}//{answer.code}"
            described = ": ".join(filter(None, [question.description, answer.description]))
            others = [f"{question.code}//{other}" for other in answer.others]
            above = {**dict(question.above), **dict(answer.above)}
            if not answer.denies or question.code.startswith("LOINC//"):  # LOINC names tests: they were done
                above.update(dict.fromkeys([code, *others], question.code))
                others += question.others
            descriptions = {**dict(question.descriptions), **({code: described} if described else {})}
            self._answered[pair] = Concept(
                code,
                f"{question.source or question.code}//{answer.source or answer.code}" if mapped else None,
                tuple(others),
                question.counts + answer.counts,
                tuple(descriptions.items()),
                tuple(above.items()),
                question.displays + answer.displays,
                question.nothing_known,
            )
        return self._answered[pair]

    def _choose(
        self, codings: tuple[Coding, ...], text: str | None, prefix: str | None, bare: str | None
    ) -> Concept | None:
        """The best candidate gives the code."""
        text = text if isinstance(text, str) else None
        codings = tuple(c for c in map(_sound, codings) if c[1] and not _listed(self._no_code, c[0], c[1]))
        candidates = [
            candidate
            for place, (system, code, display) in enumerate(codings)
            for candidate in self._candidates(place, system, code, display or text, bare)
        ]
        if not candidates and text and text.strip():
            text = " ".join(text.split())[:_LONGEST_TEXT]
            candidates = [_Candidate((3, 0, 0), f"{TEXT}//{text}", text, (TEXT, "unmapped"))]
        if not candidates:
            return None
        candidates = sorted(candidates, key=lambda candidate: candidate.rank)
        descriptions: dict[str, str] = {}
        above: dict[str, str] = {}
        names: dict[str, None] = {}
        for candidate in candidates:
            name = f"{prefix}//{candidate.code}" if prefix else candidate.code
            names[name] = None
            if candidate.description:
                descriptions.setdefault(candidate.code, candidate.description)
                descriptions.setdefault(name, candidate.description)
            if prefix and "//" in candidate.code and prefix not in self._apart:
                above[name] = candidate.code
        code, *others = names
        return Concept(
            code,
            candidates[0].source,
            tuple(others),
            (candidates[0].count,),
            tuple(descriptions.items()),
            tuple(above.items()),
            tuple((self._written(system, code, bare)[1], display) for system, code, display in codings if display),
            nothing_known=any(_listed(self._nothing, system, code) for system, code, _ in codings),
            denies=any(_listed(self._denials, system, code) for system, code, _ in codings),
        )

    def _candidates(
        self, place: int, system: str | None, code: str, display: str | None, bare: str | None
    ) -> Iterator[_Candidate]:
        """What a coding may become: itself, and the target of a ConceptMap."""
        name, own = self._written(system, code, bare)
        target = self._maps.get((system, code))
        if target and target[0] in self._roles and target[0] != bare:
            target = None  # "deceased" is a disposition where dispositions are read, and nowhere else
        standard = name in self._standard or (system or "") == bare
        tier = 2 if not standard else 1 if target else 0
        yield _Candidate((tier, self._order(name), place), own, display, (name, "kept" if standard else "unmapped"))
        if target:
            target_name, mapped = self._written(*target[:2], bare)
            rank = (0, self._order(target_name), place)
            yield _Candidate(rank, mapped, target[2] or display, (name, "mapped"), own)

    def _order(self, name: str) -> int:
        return self._rank.get(name, len(self._rank))

    def _name(self, system: str | None) -> str:
        if not system:
            return LOCAL
        return self._names.get(system) or re.split(r"[/:|#]", system.rstrip("/"))[-1] or LOCAL

    def _written(self, system: str | None, code: str, bare: str | None) -> tuple[str, str]:
        """Short name of the system, and the code as events write it."""
        name = self._name(system)
        form = self._forms.get(name)
        code = written(code, form) if form else code
        return name, code if (system or "") == bare else f"{name}//{code}"


class Glossary:
    """The codes that events were given: what they mean, what lies above them, how they came about.

    Attributes:
        displays: Code -> the first display that came with it.
    """

    def __init__(self) -> None:
        self.displays: dict[str, str] = {}
        self._descriptions: dict[str, str] = {}
        self._above: dict[str, str] = {}
        self._codes: dict[str, None] = {}
        self._counts: dict[str, Counter[str]] = {}

    def add(self, uses: Iterable[tuple[Concept, int]]) -> None:
        """Enters concepts with the number of their events; what is said first of a code counts."""
        for concept, number in uses:
            self._codes.update(dict.fromkeys((concept.code, *concept.others)))
            for code, description in concept.descriptions:
                self._descriptions.setdefault(code, description)
            for code, parent in concept.above:
                self._above.setdefault(code, parent)
            for code, display in concept.displays:
                self.displays.setdefault(code, display)
            for system, how in concept.counts:
                self._counts.setdefault(system, Counter())[how] += number

    def counts(self) -> dict[str, dict[str, int]]:
        """System -> `kept`, `mapped`, `unmapped`: how often events were given codes that way."""
        return {
            system: {how: self._counts[system][how] for how in ("kept", "mapped", "unmapped")}
            for system in sorted(self._counts)
        }

    def table(self) -> pl.DataFrame:
        """`metadata/codes.parquet`: every code of events, and all of their parents."""
        above: dict[str, str | None] = {}
        ahead = list(self._codes)
        for code in ahead:
            if code not in above:
                above[code] = self._above.get(code) or _shorter(code)
                ahead += filter(None, [above[code]])
        codes = sorted(above)
        return pl.DataFrame(
            {
                "code": codes,
                "description": [self._descriptions.get(code) for code in codes],
                "parent_codes": [[above[code]] if above[code] else [] for code in codes],
            },
            schema=schema.CODES,
        )


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


def _shorter(code: str) -> str | None:
    """The next more general code of an ICD code: ICD10CM//E11.65 -> ICD10CM//E11.6."""
    system, _, rest = code.partition("//")
    if system not in _ICD or "//" in rest or "." not in rest:
        return None
    return f"{system}//{rest[:-1].rstrip('.')}"


def _sound(coding: Coding) -> Coding:
    """A coding whose parts are text (JSON may hold anything), its system without the version of a canonical URL."""
    system, code, display = (part if isinstance(part, str) else None for part in coding)
    system = system.partition("|")[0] if system else system
    return system, " ".join(code.split()) if code else None, display


def _listed(table: dict[str, set[str]], system: str | None, code: str) -> bool:
    codes = table.get(system or "")
    return bool(codes) and ("*" in codes or code in codes)


def _targets(concept_map: dict) -> Iterator[tuple[tuple[str | None, str], tuple[str, str, str | None]]]:
    """(source system, code) -> (target system, code, display), for every safe element of a ConceptMap."""
    for group in concept_map.get("group") or []:
        for element in group.get("element") or []:
            for target in element.get("target") or []:
                meaning = target.get("equivalence") or target.get("relationship")
                if meaning in _SAFE and target.get("code") and element.get("code") and group.get("target"):
                    yield (
                        (group.get("source"), element["code"]),
                        (group["target"], target["code"], target.get("display")),
                    )
                    break
