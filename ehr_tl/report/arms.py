"""The models of a comparison as people read of them: what each is called, what it learned from, how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ehr_tl import schema
from ehr_tl.evaluate import FROM_SCRATCH


@dataclass(frozen=True)
class Arm:
    """One model.

    Attributes:
        name: What it is called.
        kind: What it learned from; `{checkpoint}` stands for the checkpoint's name.
        style: CSS class of its marks: one colour each for what learned here, at the sources, and from both.
    """

    name: str
    kind: str
    style: str


_HERE, _THERE, _BOTH = "m-here", "m-there", "m-both"

#: All models, in the order of the table.
ARMS = {
    schema.BLEND: Arm("Blend", "the models below, weighted by the cases of the training folds", "m-blend"),
    schema.FINETUNED: Arm("Transformer, fine-tuned", "pretrained ({checkpoint}), adapted to the cases here", _BOTH),
    schema.PROBE: Arm(
        "Transformer, probe", "a regression here on what the pretrained network ({checkpoint}) sees in a record", _BOTH
    ),
    schema.ANCHORED: Arm("Trees on the source's score", "trees of the cases here, on top of the source trees", _BOTH),
    schema.POOLED: Arm("Pooled trees", "trees of the cases of the sources and of those here together", _BOTH),
    schema.WEIGHTED: Arm(
        "Pooled trees, weighted", "the same; the likelier here, the more a source's case counts", _BOTH
    ),
    schema.RECALIBRATED: Arm("Source trees, recalibrated", "their risks are set right with the cases here", _THERE),
    schema.SOURCE: Arm(
        "Source trees as they are", "trees of the source hospitals ({checkpoint}); no case here was looked at", _THERE
    ),
    schema.SOURCE_HEAD: Arm(
        "Source transformer as it is", "the network of {checkpoint}; no case here was looked at", _THERE
    ),
    schema.LIGHTGBM: Arm("Local LightGBM", "trees on windowed counts and values, of the cases here alone", _HERE),
    schema.LOGISTIC: Arm("Local regression", "on a few variables, of the cases here alone", _HERE),
    schema.TRANSFORMER: Arm("Local transformer", "the network, of the cases here alone", _HERE),
    FROM_SCRATCH: Arm("Transformer from scratch", "the network without pretraining, to compare with", "m-scratch"),
}

#: What the charts draw, in this order: of each group the first that there is. More lines could not be told apart.
_LINES = (
    (schema.LIGHTGBM, schema.LOGISTIC),
    (schema.RECALIBRATED, schema.SOURCE_HEAD),
    (schema.FINETUNED, schema.PROBE, schema.TRANSFORMER),
    (schema.BLEND,),
)


def drawn(models: Mapping[str, Any]) -> list[str]:
    """Those of the models that charts draw, the most important last."""
    found = (next((name for name in group if name in models), None) for group in _LINES)
    return [name for name in found if name is not None]
