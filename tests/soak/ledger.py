"""What must never happen to a federation, whatever its schedule; checked as things are said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.codec import decode
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.effects import Persist
from fedfm_protocols.errors import DivergenceError, EquivocationError
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import Cohort, CohortVote, KeyOffer, Unmask, read_body
from tests.protocols.scripted import integers_of


class Ledger:
    """Everything said by clients, and how rounds ended.

    An assertion fails as soon as a key is offered twice, for another round or another step, a
    client opens or votes twice in a step, uploads two different things in one, gives both kinds of
    share or a share of another step, opens a wrong sum, or two sites disagree.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.finished: list[Finished] = []
        self._owners: dict[bytes, tuple[str, bytes, int]] = {}
        self._contexts: dict[bytes, int] = {}
        self._once: dict[tuple[Any, ...], bytes] = {}
        self._kinds: dict[tuple[str, bytes, int, str], str] = {}
        self._shares: dict[bytes, tuple[str, bytes, int, str]] = {}
        self._journal: set[tuple[str, int, int, str]] = set()
        self._opened_with: dict[tuple[str, bytes, int], set[bytes]] = {}
        self._sums: dict[tuple[int, int], NDArray[np.int64]] = {}

    def journalled(self, name: str, record: Persist) -> None:
        """A client wrote a record: each kind once a step."""
        entry = (name, record.round, record.step, record.record)
        assert entry not in self._journal, f"{entry} was journalled twice"
        self._journal.add(entry)

    def sent(self, name: str, envelope: Envelope) -> None:
        """A client said something new (resends do not come here)."""
        header, step = envelope.header, envelope.header.step
        self._say_once(("sequence", name, header.context, header.sequence), envelope.encode())
        match header.type:
            case "KeyOffer":
                self._say_once(("KeyOffer", name, header.context), envelope.body)
                for place, key in enumerate(_keys_of(read_body(envelope, KeyOffer))):
                    owner = (name, header.context, place)
                    assert self._owners.setdefault(key, owner) == owner, f"{name} reuses a key"
            case "UploadHash" | "Upload" | "WrappedKey" | "KeyDealing" | "RoundAck" | "ShareBundle":
                self._say_once((header.type, name, header.context, step), envelope.body)
            case "KeyOpening":
                self._open_key(name, envelope)
            case "CohortVote":
                cohort = read_body(envelope, CohortVote).cohort_hash
                self._say_once(("CohortVote", name, header.context, step), cohort)
            case "Unmask":
                self._release(name, header.context, step, read_body(envelope, Unmask))

    def _open_key(self, name: str, envelope: Envelope) -> None:
        header = envelope.header
        self._say_once(("KeyOpening", name, header.context, header.refers_to), envelope.body)
        sets = self._opened_with.setdefault((name, header.context, header.step), set())
        sets.add(header.refers_to)
        assert len(sets) <= 2, f"{name} opened one key sum with {len(sets)} sets"
        records = [
            entry for entry in self._journal if entry[0] == name and "decrypting" in entry[3]
        ]
        assert len(records) >= len(sets), f"{name} opened a key sum before it was journalled"

    def _say_once(self, what: tuple[Any, ...], said: bytes) -> None:
        assert self._once.setdefault(what, said) == said, f"{what[:2]} said twice, differently"

    def _release(self, name: str, context: bytes, step: int, reveal: Unmask) -> None:
        for kind, entries in (("seed", reveal.seed_shares), ("key", reveal.key_shares)):
            for entry in entries:
                about = (name, context, step, entry.dealer)
                before = self._kinds.setdefault(about, kind)
                assert before == kind, f"{name} released both shares of {entry.dealer}"
                first = self._shares.setdefault(entry.value, about)
                assert first == about, f"{name} released a share of {entry.dealer} again"

    def opened(self, name: str, number: int, step: int, total: NDArray[np.float64]) -> None:
        """A client was given a sum: the same as everybody, whole numbers; checked against the
        plain sum when the round has ended."""
        scale = self.federation.charter.quantiser.scale
        integers = np.rint(total * scale).astype(np.int64)
        assert np.array_equal(integers, total * scale), "a sum with fractions"
        before = self._sums.setdefault((number, step), integers)
        assert np.array_equal(before, integers), f"{name} opened another sum of round {number}"

    def offers(self, name: str) -> int:
        """In how many rounds a client has offered keys."""
        return sum(what[:2] == ("KeyOffer", name) for what in self._once)

    def violated(self, name: str, error: Exception) -> None:
        """A client left a round: nobody here lies, so nobody may be accused of it."""
        assert not isinstance(error, (EquivocationError, DivergenceError)), f"{name}: {error}"

    def ended(self, finished: Finished) -> None:
        """The coordinator ended a round."""
        number = finished.round.identity.round
        assert number not in [f.round.identity.round for f in self.finished]
        self.finished.append(finished)
        section = self.federation.charter.quantiser
        opened = [step for other, step in self._sums if other == number]
        for step in opened:
            plain = sum(
                integers_of(section, name, number, step) for name in _accepted_in(finished, step)
            )
            found = self._sums[number, step]
            assert np.array_equal(plain, found), f"round {number} has a wrong sum in step {step}"
        if finished.outcome == "completed" and not finished.round.identity.makes_keys:
            assert finished.record is not None
            good = len(finished.record.aggregates)
            assert set(opened) >= set(range(good)), "a step is good whose sum nobody opened"


def _accepted_in(finished: Finished, step: int) -> tuple[str, ...]:
    """Whose updates are in the sum of a step."""
    for entry in finished.round.transcript.steps[step]:
        if entry.signed.header.type == "Cohort" and entry.body is not None:
            return decode(Cohort, entry.body).accepted
    raise AssertionError(f"a sum of step {step} without a cohort")


def _keys_of(offer: KeyOffer) -> Iterator[bytes]:
    yield offer.share_key
    yield offer.nonce_commitment
    for step in offer.steps:
        yield step.mask_key
        yield step.seed_commitment
