"""From the codings of a FHIR CodeableConcept to the code of an event, its other codes, and what lies above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import polars as pl

from ehr_tl import schema
from ehr_tl.concepts import FEWEST_SUBJECTS, TEXT
from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.concept_maps import Target
from ehr_tl.convert.hierarchies import look_up
from ehr_tl.convert.terminology import Terminology

#: System, code and display, as a resource writes them.
Coding = tuple[str | None, str | None, str | None]


_LONGEST_TEXT = 120


#: What may come of a code that ConceptMaps are asked for.
OUTCOMES = ("mapped", "unmatched", "absent")


class Asked(NamedTuple):
    """What came of looking a code up in ConceptMaps that are about its system.

    Attributes:
        system, code: As the hospital wrote it, the system by its short name.
        outcome: `mapped`; `unmatched`: a map lists it, and has no target for it that is true of it; `absent`.
        target: What it was mapped to.
    """

    system: str
    code: str
    outcome: str
    target: str | None = None


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
        asked: What ConceptMaps say of its codings.
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
    asked: tuple[Asked, ...] = ()

    @property
    def description(self) -> str | None:
        return dict(self.descriptions).get(self.code)


class Use(NamedTuple):
    """How often a concept was used: `number` of events, and whose, up to `FEWEST_SUBJECTS`, where it is described."""

    concept: Concept
    number: int
    subjects: Collection[int] = ()


class _Candidate(NamedTuple):
    """What an event may be called: the lowest rank becomes its code.

    A rank is the tier (0: the code of a coding, 1: a further code of it that is standard, 2: one that is not, 3: text),
    the place of its system in the manifest, and the place of the coding.
    """

    rank: tuple[int, int, int]
    code: str
    description: str | None
    count: tuple[str, str]
    source: str | None = None


class _Ranked(NamedTuple):
    """A target of ConceptMaps: short name of its system, code as events write it, whether it is standard."""

    system: str
    code: str
    standard: bool
    target: Target


class Codes:
    """Chooses codes by an adapter's systems and ConceptMaps: the same for the same codings, whatever came before."""

    def __init__(self, adapter: Adapter):
        manifest = adapter.manifest
        self._naming, self._maps = adapter.naming, adapter.concept_maps
        names = dict.fromkeys([*manifest.systems.values(), *manifest.local_systems.values()])
        self._rank = {name: rank for rank, name in enumerate(names)}
        self._standard = set(manifest.systems.values())
        self._no_code = {system: set(codes) for system, codes in manifest.no_code.items()}
        self._nothing = {system: set(codes) for system, codes in manifest.nothing_known.items()}
        self._denials = {system: set(codes) for system, codes in manifest.denials.items()}
        self._apart = {rule.prefix for rule in manifest.events.values() if rule.apart}
        self._roles = {self._naming.url(rule.bare) for rule in manifest.events.values() if rule.bare}
        self._concepts: dict[tuple, Concept | None] = {}
        self._answered: dict[tuple[Concept, Concept], Concept] = {}
        self._meeting: dict[tuple[Concept, str], Concept] = {}

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
                asked=question.asked + answer.asked,
            )
        return self._answered[pair]

    def meeting(self, concept: Concept, code: str, description: str | None) -> Concept:
        """The concept under another code, to whose scale its values are brought; its own code is one of the others."""
        if (concept, code) not in self._meeting:
            self._meeting[concept, code] = replace(
                concept,
                code=code,
                source=concept.source or concept.code,
                others=tuple(other for other in (concept.code, *concept.others) if other != code),
                descriptions=(*concept.descriptions, *([(code, description)] if description else [])),
            )
        return self._meeting[concept, code]

    def _choose(
        self, codings: tuple[Coding, ...], text: str | None, prefix: str | None, bare: str | None
    ) -> Concept | None:
        """The best candidate gives the code."""
        text = text if isinstance(text, str) else None
        codings = tuple(c for c in map(_sound, codings) if c[1] and not _listed(self._no_code, c[0], c[1]))
        candidates: list[_Candidate] = []
        asked: list[Asked] = []
        said: list[tuple[str | None, str]] = []
        displays: list[tuple[str, str]] = []
        for place, (system, code, display) in enumerate(codings):
            name, own, standard = self._written(self._naming.url(system), code, bare)
            # "deceased" is a disposition where dispositions are read, and nowhere else.
            found = self._maps.find(system, code, self._roles - {self._naming.url(bare)})
            targets = self._ranked(found.targets, bare) if found else []
            candidates += self._candidates(place, name, own, standard, display or text, targets)
            said += [(system, code), *(each.target.key for each in targets)]
            displays += [(own, display)] if display else []
            if found:
                outcome = "mapped" if targets else "unmatched" if found.listed else "absent"
                asked.append(Asked(name, own, outcome, targets[0].code if targets else None))
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
            displays=tuple(displays),
            nothing_known=any(_listed(self._nothing, *each) for each in said),
            denies=any(_listed(self._denials, *each) for each in said),
            asked=tuple(asked),
        )

    def _ranked(self, targets: Iterable[Target], bare: str | None) -> list[_Ranked]:
        """Targets of a code, the best first.

        A standard one comes before others, one that means the same before a wider one, the last of a chain before what
        lies on the way; then the manifest's order of systems counts, then the order of the maps.
        """
        ranked = [
            _Ranked(*self._written(*target.key, bare), target)
            for target in targets
            if not _listed(self._no_code, *target.key)
        ]
        return sorted(ranked, key=lambda each: (not each.standard, *each.target.distance, self._order(each.system)))

    def _candidates(
        self, place: int, name: str, own: str, standard: bool, display: str | None, targets: list[_Ranked]
    ) -> Iterator[_Candidate]:
        """What a coding may become: itself, and the targets of ConceptMaps.

        The best target is taken; but a standard code whose best target is wider remains, as it says more.
        """
        taken = targets[0] if targets and not (standard and targets[0].target.wider) else None
        tier = 2 if not standard else 1 if taken else 0
        yield _Candidate((tier, self._order(name), place), own, display, (name, "kept" if standard else "unmapped"))
        for each in targets:
            tier = 0 if each is taken else 1 if each.standard else 2
            described = each.target.display or (None if each.target.wider else display)
            yield _Candidate((tier, self._order(each.system), place), each.code, described, (name, "mapped"), own)

    def _order(self, name: str) -> int:
        return self._rank.get(name, len(self._rank))

    def _written(self, url: str, code: str, bare: str | None) -> tuple[str, str, bool]:
        """Short name of a system, the code as events write it, and whether it is one that others know."""
        name, code = self._naming.system(url), self._naming.code(url, code)
        if bare is not None and url == self._naming.url(bare):
            return name, code, True
        return name, f"{name}//{code}", name in self._standard


class _Sayings:
    """What records say of codes, and how many subjects' records say it alike.

    What is said of a code comes with it in most hospitals; in others somebody typed it, and it may name a patient. Uses
    would not tell: one patient may have most of them.
    """

    def __init__(self) -> None:
        self._uses: Counter[tuple[str, str]] = Counter()
        self._bearers: dict[tuple[str, str], set[int]] = {}

    def add(self, said: tuple[str, str], number: int, subjects: Collection[int]) -> None:
        """Enters that so many events of these subjects say (code, text)."""
        self._uses[said] += number
        bearers = self._bearers.setdefault(said, set())
        if len(bearers) < FEWEST_SUBJECTS:
            bearers.update(subjects)

    def first(self) -> dict[str, str]:
        """Code -> what was said first."""
        found: dict[str, str] = {}
        for code, text in self._uses:
            found.setdefault(code, text)
        return found

    def common(self) -> dict[str, str]:
        """Code -> the commonest of what at least `FEWEST_SUBJECTS` subjects' records say alike."""
        found: dict[str, str] = {}
        for (code, text), _ in sorted(self._uses.items(), key=lambda item: (-item[1], item[0])):
            if len(self._bearers[code, text]) >= FEWEST_SUBJECTS:
                found.setdefault(code, text)
        return found


class Glossary:
    """The codes that events were given: what they mean, what lies above them, how they came about."""

    def __init__(self) -> None:
        self._displays, self._descriptions = _Sayings(), _Sayings()
        self._above: dict[str, str] = {}
        self._codes: dict[str, None] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._asked: Counter[Asked] = Counter()

    def add(self, uses: Iterable[Use]) -> None:
        """Enters concepts with the number of their events and their subjects."""
        for concept, number, subjects in uses:
            self._codes.update(dict.fromkeys((concept.code, *concept.others)))
            for description in concept.descriptions:
                self._descriptions.add(description, number, subjects)
            for code, parent in concept.above:
                self._above.setdefault(code, parent)
            for display in concept.displays:
                self._displays.add(display, number, subjects)
            for system, how in concept.counts:
                self._counts.setdefault(system, Counter())[how] += number
            for asked in concept.asked:
                self._asked[asked] += number

    def displays(self) -> dict[str, str]:
        """Code -> its commonest display of those that at least `FEWEST_SUBJECTS` subjects have."""
        return self._displays.common()

    def counts(self) -> dict[str, dict[str, int]]:
        """System -> `kept`, `mapped`, `unmapped`: how often events were given codes that way."""
        return {
            system: {how: self._counts[system][how] for how in ("kept", "mapped", "unmapped")}
            for system in sorted(self._counts)
        }

    def concept_maps(self) -> dict[str, dict[str, dict[str, int]]]:
        """System that ConceptMaps are about -> what came of its codes.

        Each outcome (see `Asked`) has the number of different `codes` and of `events` that were written with them;
        `many_to_one` the number of `targets` that several codes were mapped to, and of these `codes`.
        """
        found: dict[str, dict[str, dict[str, int]]] = {}
        for system in sorted({asked.system for asked in self._asked}):
            here = {asked: number for asked, number in self._asked.items() if asked.system == system}
            found[system] = {}
            for outcome in OUTCOMES:
                events = [number for asked, number in here.items() if asked.outcome == outcome]
                found[system][outcome] = {"codes": len(events), "events": sum(events)}
            shared = [n for n in Counter(asked.target for asked in here if asked.target).values() if n > 1]
            found[system]["many_to_one"] = {"codes": sum(shared), "targets": len(shared)}
        return found

    def table(self, terminology: Terminology) -> pl.DataFrame:
        """`metadata/codes.parquet`: every code of events, and all that lies above them.

        A code's parents are those that its events give it (the code below a role, the question of an answer), those in
        the hospital's own `terminology`, and those in the public classifications (`hierarchies`). Its description is
        the commonest that enough subjects' records have, else the first that one has, else that of the terminology or
        of the classifications; all but the second are `common` ones.
        """
        parents: dict[str, list[str]] = {}
        ahead = list(self._codes)
        for code in ahead:  # it grows
            if code not in parents:
                own = [self._above[code]] if code in self._above else []
                every = dict.fromkeys([*own, *terminology.parents.get(code, ()), *look_up(code).parents])
                parents[code] = [parent for parent in every if parent != code]
                ahead += parents[code]
        first, common = self._descriptions.first(), self._descriptions.common()
        rows = []
        for code in sorted(parents):
            listed = (terminology.descriptions.get(code), look_up(code).description)
            found = common.get(code) or first.get(code) or listed[0] or listed[1]
            rows.append((code, found, parents[code], found is not None and found in (common.get(code), *listed)))
        return pl.DataFrame(rows, schema={**schema.CODES, schema.COMMON: pl.Boolean}, orient="row")


def _sound(coding: Coding) -> Coding:
    """A coding whose parts are text (JSON may hold anything), its system without the version of a canonical URL."""
    system, code, display = (part if isinstance(part, str) else None for part in coding)
    system = system.partition("|")[0] if system else system
    return system, " ".join(code.split()) if code else None, display


def _listed(table: dict[str, set[str]], system: str | None, code: str) -> bool:
    codes = table.get(system or "")
    return bool(codes) and ("*" in codes or code in codes)
