"""What a FHIR `Reference.reference` points to (https://hl7.org/fhir/R4/references.html)."""

from __future__ import annotations


def reference_key(reference: str) -> tuple[str | None, str]:
    """The type and id that a reference names; pure parsing, nothing is looked up.

    Args:
        reference: `Patient/x`, an absolute URL, a versioned reference, `urn:uuid:x`, `#x` (contained) or a conditional
            reference such as `Patient?identifier=system|value`.

    Returns:
        Type (None where the reference does not say) and id. What is no id keeps the mark that tells it from one:
        `urn:uuid:x`, `#x`, and `?identifier=...` for conditional references.

    Examples:
        >>> reference_key("Patient/x"), reference_key("https://a.org/fhir/Patient/x/_history/2")
        (('Patient', 'x'), ('Patient', 'x'))
        >>> reference_key("urn:uuid:1f"), reference_key("#drug")
        ((None, 'urn:uuid:1f'), (None, '#drug'))
        >>> reference_key("Patient?identifier=urn:a|7")
        ('Patient', '?identifier=urn:a|7')
    """
    kind, slash, key = reference.rpartition("/")
    if slash and kind.isalpha() and "?" not in key and "#" not in key:
        return kind, key
    if reference.startswith(("urn:", "#")):
        return None, reference
    path, mark, query = reference.partition("?")
    if mark:
        return path.rpartition("/")[2] or None, "?" + query
    parts = path.split("#", 1)[0].rstrip("/").split("/")
    if "_history" in parts:
        parts = parts[: parts.index("_history")]
    if len(parts) >= 2 and parts[-2].isalpha():
        return parts[-2], parts[-1]
    return None, parts[-1] if parts else reference
