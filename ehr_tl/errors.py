"""Every error that is the user's to mend.

::

    EhrTlError
    ├── ExportError       the FHIR export cannot be read or holds nothing of use
    ├── FetchError        a server's export cannot be had, or not whole
    ├── AdapterError      an adapter, view or concept map is wrong
    ├── PipelineError     a pipeline file is wrong
    ├── CohortError       a task yields no cohort that a model can learn from
    ├── CheckpointError   a checkpoint folder cannot be opened
    └── RunError          a run folder is absent, unfinished or of another version

The command line prints one of these as a paragraph and exits with 2; anything else that escapes is a
defect of this package and exits with 1. Messages name files, lines, resource ids and settings, never what a
resource says of a patient.
"""

from __future__ import annotations


class EhrTlError(Exception):
    """What is wrong, what was expected and what to do about it.

    Args:
        problem: What was found, and where.
        expected: What would have been right.
        fix: What the user can do now.

    Examples:
        >>> print(EhrTlError("The folder data/ is empty.", expected="NDJSON files", fix="Name another folder."))
        The folder data/ is empty. Expected: NDJSON files. What to do: Name another folder.
    """

    def __init__(self, problem: str, *, expected: str | None = None, fix: str | None = None):
        self.problem, self.expected, self.fix = problem, expected, fix
        parts = [_sentence(problem)]
        if expected:
            parts.append(_sentence(f"Expected: {expected}"))
        if fix:
            parts.append(_sentence(f"What to do: {fix}"))
        super().__init__(" ".join(parts))


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


class ExportError(EhrTlError):
    """The FHIR export cannot be read or holds nothing of use."""


class FetchError(EhrTlError):
    """A server's export cannot be had, or not whole."""


class AdapterError(EhrTlError):
    """An adapter, view or concept map is wrong."""


class PipelineError(EhrTlError):
    """A pipeline file is wrong."""


class CohortError(EhrTlError):
    """A task yields no cohort that a model can learn from."""


class CheckpointError(EhrTlError):
    """A checkpoint folder cannot be opened."""


class RunError(EhrTlError):
    """A run folder is absent, unfinished or of another version."""
