"""Processes of test federations, started as in tests/integration."""

from __future__ import annotations

from tests.integration.conftest import launcher, tiny_model

__all__ = ["launcher", "tiny_model"]
