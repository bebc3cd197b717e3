"""What holds in every step of every round of every scenario, whatever is done to it.

1.  No honest client gives out both kinds of shares of one step's secrets of a dealer, shares for
    two cohorts of a step, or twice; nor any share for another step than its cohort is of, or of a
    dealer that was left out after an earlier step.
2.  The adversary (the coordinator with every malicious client) never gets enough shares of both
    secrets that an honest client has for a step: its update would lie bare.
3.  No sum is opened with fewer than two honest updates in it.
4.  No honest holder helps to open a step's key sum more than twice, with one active set twice, or
    for a cohort that no quorum voted for.
5.  What a crash must not undo is journalled before the message that depends on it is sent.
6.  No honest client signs two different bodies of one type for one step, offers keys twice for
    one round number, offers a key that it offered before, or gives out a share that it gave out
    before.
7.  The honest validator gives one verdict and one check of a sum for a step, each journalled before
    it is sent and the same bytes however often it is asked.

Source: protocols/README.md, sections "Roles and trust", "Sessions" and "What a crash leaves".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.context import KEYS
from fedfm_protocols.effects import Persist
from fedfm_protocols.messages import Unmask
from fedfm_protocols.scenario.actors import body_of
from fedfm_protocols.scenario.observations import Reveal, RoundFacts, offered_keys

# Message -> the journal records that must come before the first of it, the second.
JOURNALLED_FIRST = {
    "KeyOffer": ("opened",),
    "CohortVote": ("voted",),
    "Unmask": ("unmasked",),
    "KeyOpening": ("decrypting", "decrypting-again"),
}


@dataclass
class Promises:
    """Watches what the state machines of honest clients send and store."""

    honest: frozenset[str]
    broken: list[str] = field(default_factory=list)
    _records: set[tuple[str, int, int, str]] = field(default_factory=set)
    _bodies: dict[tuple[str, bytes, int, str], bytes] = field(default_factory=dict)
    _openings: dict[tuple[str, bytes, int], set[bytes]] = field(default_factory=dict)
    _shares: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    _protected: set[bytes] = field(default_factory=set)
    _offers: set[tuple[str, int]] = field(default_factory=set)
    _keys: set[bytes] = field(default_factory=set)
    _answers: dict[tuple[str, bytes, int], bytes] = field(default_factory=dict)
    _judged: set[bytes] = field(default_factory=set)

    def judged(self, record: Persist) -> None:
        """The validator made an answer durable."""
        self._judged.add(record.value)

    def answered(self, envelope: Envelope) -> None:
        """Promise 7: the validator's state machine produced an answer."""
        header = envelope.header
        if header.type not in ("Verdict", "BindingResult"):
            return
        if header.body_hash not in self._judged:
            self._break(f"the validator sent a {header.type} that it had not journalled")
        place = (header.type, header.context, header.step)
        if self._answers.setdefault(place, envelope.encode()) != envelope.encode():
            self._break(f"the validator signed two different {header.type} messages for one step")

    def journalled(self, name: str, record: Persist) -> None:
        """A client made a record durable."""
        self._records.add((name, record.round, record.step, record.record))

    def sent(self, name: str, number: int, made: str, envelope: Envelope) -> None:
        """A client's state machine produced a message in round ``number`` of kind ``made``."""
        if name not in self.honest:
            return
        header = envelope.header
        kind, digest, step = header.type, header.body_hash, header.step
        records = JOURNALLED_FIRST.get(kind, ())
        if kind == "RoundAck" and made == KEYS:
            records = ("keyed",)
        place = kind
        if kind == "KeyOpening":
            place = f"{kind} {header.refers_to.hex()}"
            records = self._check_opening(name, number, envelope, records)
        missing = [r for r in records[:1] if (name, number, step, r) not in self._records]
        if missing:
            self._break(f"{name} sent {kind} of round {number} before it journalled {missing[0]!r}")
        if kind in ("Upload", "WrappedKey"):
            self._check_fresh(name, number, kind, digest)
        earlier = self._bodies.setdefault((name, header.context, step, place), digest)
        if earlier != digest:
            self._break(f"{name} signed two different {kind} messages for one step")
        if kind == "Unmask":
            self._check_shares(name, envelope)
        if kind == "KeyOffer":
            self._check_offer(name, number, envelope)

    def _check_opening(
        self, name: str, number: int, envelope: Envelope, records: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Promise 4; returns the records that must be there by now."""
        step = envelope.header.step
        sets = self._openings.setdefault((name, envelope.header.context, step), set())
        if envelope.header.refers_to in sets:
            self._break(f"{name} opened the key sum of round {number} twice with one set")
        sets.add(envelope.header.refers_to)
        if len(sets) > len(records):
            self._break(f"{name} opened the key sum of round {number} with {len(sets)} sets")
            return ()
        if (name, number, step, "unmasked") not in self._records:
            self._break(f"{name} opened the key sum of round {number} before a quorum had voted")
        return records[len(sets) - 1 :]

    def _check_shares(self, name: str, envelope: Envelope) -> None:
        """No value of a share serves two steps."""
        body = body_of(envelope, Unmask)
        for share in (*body.seed_shares, *body.key_shares):
            if self._shares.setdefault(share.value, (name, envelope.signature)) != (
                name,
                envelope.signature,
            ):
                self._break(f"{name} gave out a share of {share.dealer} that was given out before")

    def _check_fresh(self, name: str, number: int, kind: str, digest: bytes) -> None:
        """What is protected afresh never looks the same twice, whatever the update is."""
        if kind == "WrappedKey" and digest in self._protected:
            self._break(f"{name} sent a {kind} in round {number} that was sent before")
        self._protected.add(digest)

    def _check_offer(self, name: str, number: int, envelope: Envelope) -> None:
        if (name, number) in self._offers:
            self._break(f"{name} offered keys twice for round {number}")
        self._offers.add((name, number))
        for key in offered_keys(envelope):
            if key in self._keys:
                self._break(f"{name} offered a key that was offered before")
            self._keys.add(key)

    def check_round(self, facts: RoundFacts, malicious: Iterable[str]) -> tuple[str, ...]:
        """Promises 1 to 3 for a finished round; returns whose updates would lie bare."""
        corrupt = frozenset(malicious)
        for name in sorted(self.honest):
            self._check_reveals(name, facts)
        exposed = tuple(
            name for name in sorted(self.honest) if self._lies_bare(name, facts, corrupt)
        )
        for name in exposed:
            self._break(f"round {facts.number}: enough shares of both secrets of {name} are out")
        for digest in {r.cohort_hash for n in self.honest for r in facts.reveals.get(n, ())}:
            _, accepted = facts.cohorts.get(digest, (0, ()))
            inside = [name for name in accepted if name not in corrupt]
            if len(inside) < 2:
                self._break(
                    f"round {facts.number}: shares were given out for a sum with "
                    f"{len(inside)} honest updates"
                )
        return exposed

    def _check_reveals(self, name: str, facts: RoundFacts) -> None:
        reveals = facts.reveals.get(name, [])
        before: Reveal | None = None
        for reveal in reveals:
            if before is not None and reveal.step <= before.step:
                self._break(
                    f"round {facts.number}: {name} gave out shares of step {reveal.step} after "
                    f"those of step {before.step}"
                )
            self._check_members(name, facts, before, reveal)
            before = reveal
            dealers = Counter((*reveal.seeds, *reveal.keys))
            twice = sorted(dealer for dealer, count in dealers.items() if count > 1)
            if twice:
                self._break(
                    f"round {facts.number}: {name} gave out two shares of {', '.join(twice)}"
                )

    def _check_members(
        self, name: str, facts: RoundFacts, before: Reveal | None, reveal: Reveal
    ) -> None:
        step, _ = facts.cohorts.get(reveal.cohort_hash, (reveal.step, ()))
        if step != reveal.step:
            self._break(
                f"round {facts.number}: {name} gave out shares of step {reveal.step} for a cohort "
                f"of step {step}"
            )
        if before is None or before.cohort_hash not in facts.cohorts:
            return
        _, accepted = facts.cohorts[before.cohort_hash]
        gone = sorted({*reveal.seeds, *reveal.keys} - set(accepted))
        if gone:
            self._break(
                f"round {facts.number}: {name} gave out shares of {', '.join(gone)} in step "
                f"{reveal.step}, who had been left out"
            )

    def _lies_bare(self, victim: str, facts: RoundFacts, corrupt: frozenset[str]) -> bool:
        if not facts.threshold:
            return False
        colluding = sum(holder in corrupt for holder in facts.holders.get(victim, ()))
        seeds, keys = Counter[int](), Counter[int]()
        for holder, reveals in facts.reveals.items():
            if holder not in corrupt:
                seeds.update({reveal.step for reveal in reveals if victim in reveal.seeds})
                keys.update({reveal.step for reveal in reveals if victim in reveal.keys})
        return any(
            colluding + min(seeds[step], keys[step]) >= facts.threshold
            for step in {0, *seeds, *keys}
        )

    def _break(self, text: str) -> None:
        self.broken.append(text)
