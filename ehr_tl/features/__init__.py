"""Windowed features of rows (subject, prediction time), sparse all the way."""

from ehr_tl.features.build import build
from ehr_tl.features.matrix import COLUMNS, Features
from ehr_tl.features.memory import Build, Remembered
from ehr_tl.features.profile import Profile, profile

__all__ = ["COLUMNS", "Build", "Features", "Profile", "Remembered", "build", "profile"]
