"""The model card of a pretrained checkpoint."""

from __future__ import annotations

from collections.abc import Sequence as Many

from ehr_tl.events import Events
from ehr_tl.transfer.pretrain import PretrainConfig, Pretrained

_CARD = """\
---
license: apache-2.0
library_name: ehr_tl
tags: [ehr, fhir, meds, time-slots{tag}]
---

# {name}

A causal transformer over the time slots of health records, pretrained to foretell what comes next. `ehr-tl` adapts it
to a hospital's own question; by itself it answers none.

## Trained on

{sources}

{notice}

## What it is

{parameters:,} parameters: a Llama decoder of width {width} with {layers} layers over slots of {slot_hours:g} hours, at
most {max_slots} slots back. {codes:,} codes are known by themselves, any other code by its ancestors and the words of
its description; {valued} codes have value bins of their own. It opens with `ehr_tl.load_checkpoint`, or with
`transformers.AutoModel.from_pretrained` once `ehr_tl` was imported.

## How it was trained

{epochs} epochs, AdamW, learning rate {rate:g}. Objectives: the codes of the next slot; at random times, which of
{outcomes:,} codes (death among them) occur within {horizons} days, in windows that had closed by the end of the export
alone. Random events and codes are hidden. Seed {seed}.

On {validation:.0%} of the subjects, held out:

| measure | value |
| --- | --- |
{measures}

## Limits

{limits}

It must not be used on patients without being adapted, calibrated and evaluated on data of the hospital where it is to
be used.
"""

_SYNTHETIC = "Every record is synthetic: nobody in it exists."
_SYNTHETIC_LIMITS = (
    "It knows the rules of a simulator. That it carries over from one simulated hospital to another shows that the\n"
    "machinery works, not that it carries over between real ones."
)
_REAL_LIMITS = "It knows the coding habits and the case mix of its sources, and they differ elsewhere."


def pretraining_card(name: str, result: Pretrained, config: PretrainConfig, sources: Many[Events]) -> str:
    """Markdown text of a checkpoint's MODEL_CARD.md."""
    network = result.model.config
    synthetic = all(each.export.synthetic for each in sources)
    notices = sorted({each.export.notice for each in sources if each.export.notice})
    return _CARD.format(
        name=name,
        tag=", synthetic" if synthetic else "",
        sources="\n".join(
            f"- {each.folder.name}: {each.subjects.height:,} subjects, until {each.export.end:%Y-%m-%d}"
            for each in sources
        ),
        notice=" ".join([_SYNTHETIC] * synthetic + notices) or "",
        parameters=result.model.num_parameters(),
        width=network.hidden_size,
        layers=network.num_hidden_layers,
        slot_hours=network.slot_hours,
        max_slots=network.max_slots,
        codes=len(result.vocabulary.codes),
        valued=len(result.vocabulary.valued),
        epochs=config.epochs,
        rate=config.learning_rate,
        outcomes=len(network.outcomes),
        horizons=", ".join(map(str, config.horizons_days)),
        seed=config.seed,
        validation=config.validation,
        measures="\n".join(f"| {k.replace('_', ' ')} | {v} |" for k, v in result.history[-1].items() if k != "epoch"),
        limits=_SYNTHETIC_LIMITS if synthetic else _REAL_LIMITS,
    )
