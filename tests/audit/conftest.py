"""Fixtures: one valid synthetic federation for the whole session, and memoised signatures."""

from __future__ import annotations

import pytest

from fedfm_crypto.errors import SignatureError
from fedfm_crypto.identity import IdentityPublicKey
from tests.audit.synthetic import Federation, play_federation


@pytest.fixture(scope="session")
def federation() -> Federation:
    """Five clients, three rounds: a full one, an aborted one, one with a dropout; concluded."""
    return play_federation()


@pytest.fixture(scope="session")
def bundle(federation: Federation) -> dict[str, bytes]:
    """The files of that federation's bundle; treat as read-only."""
    return federation.files()


@pytest.fixture
def remembered_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify each distinct (key, signature, message) once: the same answers, faster."""
    known: dict[tuple[bytes, bytes, bytes], str | None] = {}
    verify = IdentityPublicKey.verify_raw

    def remembered(self: IdentityPublicKey, signature: bytes, message: bytes) -> None:
        place = (self.raw, signature, message)
        if place not in known:
            try:
                verify(self, signature, message)
                known[place] = None
            except SignatureError as error:
                known[place] = str(error)
        reason = known[place]
        if reason is not None:
            raise SignatureError(reason)

    monkeypatch.setattr(IdentityPublicKey, "verify_raw", remembered)
