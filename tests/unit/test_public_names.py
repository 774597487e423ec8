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


@pytest.mark.parametrize(
    "code",
    [
        "import ehr_tl; from transformers import AutoModel; AutoModel.from_pretrained({folder!r})",
        "from transformers import AutoModel; import ehr_tl; AutoModel.from_pretrained({folder!r})",
        "import transformers, ehr_tl; transformers.AutoModel.from_pretrained({folder!r}, local_files_only=True)",
        "import ehr_tl; from transformers import AutoConfig; AutoConfig.from_pretrained({folder!r})",
        "from transformers import AutoConfig; import ehr_tl; AutoConfig.for_model('ehr_tl', hidden_size=96)",
    ],
)
def test_transformers_opens_what_was_saved_after_the_package_was_imported(saved: str, code: str) -> None:
    *setup, opened = code.format(folder=saved).split("; ")
    name = "EhrModel" if "AutoModel" in opened else "EhrConfig"
    assert python(f"{'; '.join(setup)}; print(type({opened}))") == f"<class 'ehr_tl.models.network.{name}'>"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved")
    ehr_tl.load_checkpoint("ehr_tl_base").model.save_pretrained(folder)
    return str(folder)


def test_transformers_is_used_without_our_network_where_nobody_asks_for_it() -> None:
    modules = "print(sorted(name for name in sys.modules if name.startswith('ehr_tl.models')))"
    found = python(f"import sys, ehr_tl; from transformers import AutoConfig, LlamaModel; {modules}")
    assert found == "['ehr_tl.models', 'ehr_tl.models.registration']"
