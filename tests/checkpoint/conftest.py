"""Checkpoints without waiting for the disk: no test cuts the power."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
