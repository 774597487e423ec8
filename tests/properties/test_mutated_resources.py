"""Thousands of resources, each harmed in some way: nothing crashes or hangs, and every one of them is counted."""

from __future__ import annotations

import copy
import faulthandler
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ehr_tl import threads
from ehr_tl.convert import convert, engine, load_adapter
from ehr_tl.convert.adapter import adapter_names
from ehr_tl.convert.check import left_out
from ehr_tl.convert.guess import guess_adapter
from ehr_tl.doctor import diagnose
from ehr_tl.events import Events
from ehr_tl.fhir import pieces
from ehr_tl.fhir.export import open_export
from ehr_tl.resources import bundled

#: Seconds after which one conversion of a few thousand resources is taken to hang; the process ends with its stack.
HANGS = 300

#: Resources that are not harmed, so that there are patients whom others are about.
SOUND_EVERY = 5

TEXTS = [
    *("", " ", "x", "\0", "a\nb", "a/b", "\u202eabc", "e\u0301", "\U0001f600", "\ufeff", "x" * 5000, "//", "TEXT//"),
    *("|", "#", "#x", "?", "urn:", "urn:uuid:", "Patient/", "Patient/x/_history", "../../etc/passwd", "Patient?a=b"),
    *("NaN", "Infinity", "-0", "1e400", "1" * 400, "0x10", "1_0", "<5", "\u0661\u0662", "__proto__", "constructor"),
]
TIMES = [
    *("2020", "2020-02", "2020-02-30", "0000", "0001-01-01", "9999-12-31", "2999-01-01T00:00:00Z", "2020-W05-3"),
    *("2020-01-01T24:00:00Z", "2020-01-01T23:59:60Z", "2020-01-01T10:00:00+25:00", "2020-06-01T10:00:00.123456789Z"),
    *("2020-1-1", "01.02.2020", "20200101", "yesterday", "2020-01-01T10:00", "2020-01-01 10:00", "\u0662\u0660"),
]
NUMBERS = [0, -1, -0.0, 1e308, 5e-324, 2**31, 2**63, 2**64 - 1, 3.4028235e38, 1e12, True, False, None]
KEYS = ["__proto__", "constructor", "", "_birthDate", "ID", "ResourceType", "value", "valueQuantity", "Coding", "a b"]
#: JSON, or nearly, that no decoded value can be written as; takes the place of a value.
TOKENS = [
    *(b"NaN", b"-Infinity", b"1e400", b"-1e400", b"1" * 5000, b"01", b".5", b'"\\ud800"', b'"\\udc00\\ud800"', b"'x'"),
    *(b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\x00"', b"\xef\xbb\xbf1", b"undefined", b"", b"1,", b"{", b"[[", b"nul"),
    *(b"[" * depth + b"1" + b"]" * depth for depth in (300, 5000)),
    *(b'{"item":' * depth + b"1" + b"}" * depth for depth in (300, 5000)),
    *(b'"a","id":"twice"', b'1,"resourceType":"Patient"'),
]
MARK = "\x1aTOKEN\x1a"

#: Those that read FHIR.
ADAPTERS = [name for name in adapter_names() if not load_adapter(name).manifest.tables]


def places(value: Any) -> list[tuple]:
    """Every place below `value`."""
    found, ahead = [], [((), value)]
    while ahead:
        above, value = ahead.pop()
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        below = [((*above, key), inner) for key, inner in inside]
        found += [place for place, _ in below]
        ahead += below
    return found


def at(value: Any, place: tuple) -> Any:
    for key in place:
        value = value[key]
    return value


class Harm:
    """Harms copies of resources.

    Args:
        sound: The resources; values of one may be put into another.
    """

    def __init__(self, sound: list[dict[str, Any]], random: Random):
        self.sound, self.random = sound, random
        self.types = sorted(
            {resource["resourceType"] for resource in sound} | {"Spaceship", "patient", "Pa/tient", "", "X"}
        )

    def texts(self, number: int) -> Iterator[bytes]:
        """Lines of NDJSON: sound ones and harmed ones, with ids that differ unless these are harmed."""
        for place in range(number):
            resource = copy.deepcopy(self.sound[place % len(self.sound)])
            if place >= len(self.sound):
                resource["id"] = f"{resource.get('id')}-{place}"
            yield self._text(resource) if place % SOUND_EVERY else json.dumps(resource).encode()

    def _text(self, resource: dict[str, Any]) -> bytes:
        for _ in range(self.random.choice([1, 1, 2, 3, 8])):
            if found := places(resource):
                self._change(resource, self.random.choice(found))
        text = json.dumps(resource, ensure_ascii=self.random.random() < 0.5).encode(errors="surrogatepass")
        text = text.replace(json.dumps(MARK).encode(), self.random.choice(TOKENS))
        match self.random.randrange(40):
            case 0:
                text = text[: self.random.randrange(len(text))]
            case 1:
                spoilt = self.random.randrange(len(text))
                text = text[:spoilt] + bytes([self.random.randrange(256)]) + text[spoilt + 1 :]
            case 2:
                text = self.random.choice([b"\xef\xbb\xbf", b"\0", b"[", b",", b" "]) + text
            case 3:
                text += self.random.choice([b"\r", b"\0\0", b",", b"}", text])
            case 4:
                text = text.decode(errors="replace").encode("utf-16")
        return text.replace(b"\n", b" ")

    def _change(self, resource: dict[str, Any], place: tuple) -> None:
        random = self.random
        *above, key = place
        holder, value = at(resource, tuple(above)), at(resource, place)
        other = random.choice(self.sound)
        match random.randrange(16):
            case 0:
                del holder[key]
            case 1:
                holder[key] = [value, copy.deepcopy(value)]
            case 2:
                holder[key] = {"x": value}
            case 3:
                inside = (
                    list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
                )
                holder[key] = inside[0] if inside else [value]
            case 4:
                holder[key] = copy.deepcopy(at(other, random.choice(places(other))))
            case 5:
                holder[key] = copy.deepcopy(at(resource, random.choice(places(resource))))
            case 6:
                holder[key] = random.choice(TEXTS)
            case 7:
                holder[key] = random.choice(TIMES)
            case 8:
                holder[key] = random.choice(NUMBERS)
            case 9:
                holder[key] = random.choice([[], {}, [[]], [None], [{}], {"": None}, [[[value]]]])
            case 10:
                holder[key] = self._nested(value)
            case 11 if isinstance(holder, dict):
                holder[random.choice([*KEYS, str(key).upper(), f"_{key}", *other])] = holder.pop(key)
            case 12:
                holder[key] = {"reference": f"{resource.get('resourceType')}/{resource.get('id')}"}
            case 13:
                holder[key] = copy.deepcopy(resource)
            case 14 if random.random() < 0.4:
                holder[key] = MARK
            case 15:
                resource["resourceType"] = random.choice(self.types)

    def _nested(self, value: Any) -> Any:
        key = self.random.choice([None, "item", "extension", "contained", "x"])
        for _ in range(self.random.choice([2, 10, 25])):
            value = [value] if key is None else {key: [value]}
        return value


def examples(adapter: str) -> list[dict[str, Any]]:
    """The resources of an adapter's examples and of the base adapter's, each type among the first."""
    folders = sorted(bundled("adapters").glob("*/examples/*/in"))
    own = [folder for folder in folders if folder.parts[-4] in (adapter, "fhir_r4")]
    found = [read.resource for folder in own for read in open_export(folder).read() if read.resource]
    assert len(found) > 10
    return found


TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")


def kinds(text: bytes) -> set[str]:
    """What a line may be counted as, told by Python's own JSON; nothing for a blank one.

    Whoever passes over an element need not see that the number in it is beyond all bounds.
    """
    return {_kind(text, strict) for strict in (True, False)} if text.strip() else set()


def _kind(text: bytes, strict: bool) -> str:
    try:
        value = _loads(text, strict)
    except (ValueError, RecursionError):
        return "?"
    name = value.get("resourceType") if isinstance(value, dict) else None
    return name if isinstance(name, str) and TYPE.fullmatch(name) else "?"


def _loads(text: bytes, strict: bool) -> Any:
    number = _finite if strict else float
    value = json.loads(text.decode(), parse_constant=_refuse, parse_float=number, parse_int=number)
    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    return value


def _refuse(text: str) -> None:
    raise ValueError(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def check(events: Events, lines: list[bytes]) -> None:
    """Whether every line is accounted for, and no event comes of what was not used."""
    counts = events.coverage["resources"]
    possible = list(filter(None, map(kinds, lines)))
    least = Counter(next(iter(found)) for found in possible if len(found) == 1)
    most = Counter(name for found in possible for name in found)
    assert sum(found["read"] for found in counts.values()) == len(possible)
    assert all(least[name] <= counts.get(name, {"read": 0})["read"] <= most[name] for name in most)
    assert counts.keys() <= most.keys() and most.total() < 1.1 * len(possible)
    for found in counts.values():
        assert found["read"] == found["used"] + sum(found["unused"].values()) + sum(found["set_aside"].values())
        assert min([found["used"], *found["unused"].values(), *found["set_aside"].values()]) >= 0
    quarantine = [json.loads(line) for line in (events.folder / "quarantine.ndjson").read_text().splitlines()]
    aside: Counter[str] = Counter()
    for found in counts.values():
        aside.update(found["set_aside"])
    assert Counter(line["reason"] for line in quarantine) == aside
    assert len({line["line"] for line in quarantine}) == len(quarantine)

    frame = events.scan().collect()
    assert frame.height == events.coverage["events"]
    sources = set(frame["resource_id"].drop_nulls())
    lost = {line["resource_id"] for line in quarantine if line["reason"] != "repeated"}
    assert not sources & lost, "what was set aside is no event"
    used = {name for name, found in counts.items() if found["used"]}
    assert {source.split("/")[0] for source in sources} <= used
    assert sources <= {one for line in lines for one in named(line)}
    assert frame["code"].null_count() == 0 and frame["subject_id"].null_count() == 0
    assert frame.filter(pl.col("numeric_value").is_nan() | pl.col("numeric_value").is_infinite()).is_empty()


def named(text: bytes) -> set[str]:
    """Type and id of a line, if it is a resource."""
    return {f"{name}/{_loads(text, strict=False).get('id')}" for name in kinds(text) - {"?"}}


def run(adapter: Any, sound: list[dict[str, Any]], number: int, seed: int, folder: Path, **options: Any) -> Events:
    lines = list(Harm(sound, Random(seed)).texts(number))
    (folder / "export").mkdir()
    (folder / "export" / "all.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        events = convert(folder / "export", adapter, folder / "events", **options)
    finally:
        faulthandler.cancel_dump_traceback_later()
    check(events, lines)
    return events


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_thousand(adapter, tmp_path):
    events = run(load_adapter(adapter), examples(adapter), 1_500, seed=7, folder=tmp_path)
    assert events.coverage["events"] > 100, "what is sound among them is converted"
    found = left_out(tmp_path / "export", adapter)
    lines = (tmp_path / "export" / "all.ndjson").read_bytes().split(b"\n")
    assert found.resources == sum(_kind(line, strict=True) != "?" for line in lines)  # it passes over nothing
    assert all(number <= found.sampled for number in (found.elements | found.systems).values())
    guess_adapter(tmp_path / "export")


def test_doctor(tmp_path):
    events = run(load_adapter("fhir_r4"), examples("fhir_r4"), 1_500, seed=9, folder=tmp_path)
    assert f"{events.coverage['events']:,} events" in diagnose(tmp_path / "export", "fhir_r4").text


def test_the_same_in_pieces_and_processes(tmp_path, monkeypatch):
    adapter, sound = load_adapter("fhir_r4"), examples("fhir_r4")
    (tmp_path / "whole").mkdir()
    whole = run(adapter, sound, 2_000, 8, tmp_path / "whole", keep_quarantined=True)
    monkeypatch.setattr(pieces, "SIZE", 20_000)
    monkeypatch.setattr(engine, "_WORTH_SHARING", 0)
    monkeypatch.setattr(threads, "available", lambda: 2)
    (tmp_path / "shared").mkdir()
    shared = run(adapter, sound, 2_000, 8, tmp_path / "shared", keep_quarantined=True, threads=2)
    assert shared.coverage == whole.coverage
    assert (shared.folder / "quarantine.ndjson").read_bytes() == (whole.folder / "quarantine.ndjson").read_bytes()
    assert shared.scan().collect().equals(whole.scan().collect())
    assert shared.codes.equals(whole.codes)


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "exports"), [(name, 20 if name == "fhir_r4" else 4) for name in ADAPTERS])
def test_a_hundred_thousand(adapter, exports):
    """20 exports of 5,000 resources for the base adapter, four for each that extends it; hypothesis picks the seeds."""
    loaded, sound = load_adapter(adapter), examples(adapter)

    @settings(max_examples=exports, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(seed=st.integers(0, 2**32))
    def convert_all(seed: int) -> None:
        with TemporaryDirectory() as folder:
            run(loaded, sound, 5_000, seed, Path(folder))

    convert_all()
