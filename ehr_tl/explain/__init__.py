"""Explanations of scores: additive, with the facts of the record behind each part, and in words."""

from ehr_tl.explain.assemble import assemble, check_additivity
from ehr_tl.explain.words import reasons

__all__ = ["assemble", "check_additivity", "reasons"]
