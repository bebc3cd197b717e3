"""Why a client is excluded: a code for everybody, and a sentence for the validator's own log.

A verdict is public and scores are not, so what travels is a code of :data:`REASONS`; the numbers
behind it stay with the validator. A rule writes both as one text, ``code: sentence``.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REASONS", "UNJUDGED", "code_of", "in_group"]

REASONS: Mapping[str, str] = {
    "norm": "its update is much longer than the others'",
    "direction": "its update points away from the majority's",
    "root": "its update points away from the root client's",
    "distance": "its update is far from the others'",
    "clone": "its update resembles another client's too much",
    "impossible": "its sketch gives scores that no update has",
    "rule": "the rule excludes it",
    "unjudged": "nobody could be judged in this round; it is not about this client",
}
"""What each code says, for people."""

UNJUDGED = "unjudged"
"""Given to everybody at once: the rule could not judge the round."""
_OTHER = "rule"


def code_of(reason: str) -> str:
    """Return the code of a rule's reason; ``rule`` where it begins with none."""
    code, colon, _ = reason.partition(": ")
    return code if colon and code in REASONS else _OTHER


def in_group(group: str, reason: str) -> str:
    """Return a reason that holds in one group of values, with the same code."""
    code = code_of(reason)
    return f"{code}: in {group}: {reason.removeprefix(f'{code}: ')}"
