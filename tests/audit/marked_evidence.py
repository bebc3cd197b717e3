"""Federations with ownership marks that the real state machines played, and what owners say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from fedfm_audit.mark_predicates import MarkCheckPredicate, MarkPredicate
from fedfm_audit.statements import mark_statement, sign_statement
from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey
from fedfm_audit.watermark.statistic import Trials
from fedfm_crypto.random_source import SeededRandom
from tests.audit.marks import CARRIER, Owner
from tests.audit.simulated import Evidence, played
from tests.protocols.federations import Keys, make_keys

PLACES = (("client-01", "own"), ("client-02", "consortium"), ("client-02", "own"))
THRESHOLD = Trials(len(PLACES), 1).threshold
Leaves = list[tuple[str, str, bytes]]


@cache
def owner_of(client: str, mark: str, keys: int = 1) -> Owner:
    """A mark of a client of the test federation; its key follows from its name."""
    identity = make_keys(5).clients[client]
    key = MarkKey.generate(SeededRandom(f"{client} {mark}".encode()))
    claim = Claim(
        "ownership", "test", identity.public, "00" * 32, CARRIER.targets(), 256, 0.6, keys
    )
    return Owner(identity, key, key.commit(claim, identity))


def leaf_of(keys: Keys, client: str, mark: str, **changes: Any) -> tuple[str, str, bytes]:
    """The leaf that commits to it; ``changes`` replace fields of the predicate, ``key`` signs."""
    signer = changes.pop("key", None) or keys.clients[client]
    said = MarkPredicate("test", client, mark, owner_of(client, mark).committed)
    return client, mark, sign_statement(mark_statement(replace(said, **changes)), signer)


def honest_marks(keys: Keys) -> Leaves:
    """Two clients commit, one of them for the consortium too."""
    return [leaf_of(keys, client, mark) for client, mark in PLACES]


def word(evidence: Evidence, client: str, mark: str, value: float = 12.0, **changes: Any) -> bytes:
    """What an owner says after the last round, of T ``value``."""
    last = max(evidence.predicates)
    said = MarkCheckPredicate(
        evidence.charter.hash.hex(),
        client,
        mark,
        owner_of(client, mark).claim.digest().hex(),
        last,
        evidence.predicates[last].adapter_out,
        value >= THRESHOLD,
        value,
        THRESHOLD,
    )
    signer = changes.pop("key", None) or evidence.keys.clients[client]
    return sign_statement(mark_statement(replace(said, **changes)), signer)


def honest_words(evidence: Evidence) -> Sequence[bytes]:
    """Every owner says that its mark is there."""
    return [word(evidence, client, mark) for client, mark in PLACES]


def marked_evidence(
    marks: Callable[[Keys], Leaves] = honest_marks,
    words: Callable[[Evidence], Sequence[bytes]] = honest_words,
    **changes: Any,
) -> Evidence:
    """Two rounds of training, and one of marks."""
    options = {"mark_rounds": (3,), "agreed": 2, "suite": "clear", **changes}
    rounds, losses = options.pop("rounds", 3), options.pop("losses", {})
    return played(5, rounds, losses, marks=marks, words=words, **options)


def claimed_for(client: str, mark: str, **changes: Any) -> CommittedClaim:
    """A commitment to another claim than the honest one, signed by its owner all the same."""
    one = owner_of(client, mark)
    return one.key.commit(replace(one.claim, **changes), one.identity)
