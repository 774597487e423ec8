"""What must be known of FHIR R4's types to read JSON, where `value[x]` is written `valueQuantity`."""

from __future__ import annotations

from functools import cache


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Data types that an element `name[x]` may take.
DATA_TYPES = _names(
    """
    base64Binary boolean canonical code date dateTime decimal id instant integer integer64 markdown oid positiveInt
    string time unsignedInt uri url uuid
    Address Age Annotation Attachment CodeableConcept CodeableReference Coding ContactDetail ContactPoint Contributor
    Count DataRequirement Distance Dosage Duration Expression HumanName Identifier Meta Money ParameterDefinition Period
    Quantity Range Ratio RatioRange Reference RelatedArtifact SampledData Signature Timing TriggerDefinition
    UsageContext
    """
)

#: Endings of JSON keys that say a type.
SUFFIXES = frozenset(name[0].upper() + name[1:] for name in DATA_TYPES)

#: Elements that are `name[x]` in clinical resources; without `ofType` they are found under any type.
CHOICES = _names(
    """
    abatement additive age allowed answer asNeeded born bounds chargeItem collected concentration deceased defaultValue
    diagnosis dose due effective example fastingStatus fixed identified indication manufacturer maxValue medication
    minValue multipleBirth occurred occurrence offset onset pattern performed probability product rate reported
    scheduled serviced value
    """
)

#: Types whose values are text that means a date or time.
TEMPORAL = frozenset(["date", "dateTime", "instant", "time"])

#: Elements with parts that FHIR R4 allows once in what views mostly read; as it does every `name[x]`.
ONCE = _names(
    """
    class clinicalStatus code context dataAbsentReason dischargeDisposition encounter hospitalization other patient
    period subject vaccineCode verificationStatus
    """
)

#: Elements with parts that FHIR R4 always writes in a list.
MANY = _names("coding component extension ingredient")

#: Types that JSON writes as text.
TEXTUAL = TEMPORAL | _names("base64Binary canonical code id markdown oid string uri url uuid")

#: Types with a part `value` that is no choice.
_VALUED = ("Age", "Count", "Distance", "Dose", "Duration", "Identifier", "Money", "Quantity")

#: Types of elements, in R4 and R5, that are not any type.
_DOSES = ("Quantity", "Range")
_OBSERVED = (
    *("Quantity", "CodeableConcept", "string", "boolean", "integer", "Range", "Ratio", "SampledData", "time"),
    *("dateTime", "Period", "Attachment", "Reference"),
)


def is_choice(name: str, owner: str | None) -> bool:
    """Whether an element may be written with its type.

    Args:
        name: Of the element.
        owner: Name of the element that it is a part of, as JSON has it (`identifier`, `valueQuantity`); None if that
            is not known.

    Examples:
        >>> is_choice("value", None), is_choice("value", "valueQuantity"), is_choice("status", None)
        (True, False, False)
    """
    plain = name == "value" and owner is not None and (owner[0].upper() + owner[1:]).endswith(_VALUED)
    return name in CHOICES and not plain


def typed(name: str, data_type: str) -> str:
    """An element's name in JSON, where it is of that type.

    Examples:
        >>> typed("value", "dateTime")
        'valueDateTime'
    """
    return name + data_type[0].upper() + data_type[1:]


@cache
def choices(name: str, owner: str | None) -> tuple[str, ...]:
    """All names that JSON may have for an element `name[x]`.

    Args:
        name: Of the element.
        owner: As in `is_choice`; or the type of a resource.
    """
    if name == "value" and owner in ("Observation", "component"):
        types = _OBSERVED
    else:
        types = _DOSES if name == "dose" else sorted(DATA_TYPES)
    return (name, *(typed(name, data_type) for data_type in types))
