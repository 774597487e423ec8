"""Where the declarative files live: adapters, pipelines, checkpoints and the sample export.

In a checkout `adapters/` and `pipelines/` lie at its top; in a wheel below `ehr_tl/_bundled/`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def bundled(kind: str) -> Path:
    """The folder that holds the shipped `adapters` or `pipelines`."""
    inside = _PACKAGE / "_bundled" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def checkpoints() -> Path:
    """The folder of the checkpoints that ship with the package."""
    return _PACKAGE / "checkpoints"


def sample_export() -> Path:
    """The synthetic sample export that ships with the package (see its PROVENANCE.md)."""
    return _PACKAGE / "sample" / "fhir"
