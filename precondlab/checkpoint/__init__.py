"""Checkpoints that survive ``kill -9``, detect every flipped bit, run no code when read, and resume bit for bit."""

from precondlab.checkpoint.autosave import Autosave
from precondlab.checkpoint.folder import load, save, saved
from precondlab.checkpoint.tree import fingerprint
from precondlab.errors import CheckpointError, CheckpointWarning

__all__ = ["Autosave", "CheckpointError", "CheckpointWarning", "fingerprint", "load", "save", "saved"]
