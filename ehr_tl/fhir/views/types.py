"""What must be known of FHIR R4's types to read JSON, where `value[x]` is written `valueQuantity`."""

from __future__ import annotations


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

#: Types that JSON writes as text.
TEXTUAL = TEMPORAL | _names("base64Binary canonical code id markdown oid string uri url uuid")
