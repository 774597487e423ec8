"""Every adapter's examples: `in` is an export, `out` what it must become.

To write `out` anew after a change that was meant: `ehr-tl adapters check NAME --write`; then read the diff.
"""

import pytest

from ehr_tl.convert.check import check_example, examples
from ehr_tl.convert.guess import guess_adapter
from ehr_tl.resources import bundled

SHIPPED = sorted(path.parent for path in bundled("adapters").glob("*/adapter.yaml"))
CASES = [case for folder in SHIPPED for case in examples(folder)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.parent.name}-{case.name}")
def test_example(case):
    assert check_example(case) == []


def test_every_adapter_has_an_example():
    assert SHIPPED
    assert {case.parent.parent for case in CASES} == set(SHIPPED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.parent.name}-{case.name}")
def test_the_adapter_is_guessed(case):
    name, reason = guess_adapter(case / "in")
    assert name == case.parent.parent.name
    assert "looked at" in reason
