"""From the rows of one view to events: when it was known, of whom, which code, which value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import quote

from ehr_tl.convert.adapter import Adapter, EventRule, time_columns
from ehr_tl.convert.codes import Codes, Coding, Concept
from ehr_tl.convert.index import OPEN, TO_THE_DAY, VISIT, Index, Vague
from ehr_tl.convert.units import Measured, Units
from ehr_tl.fhir.times import parse_time
from ehr_tl.fhir.views import RowError, View

#: Why a resource that was read is set aside. Those of `fhir.export.FAULTS` come before.
SET_ASIDE = {
    "repeated": "a resource of this type and id was read before, or this one is an older version of it",
    "no_patient": "it does not say whom it is about",
    "unknown_patient": "the patient that it is about is not in the export",
    "impossible_time": "a date or time that cannot be, such as the year 0000 or February 30",
    "implausible_time": "a time outside of the adapter's plausible range",
    "bad_value": "a quantity that is no finite number",
    "does_not_fit": "an element occurs several times that FHIR allows once, or is of another type than FHIR says",
}

#: Why a resource that is sound gives no event. Further ones are `<column>:<value>` of the adapter's `exclude`.
UNUSED = {
    "no_view": "the adapter has no view for its type",
    "no_rows": "the views of its type select nothing of it",
    "no_time": "nothing says when it was known",
    "visit_open": "it is dated by the end of a visit that is not over",
    "no_code": "no code and no text says what it is",
    "nothing_known": "it says that nothing is known or present",
    "value_absent": "it says why there is no value",
    "unknown_drug": "the Medication or Device that it names is not in the export, or does not say what it is",
    "not_a_patient": "it is about something other than a Patient",
    "replaced": "this patient's record was merged into another",
    "not_referenced": "a Medication or Device that no event refers to",
}

_NUMBER = re.compile(r"[-+]?\d{1,15}(\.\d{1,15})?([eE][-+]?\d{1,3})?")
_NO_PATIENT = re.compile(r"(^|/)(Group|Device|Location|Organization|Practitioner|Specimen|Medication|Substance)[/?]")
_PRIMITIVE = {str, bool, int, float}


class SetAside(Exception):
    """A resource that is not to be believed; `reason` is a key of `SET_ASIDE`."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


class Event(NamedTuple):
    """One row of events; `concept` stands for code, source_code and other_codes."""

    subject_id: int
    time: datetime | None
    concept: Concept
    numeric_value: float | None
    unit: str | None
    source_value: float | None
    source_unit: str | None
    value_flag: str | None
    text_value: str | None
    visit_id: str | None
    resource_id: str | None


class _Columns(NamedTuple):
    """Where each column that an emitter knows stands in a row; -1, a null at the row's end, if the view has none."""

    patient: int
    encounter: int
    medication: int
    medication_system: int
    medication_value: int
    system: int
    code: int
    display: int
    text: int
    part: int
    answer_system: int
    answer_code: int
    answer_display: int
    answer_text: int
    absent: int
    value: int
    comparator: int
    unit: int
    unit_text: int
    integer: int
    boolean: int
    string: int
    moment: int


class Emitter:
    """Makes events of one view's rows by its rule.

    Args:
        view: The compiled view.
        rule: Its rule in the manifest.
        index: Patients, visits and drugs.
        codes: Chooses codes.
        units: Brings values to the scales of their codes.
    """

    def __init__(self, adapter: Adapter, view: View, rule: EventRule, index: Index, codes: Codes, units: Units):
        self.view, self.rule, self.index, self.codes, self.units = view, rule, index, codes, units
        places = {name: place for place, name in enumerate(view.columns)}
        self.at = _Columns(**{name: places.get(name, -1) for name in _Columns._fields})
        self.fixed = codes.fixed(rule.code) if rule.code else None
        self.exclude = [
            (column, places[column], {value.lower(): value for value in values})
            for column, values in rule.exclude.items()
        ]
        self.time = _time_reader(adapter, rule, places, index)

    def emit(self, resource: dict[str, Any], resource_id: str | None, events: list[Event]) -> str | None:
        """Appends the events of a resource, and returns why there are none or fewer than expected.

        Raises:
            SetAside: The resource is not to be believed.
        """
        try:
            rows = self.view.rows(resource)
        except RowError:
            raise SetAside("does_not_fit") from None
        if not rows:
            return "no_rows"
        rows = [(*row, None) for row in rows]
        first, at = rows[0], self.at
        reference = first[at.patient]
        subject = self.index.subject(reference)
        if subject is None:
            return _no_subject(reference)
        visit = first[at.encounter] and self.index.resolve(VISIT, first[at.encounter])
        reason = None
        for group in (rows,) if len(rows) == 1 else _events(rows, at):
            if excluded := self._excluded(group[0]):
                reason = excluded
                continue
            try:
                time = self.time(group[0], visit)
            except SetAside as fault:
                if not self.rule.undated:
                    raise
                time = fault.reason
            if time.__class__ is str:
                reason = time
                if not self.rule.undated:
                    continue
                time = None
            before = len(events)
            reason = self._group(resource, group, (subject, time, visit, resource_id), events) or reason
            if len(events) == before and reason is None:
                reason = "no_code"
        return reason

    def _excluded(self, row: tuple) -> str | None:
        for column, place, values in self.exclude:
            found = row[place]
            if found is None:
                continue
            for one in found if found.__class__ is list else (found,):
                if one.__class__ in _PRIMITIVE and (word := values.get(str(one).strip().lower())) is not None:
                    return f"{column}:{word}"
        return None

    def _group(self, resource: dict, group: list[tuple], known: tuple, events: list[Event]) -> str | None:
        """Appends the events of rows that tell of the same thing."""
        row, at = group[0], self.at
        subject, time, visit, resource_id = known
        concepts = self._concepts(resource, group)
        if concepts.__class__ is str:
            return concepts
        number, text, unit = self._value(row)
        answer = None
        if len(group) > 1 or (row[at.answer_code] or row[at.answer_display] or row[at.answer_text]) is not None:
            answer, said, reason = self._answer(group)
            if reason:
                return reason
            text = said or text
        if row[at.absent] and number is None and text is None and answer is None:
            return "value_absent"
        for concept in concepts:
            if answer is not None:
                concept = self.codes.answered(concept, answer)
            if number is None:
                measured = Measured(concept, None, unit)
            else:
                measured = self.units.measured(concept, number, unit, _text(row[at.unit_text]))
            events.append(Event(subject, time, *measured, text, visit, resource_id))
        return None

    def _concepts(self, resource: dict, group: list[tuple]) -> list[Concept] | str:
        """The concepts of an event, mostly one; or why there is none."""
        if self.fixed is not None:
            return [self.fixed]
        row, at, rule = group[0], self.at, self.rule
        codings = _codings(group, at.system, at.code, at.display)
        if concept := self.codes.concept(codings, row[at.text], rule.prefix, rule.bare):
            concepts = [concept]
        elif reference := _medication(row, at):
            concepts = self.index.concepts(reference, resource)
            if not concepts:
                return "unknown_drug"
        else:
            return "no_code"
        return [concept for concept in concepts if not concept.nothing_known] or "nothing_known"

    def _answer(self, group: list[tuple]) -> tuple[Concept | None, str | None, str | None]:
        """A coded answer, else what it says in words; or the reason why it is none."""
        row, at = group[0], self.at
        codings = _codings(group, at.answer_system, at.answer_code, at.answer_display)
        if answer := self.codes.concept(codings, None):
            return answer, None, "nothing_known" if answer.nothing_known else None
        coded = any(code for _, code, _ in codings)  # that there is no value
        said = row[at.answer_text] or next((display for *_, display in codings if display and not coded), None)
        return None, _text(said), "value_absent" if coded and not said else None

    def _value(self, row: tuple) -> tuple[float | None, str | None, str | None]:
        """numeric_value, text_value and unit. A quantity "< 0.1" is 0.1, and "<0.1" as text."""
        at = self.at
        if row[at.value] is not None:
            number, comparator = self._number(row[at.value]), row[at.comparator]
            text = f"{comparator}{row[at.value]}" if comparator else None
            return number, text, _text(row[at.unit] or row[at.unit_text])
        if row[at.string] is not None:
            text = str(row[at.string]).strip()
            return self._number(text) if _NUMBER.fullmatch(text) else None, text or None, None
        if row[at.integer] is not None:
            return self._number(row[at.integer]), None, None
        if row[at.boolean] is not None:
            return float(row[at.boolean] is True), None, None
        return None, _text(row[at.moment]), None

    def _number(self, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise SetAside("bad_value") from None
        if not math.isfinite(number) or value.__class__ is bool:
            raise SetAside("bad_value")
        return number


def _codings(group: list[tuple], system: int, code: int, display: int) -> tuple[Coding, ...]:
    """The codings in the rows of a group, each once."""
    if len(group) == 1:
        row = group[0]
        return ((row[system], row[code], row[display]),)
    return tuple(dict.fromkeys((row[system], row[code], row[display]) for row in group))


def _medication(row: tuple, at: _Columns) -> str | None:
    """The reference to a Medication; an identifier in its place is written as a conditional one."""
    if row[at.medication] is None and row[at.medication_value] is not None:
        identifier = f"{row[at.medication_system] or ''}|{row[at.medication_value]}"
        return f"Medication?identifier={quote(identifier)}"
    return row[at.medication]


def _text(value: Any) -> str | None:
    return value if value is None or value.__class__ is str else str(value)


def _no_subject(reference: Any) -> str:
    """Why a reference means no patient of the export.

    Raises:
        SetAside: It should.
    """
    if not reference:
        raise SetAside("no_patient")
    if isinstance(reference, str) and _NO_PATIENT.search(reference):
        return "not_a_patient"
    raise SetAside("unknown_patient")


def _events(rows: list[tuple], at: _Columns) -> Iterator[list[tuple]]:
    """Splits rows into those of one event each: they follow one another and differ in their codings only."""
    for _, group in groupby(rows, key=lambda row: (row[at.part], row[at.text])):
        yield list(group)


def _time_reader(
    adapter: Adapter, rule: EventRule, places: dict[str, int], index: Index
) -> Callable[[tuple, str | None], datetime | str | None]:
    """A function that says when a row was known, or why it cannot say."""
    named = [time_columns(alternative) for alternative in rule.time]
    columns = list(dict.fromkeys(column for alternative in named for column, _ in alternative))
    alternatives = [[(columns.index(column), optional) for column, optional in alternative] for alternative in named]
    at = [places.get(column) for column in columns]
    zone, end_of, earliest, latest = adapter.zone, not rule.begins, adapter.earliest, adapter.latest
    ends, in_visit = index.links.visit_ends, rule.in_visit

    def moment(text: str, bound: datetime | None) -> datetime | None:
        if rule.undated and len(text) < TO_THE_DAY:
            return None
        time = parse_time(text, zone, end_of)
        if time is None:
            raise SetAside("impossible_time")
        if not earliest <= time <= latest:
            raise SetAside("implausible_time")
        if bound and parse_time(text, zone, False) <= bound < time:
            return bound
        return Vague.of(time) if len(text) < TO_THE_DAY else time

    def read(row: tuple, visit: str | None) -> datetime | str | None:
        end = ends.get(visit)
        bound = end if in_visit else None
        times = [end if place is None else None if row[place] is None else moment(row[place], bound) for place in at]
        for alternative in alternatives:
            last = None
            for place, optional in alternative:
                time = times[place]
                if time is None:
                    if optional:
                        continue
                    last = None
                    break
                if last is None or time > last:
                    last = time
            if last is not None:
                return "visit_open" if last == OPEN else last
        return "no_time" if alternatives else None

    return read
