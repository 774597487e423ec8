from __future__ import annotations

import subprocess
import sys

import pytest

import ehr_tl


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", ehr_tl.__all__)
def test_a_public_name_is_there_and_is_no_module(name: str) -> None:
    assert type(getattr(ehr_tl, name)).__name__ in ("function", "type", "str")


@pytest.mark.parametrize("first", ["ehr_tl.convert", "ehr_tl.doctor", "ehr_tl.pipeline"])
def test_convert_stays_the_function_whatever_is_imported_first(first: str) -> None:
    assert python(f"import {first}, ehr_tl; print(type(ehr_tl.convert).__name__)") == "function"


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "shap", "lightgbm", "sklearn", "polars", "pandas")
    assert python(f"import sys, ehr_tl; print([name for name in {heavy} if name in sys.modules])") == "[]"
