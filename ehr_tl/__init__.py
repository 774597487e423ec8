"""Calibrated, explained clinical risk scores from a FHIR export: transfer learning, offline, on a CPU.

The names below are the whole public interface; each is imported at its first use, so that importing the package is
quick and needs neither torch nor shap.

Examples:
    >>> import ehr_tl
    >>> "run" in dir(ehr_tl)
    True
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ehr_tl.models.registration import register_with_transformers

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_PUBLIC = {
    "EhrTlError": "ehr_tl.errors",
    "Run": "ehr_tl.pipeline",
    "convert": "ehr_tl.convert",
    "diagnose": "ehr_tl.doctor",
    "fetch": "ehr_tl.fetch",
    "load_checkpoint": "ehr_tl.models.checkpoint",
    "load_run": "ehr_tl.pipeline",
    "pretrain": "ehr_tl.transfer.pretrain",
    "run": "ehr_tl.pipeline",
    "run_view": "ehr_tl.fhir.views",
    "score": "ehr_tl.pipeline",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from ehr_tl.convert import convert as convert
    from ehr_tl.doctor import diagnose as diagnose
    from ehr_tl.errors import EhrTlError as EhrTlError
    from ehr_tl.fetch import fetch as fetch
    from ehr_tl.fhir.views import run_view as run_view
    from ehr_tl.models.checkpoint import load_checkpoint as load_checkpoint
    from ehr_tl.pipeline import Run as Run
    from ehr_tl.pipeline import load_run as load_run
    from ehr_tl.pipeline import run as run
    from ehr_tl.pipeline import score as score
    from ehr_tl.transfer.pretrain import pretrain as pretrain


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ehr_tl' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `ehr_tl.convert` the function: importing the subpackage of that name would put it in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
register_with_transformers()
