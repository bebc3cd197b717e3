"""Every act that a scenario can name, in one place: importing them fills the registry."""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "network",
    "crashes",
    "lies_opening",
    "lies_dealing",
    "lies_cohort",
    "lies_closing",
    "lies_log",
    "lies_clients",
    "lies_shares",
    "lies_keys",
    "lies_wraps",
    "lies_decrypting",
    "lies_session",
    "lies_robust",
    "lies_judged",
    "two_stories",
    "two_histories",
)


def load() -> None:
    """Import the modules that hold acts."""
    for name in MODULES:
        import_module(f"fedfm_protocols.scenario.{name}")
