"""Events as arrays: one subject after the other, each in time order, cut into time slots.

Nothing here is fitted. Values stay as the export gave them; which codes a model knows, and how it reads a value, is a
matter of its vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.concepts import concept
from ehr_tl.events import Events
from ehr_tl.schema import AGE

HOUR = 3_600_000_000  # microseconds


#: Families of events, by the type of the FHIR resource that an event came from.
FAMILIES = ("diagnoses", "medications", "observations", "procedures", "visits", "other")
_FAMILY_OF = {
    "Condition": "diagnoses",
    "MedicationRequest": "medications",
    "MedicationAdministration": "medications",
    "MedicationDispense": "medications",
    "MedicationStatement": "medications",
    "Observation": "observations",
    "DiagnosticReport": "observations",
    "Procedure": "procedures",
    "ImagingStudy": "procedures",
    "Encounter": "visits",
}


@dataclass(frozen=True)
class Records:
    """The timed events of S subjects (N events, M slots), and what is known of each subject at all times.

    Attributes:
        subjects: Their ids, ascending, shape (S,).
        birth: Time of birth in microseconds since 1970, shape (S,); `known_birth` says where there is one.
        known_birth: Shape (S,).
        gender: Position of the gender code in `codes`, -1 where unknown, shape (S,).
        time: Microseconds since 1970, shape (N,), ascending within a subject.
        code: Position in `codes`, shape (N,).
        pair: Position in `pairs`, shape (N,).
        value: NaN where an event has none, shape (N,).
        family: Position in `FAMILIES`, shape (N,).
        subject_slots: Subject i has the slots `subject_slots[i]` to `subject_slots[i + 1]`, shape (S + 1,).
        slot_events: Slot i has the events `slot_events[i]` to `slot_events[i + 1]`, shape (M + 1,).
        slot_start: Beginning of each slot in microseconds since 1970, a multiple of `slot_hours`, shape (M,).
        slot_hours: Width of a slot.
        codes: Codes of all concepts that occur, and `AGE`. One code occurs several times where events differ in their
            other codes.
        above: What else each of `codes` may be called: others and all ancestors, nearest first.
        pairs: Code (position in `codes`) and unit ("" for none) of each kind of event.
        descriptions: Code or parent of one -> description, where there is one.
        common: Codes whose description may leave the hospital (`schema.COMMON`).
        parents: Code or parent of one -> its parents, where there are any.
    """

    subjects: np.ndarray
    birth: np.ndarray
    known_birth: np.ndarray
    gender: np.ndarray
    time: np.ndarray
    code: np.ndarray
    pair: np.ndarray
    value: np.ndarray
    family: np.ndarray
    subject_slots: np.ndarray
    slot_events: np.ndarray
    slot_start: np.ndarray
    slot_hours: float
    codes: tuple[str, ...]
    above: tuple[tuple[str, ...], ...]
    pairs: tuple[tuple[int, str], ...]
    descriptions: dict[str, str]
    common: frozenset[str]
    parents: dict[str, tuple[str, ...]]

    @property
    def first_event(self) -> np.ndarray:
        """Position of each subject's first event, and N, shape (S + 1,)."""
        return self.slot_events[self.subject_slots]

    @property
    def age_code(self) -> int:
        return self.codes.index(AGE)

    @cached_property
    def event_order(self) -> Order:
        """Finds events by subject and time."""
        return Order(np.repeat(np.arange(len(self.subjects)), np.diff(self.first_event)), self.time)

    @cached_property
    def slot_order(self) -> Order:
        """Finds slots by subject and start."""
        return Order(np.repeat(np.arange(len(self.subjects)), np.diff(self.subject_slots)), self.slot_start)

    def age(self, subject: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Age in years of subjects (positions) at times (microseconds); NaN where the birth is unknown."""
        years = (time - self.birth[subject]) / (HOUR * 24 * 365.25)
        return np.where(self.known_birth[subject], years, np.nan).astype(np.float32)


class Order:
    """Finds places among moments that are sorted by subject, then time.

    Examples:
        >>> order = Order(np.array([0, 0, 1]), np.array([10, 20, 10]))
        >>> order.count(np.array([0, 1]), np.array([20, 20]), "left").tolist()
        [1, 3]
    """

    def __init__(self, subject: np.ndarray, time: np.ndarray):
        self._times, rank = np.unique(time, return_inverse=True)
        self._scale = 2 * len(self._times) + 2
        self._keys = subject * self._scale + 2 * rank + 1

    def count(self, subject: np.ndarray, time: np.ndarray, side: str) -> np.ndarray:
        """How many moments, of earlier subjects too, come before each time ("left") or not after it ("right")."""
        return np.searchsorted(self._keys, subject * self._scale + 2 * np.searchsorted(self._times, time, side))


def read_records(events: Events, rows: pl.DataFrame | None = None, slot_hours: float = 24.0) -> Records:
    """Reads the timed events of the subjects of `rows`, up to each subject's last prediction time.

    Birth counts as age, static gender as a property of the subject; death is no input.

    Args:
        events: The events folder.
        rows: Columns `subject_id` and `prediction_time`; None: all subjects, all events.
        slot_hours: Width of a slot. It is given, never read off the records: later events would change earlier slots.
    """
    columns = ["subject_id", "time", "code", "numeric_value", "unit", "resource_id"]
    frame = events.history().select(*columns, concept=concept())
    if rows is not None:
        last = rows.lazy().group_by("subject_id").agg(until=pl.col("prediction_time").max())
        frame = frame.join(last, on="subject_id").filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("until")))
        subjects = rows["subject_id"].unique().sort()
    else:
        subjects = events.subjects["subject_id"].unique().sort()
    timed = pl.col("time").is_not_null() & ~pl.col("code").is_in([schema.BIRTH, schema.DEATH])
    births = pl.col("code") == schema.BIRTH
    genders = pl.col("time").is_null() & pl.col("code").str.starts_with(schema.GENDER + "//")
    table, birth, gender = pl.collect_all(
        [
            _timed(frame.filter(timed)),
            frame.filter(births).group_by("subject_id").agg(pl.col("time").min()),
            frame.filter(genders).group_by("subject_id").agg(pl.col("code").min()),
        ]
    )
    return _arrays(subjects, table, birth, gender, events, slot_hours)


def _timed(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Events with concept and unit as one kind, sorted; equal times are in a fixed order."""
    resource = pl.col("resource_id").str.extract(r"^(\w+)/")
    visit = pl.col("code").str.contains(f"^({'|'.join(schema.COURSE)})//")
    family = pl.when(visit).then(pl.lit("visits")).otherwise(resource.replace_strict(_FAMILY_OF, default="other"))
    events = frame.select(
        "subject_id",
        pl.col("time").dt.timestamp("us"),
        "concept",
        pl.col("unit").fill_null(""),
        pl.col("numeric_value").cast(pl.Float32),
        family.replace_strict({name: i for i, name in enumerate(FAMILIES)}, return_dtype=pl.Int8).alias("family"),
    )
    kinds = events.select("concept", "unit").unique().sort("concept", "unit").with_row_index("pair")
    return events.join(kinds, on=["concept", "unit"]).sort("subject_id", "time", "pair", "numeric_value", "family")


def _arrays(
    subjects: pl.Series,
    table: pl.DataFrame,
    birth: pl.DataFrame,
    gender: pl.DataFrame,
    events: Events,
    slot_hours: float,
) -> Records:
    concepts = sorted({*table["concept"].unique(), *gender["code"].unique(), AGE})
    position = {name: i for i, name in enumerate(concepts)}
    kinds = table.select("pair", "concept", "unit").unique().sort("pair")
    subject = np.searchsorted(subjects.to_numpy(), table["subject_id"].to_numpy())
    time = table["time"].to_numpy()
    bucket = time // round(slot_hours * HOUR)
    starts = _starts(subject, bucket)
    born = pl.DataFrame({"subject_id": subjects}).join(birth, on="subject_id", how="left", maintain_order="left")
    sex = born.join(gender, on="subject_id", how="left", maintain_order="left")["code"]
    code_of = np.array([position[name] for name in kinds["concept"]], dtype=np.int64)
    pair = table["pair"].to_numpy().astype(np.int64)
    lines = [tuple(events.hierarchy.names(each)) for each in concepts]
    described = events.codes.filter(pl.col("description").is_not_null())
    return Records(
        subjects=subjects.to_numpy(),
        birth=born["time"].dt.timestamp("us").fill_null(0).to_numpy(),
        known_birth=born["time"].is_not_null().to_numpy(),
        gender=np.array([position.get(name, -1) for name in sex], dtype=np.int64),
        time=time,
        code=code_of[pair] if len(pair) else pair,
        pair=pair,
        value=table["numeric_value"].fill_null(float("nan")).to_numpy(),
        family=table["family"].to_numpy(),
        subject_slots=np.searchsorted(subject[starts], np.arange(len(subjects) + 1)),
        slot_events=np.r_[starts, len(time)],
        slot_start=bucket[starts] * round(slot_hours * HOUR),
        slot_hours=slot_hours,
        codes=tuple(line[0] for line in lines),
        above=tuple(line[1:] for line in lines),
        pairs=tuple(zip(code_of.tolist(), kinds["unit"])),
        descriptions=dict(zip(described["code"], described["description"])),
        common=frozenset(described.filter(schema.COMMON)["code"] if schema.COMMON in described.columns else ()),
        parents=events.hierarchy.parents,
    )


def _starts(*columns: np.ndarray) -> np.ndarray:
    """Where the runs of equal rows begin."""
    changed = np.any([np.diff(column) != 0 for column in columns], axis=0)
    return np.flatnonzero(np.r_[True, changed][: len(columns[0])])
