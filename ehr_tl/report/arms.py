"""The models of a comparison as people read of them: what each is called, what it learned from, how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ehr_tl import schema
from ehr_tl.evaluate import FROM_SCRATCH
from ehr_tl.transfer.study.contest import CONTINUED, TABULAR_BLEND


@dataclass(frozen=True)
class Arm:
    """One model.

    Attributes:
        name: What it is called within a sentence.
        kind: What it learned from; `{checkpoint}` stands for the checkpoint's name.
        style: CSS class of its marks: one colour each for what learned here, at the sources, and from both.
        colour: Of its line among many.
    """

    name: str
    kind: str
    style: str
    colour: str

    @property
    def heading(self) -> str:
        """The name at the beginning of a line."""
        return self.name[0].upper() + self.name[1:]


_HERE, _THERE, _BOTH, _BLEND = "m-here", "m-there", "m-both", "m-blend"

#: All models: of local cases alone, of sources alone, of both, of all.
ARMS = {
    schema.LIGHTGBM: Arm(
        "local LightGBM", "trees on windowed counts and values, of the cases here alone", _HERE, "#d17f00"
    ),
    schema.LOGISTIC: Arm("local logistic regression", "on a few variables, of the cases here alone", _HERE, "#b5483a"),
    schema.TRANSFORMER: Arm("local transformer", "a network of the cases here alone", _HERE, "#8c6d31"),
    FROM_SCRATCH: Arm(
        "transformer from scratch", "the network without pretraining, to compare with", "m-scratch", "#8c6d31"
    ),
    schema.SOURCE: Arm(
        "source trees as they are", "trees of {checkpoint}; no case here was looked at", _THERE, "#0072b2"
    ),
    schema.SOURCE_HEAD: Arm(
        "source network as it is", "the network of {checkpoint}; no case here was looked at", _THERE, "#56a5d8"
    ),
    schema.RECALIBRATED: Arm(
        "source trees, recalibrated",
        "trees of {checkpoint}, their risks set right by the cases here",
        _THERE,
        "#7aa9c9",
    ),
    schema.ANCHORED: Arm(
        "trees on top of the source", "trees of the cases here, grown on top of the source trees", _BOTH, "#12836b"
    ),
    schema.POOLED: Arm(
        "pooled trees", "trees of the cases of the sources and of those here together", _BOTH, "#5c9c3a"
    ),
    schema.WEIGHTED: Arm(
        "pooled trees, weighted",
        "of both, too; the likelier a source's case is here, the more it counts",
        _BOTH,
        "#93ba6f",
    ),
    schema.PROBE: Arm(
        "network, probe", "a regression here on what the network of {checkpoint} makes of a record", _BOTH, "#7a4fb0"
    ),
    schema.FINETUNED: Arm("network, fine-tuned", "the network of {checkpoint}, adapted here", _BOTH, "#b083d9"),
    CONTINUED: Arm(
        "network, pretrained further",
        "a regression here, after further pretraining on records here",
        _BOTH,
        "#d58bc0",
    ),
    TABULAR_BLEND: Arm("blend without networks", "the models below but networks, weighted", _BLEND, "#6b7680"),
    schema.BLEND: Arm("blend", "the models below, weighted by the cases of the training folds", _BLEND, "#17212b"),
}

#: What the charts draw beside the model in use: of each group the first that there is. More could not be told apart.
_LINES = (
    (schema.LIGHTGBM, schema.LOGISTIC),
    (schema.RECALIBRATED, schema.SOURCE_HEAD),
    (schema.FINETUNED, schema.PROBE, schema.TRANSFORMER),
)


def drawn(models: Mapping[str, Any], chosen: str) -> list[str]:
    """Those of the models that charts draw, the one in use last."""
    found = (next((name for name in group if name in models), None) for group in _LINES)
    return [name for name in found if name not in (None, chosen)] + [chosen]
