"""What a pretrained network makes of a subject's record at a moment: one vector, for models of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ehr_tl.events import Events
from ehr_tl.models.risk_network import Reading
from ehr_tl.progress import track
from ehr_tl.tokens.batches import by_length
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.sequences import build_sequences

if TYPE_CHECKING:
    from ehr_tl.models.checkpoint import Checkpoint

_SLOTS = 8192  # padded slots of one pass


def embed(checkpoint: Checkpoint, events: Events, rows: pl.DataFrame) -> np.ndarray:
    """Vectors of each row's query slot: what is known up to the prediction time. Float32, shape (rows, width).

    Slots are as wide as the events say (`export.slot_hours`), else as in the checkpoint's pretraining.

    Args:
        checkpoint: The network and how it reads records.
        events: The events folder.
        rows: Columns `subject_id` and `prediction_time`.
    """
    import torch

    model, config = checkpoint.model, checkpoint.model.config
    records = read_records(events, rows, events.export.slot_hours or config.slot_hours)
    asked = build_sequences(records, rows, config.max_slots)
    reading = Reading(asked, checkpoint.vocabulary.encode(records))
    vectors = np.zeros((len(asked), config.hidden_size), dtype=np.float32)
    groups = list(by_length(asked.group(np.arange(len(asked))), _SLOTS))
    for group in track(groups, f"embedding with {checkpoint.path.name}"):
        batch = reading.batch(group)
        with torch.inference_mode():
            vectors[batch.rows] = model(batch, reading.book).float().numpy()
    return vectors
