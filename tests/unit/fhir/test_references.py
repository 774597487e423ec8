import pytest

from ehr_tl.fhir.references import reference_key


@pytest.mark.parametrize(
    "reference, expected",
    [
        ("Patient/x", ("Patient", "x")),
        ("Patient/x/_history/2", ("Patient", "x")),
        ("https://a.org/fhir/r4/Patient/x", ("Patient", "x")),
        ("https://a.org/fhir/r4/Patient/x/_history/2", ("Patient", "x")),
        ("http://localhost:8080/Patient/a-1.b", ("Patient", "a-1.b")),
        ("Patient/x#part", ("Patient", "x")),
        ("urn:uuid:0f", (None, "urn:uuid:0f")),
        ("urn:oid:1.2/3", (None, "urn:oid:1.2/3")),
        ("#drug", (None, "#drug")),
        ("Patient?identifier=http://sys/a|7", ("Patient", "?identifier=http://sys/a|7")),
        ("http://a.org/Patient?identifier=x/y", ("Patient", "?identifier=x/y")),
        ("x", (None, "x")),
        ("", (None, "")),
    ],
)
def test_every_form_of_reference(reference, expected):
    assert reference_key(reference) == expected
