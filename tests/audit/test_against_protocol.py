"""The federation's real state machines leave evidence that the auditor's second implementation
accepts, on complete and on sparse graphs; and it refuses the same evidence once it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from fedfm_audit.charter_view import open_charter
from fedfm_audit.entries import ROBUST_MESSAGES
from fedfm_audit.graph import graph_parameters
from fedfm_audit.messages import GraphNonce
from fedfm_audit.report import Report, Status
from fedfm_audit.transcript import PUBLIC_BODIES, Transcript, count_round
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import SignedHeader
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.labels import Label
from fedfm_protocols.errors import CharterError
from fedfm_protocols.graph import find_parameters
from tests.audit.simulated import Evidence, Losses, Messages, played
from tests.protocols.federations import Keys

# Late enough in a round that everybody still learns of its end, until the last one.
FIVE: Losses = {
    2: {"Upload": ["client-02"]},
    3: {"UploadHash": ["client-01", "client-04"]},
    4: {"CohortVote": ["client-03"]},
    5: {"Unmask": ["client-03", "client-05"]},
    6: {"RoundAck": ["client-02", "client-03"]},
    7: {"ShareBundle": ["client-01"]},
    8: {"KeyOffer": ["client-05"]},
}
# Rounds 1, 5 and 9 make keys; elsewhere a key sum is opened, or not, by two active sets.
KEY_ROUNDS = (1, 5, 9)
ENCRYPTED: Losses = {
    3: {"KeyOpening": ["client-01"]},
    4: {"WrappedKey": ["client-02"]},
    5: {"KeyDealing": ["client-05"]},
    6: {"KeyOpening": ["client-01", "client-03"]},
    7: {"RoundAck": ["client-02", "client-03"]},
    9: {"RoundAck": ["client-01", "client-02"]},
}
SEVENTY: Losses = {
    1: {
        "KeyOffer": ["client-07"],
        "GraphNonce": ["client-02", "client-31"],
        "ShareBundle": ["client-33"],
        "Upload": ["client-54"],
        "Unmask": ["client-11"],
    },
    2: {"GraphNonce": [f"client-{i}" for i in range(20, 25)]},
}


@cache
def _sparse() -> Evidence:
    return played(70, 2, SEVENTY, limits={"colluding": 5, "dropouts": 5})


def _assert_verified(report: Report) -> None:
    assert report.ok, report.to_text()
    assert all(step.status is Status.VERIFIED for step in report.steps[:6])


@pytest.mark.parametrize("suite", ["masked", "clear"])
def test_rounds_on_a_complete_graph_verify(suite: str) -> None:
    evidence = played(5, 8, FIVE, suite=suite)
    done, stopped = "completed", "aborted"
    assert evidence.outcomes == [done, done, stopped, done, stopped, "void", done, stopped]
    _assert_verified(evidence.verify())


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["sealed", "layered"])
def test_rounds_under_collective_keys_verify(suite: str) -> None:
    evidence = played(5, 10, ENCRYPTED, key_rounds=KEY_ROUNDS, suite=suite)
    made, done, stopped = "keys completed", "completed", "aborted"
    assert evidence.outcomes == [
        *(made, done, done, done),
        *(made, stopped, "void", done),
        *("keys aborted", done),
    ]
    report = evidence.verify()
    _assert_verified(report)
    assert report.summary is not None
    assert (report.summary.keys_made, report.summary.rounds_completed) == (2, 5)
    counts = [count_round(Transcript.decode(evidence.transcripts[n])) for n in (3, 4, 5, 6)]
    assert [count.openings for count in counts] == [3, 2, 0, 2]
    assert (counts[1].accepted, counts[1].removed, counts[2].dealers) == (4, 1, 4)


def test_rounds_on_a_sparse_graph_verify() -> None:
    evidence = _sparse()
    assert evidence.outcomes == ["completed", "aborted"]
    _assert_verified(evidence.verify())
    entries = Transcript.decode(evidence.transcripts[1]).entries
    shown = {entry.header.type for entry in entries if entry.body is not None}
    assert shown == PUBLIC_BODIES - ROBUST_MESSAGES


def test_a_clear_round_of_seventy_verifies_without_nonces() -> None:
    evidence = played(70, 1, {}, suite="clear", limits={"colluding": 5, "dropouts": 5})
    assert evidence.outcomes == ["completed"]
    _assert_verified(evidence.verify())


def test_both_readers_see_one_charter() -> None:
    evidence = _sparse()
    view, charter = open_charter(evidence.envelope), evidence.charter
    assert (view.digest, view.config_hash) == (charter.hash, charter.config_hash)
    for name in ("vote_quorum", "min_accepted", "sparse"):
        assert getattr(view.thresholds, name) == getattr(charter.thresholds, name)


@pytest.mark.parametrize("clients", [65, 70, 99, 150, 300, 1000])
def test_both_searches_find_the_same_graph(clients: int) -> None:
    """One in logarithms, one in exact integers."""
    for colluding in {1, 5, clients // 20, clients // 10}:
        for dropouts in {0, 1, clients // 20, clients // 10}:
            try:
                found = find_parameters(clients, colluding, dropouts)
            except CharterError:
                assert graph_parameters(clients, colluding, dropouts) is None
                continue
            again = graph_parameters(clients, colluding, dropouts)
            assert again is not None
            assert (again.degree, again.threshold, again.min_neighbours) == (
                found.degree,
                found.threshold,
                found.min_neighbours,
            )


# ---------------------------------------------------------------- lies about the graph


def _resigned(
    key: IdentityKey, message: tuple[SignedHeader, bytes | None], body: bytes
) -> tuple[SignedHeader, bytes | None]:
    signed, _ = message
    header = replace(signed.header, body_hash=hashlib.sha256(body).digest())
    return SignedHeader(header, key.sign(Label.ENVELOPE, encode(header))), body


def _another_nonce(keys: Keys, messages: Messages) -> Messages:
    """client-01 opens another nonce than it committed to, and signs it."""
    key, body = keys.clients["client-01"], encode(GraphNonce(b"\x07" * 32))
    return [
        _resigned(key, m, body)
        if (m[0].header.type, m[0].header.sender) == ("GraphNonce", "client-01")
        else m
        for m in messages
    ]


def _dropped(kind: str, *senders: str) -> Callable[[Keys, Messages], Messages]:
    def change(keys: Keys, messages: Messages) -> Messages:
        del keys
        return [
            m
            for m in messages
            if m[0].header.type != kind or (senders and m[0].header.sender not in senders)
        ]

    return change


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (
            _another_nonce,
            (
                "client-01 opened another nonce than it committed to",
                "GraphNonces is not made of exactly these nonces",
            ),
        ),
        (
            _dropped("GraphNonce", "client-01"),
            (
                "GraphNonces is not made of exactly these nonces",
                "masked for another set of dealers, or on another",
                "not among those who opened their nonces",
            ),
        ),
        (_dropped("GraphNonces"), ("no GraphNonces, though the round went on",)),
    ],
)
def test_lies_about_the_graph_fail(
    change: Callable[[Keys, Messages], Messages], texts: tuple[str, ...]
) -> None:
    evidence = played(70, 1, {}, change, limits={"colluding": 5, "dropouts": 5})
    report = evidence.verify()
    assert not report.ok
    step = report.steps[4]
    assert step.status is Status.FAILED
    for text in texts:
        assert any(text in failure.reason for failure in step.failures), report.to_text()
