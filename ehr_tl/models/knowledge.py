"""What a checkpoint knows of codes, whoever made it; its network is not opened."""

from __future__ import annotations

from pathlib import Path

from ehr_tl.models.checkpoint import checkpoint_path, checkpoint_vocabulary
from ehr_tl.models.context_clues import is_context_clues, load_tokenizer
from ehr_tl.tokens.familiarity import Knowledge


def checkpoint_knowledge(name: str | Path) -> Knowledge:
    """What a checkpoint, given by folder or shipped name, knows of codes.

    One of the Context Clues family reads an event by its own codes alone, not by those above or by words.

    Raises:
        CheckpointError: There is no such checkpoint, or its vocabulary is broken.
    """
    path = checkpoint_path(name)
    if is_context_clues(path):
        return Knowledge(load_tokenizer(path).codes, parents=False)
    return Knowledge.of(checkpoint_vocabulary(path))
