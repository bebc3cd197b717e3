"""What a network does: drop, delay, duplicate, reorder, corrupt, replay; it holds no key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.scenario.acts import Interceptor, Selector, known_act
from fedfm_protocols.simulation import Delivery

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage


@known_act("drop")
class Drop(Selector):
    """Messages that fit are lost (only the first `times` of them, if given)."""

    times: int | None = Field(default=None, ge=1)

    def start(self, stage: Stage) -> Interceptor:
        """Lose what fits."""
        lost = 0

        def drop(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            nonlocal lost
            if not self.fits(sender, recipient, envelope) or lost == self.times:
                return ((recipient, envelope),)
            lost += 1
            return ()

        return drop


@known_act("delay")
class Delay(Selector):
    """Messages that fit arrive only after the next message of type `until`, or after the deadline
    of the phase (`until = "deadline"`)."""

    until: str

    def start(self, stage: Stage) -> Interceptor:
        """Keep what fits, and let it go behind the message that it waits for."""
        kept: list[Delivery] = []

        def release() -> Sequence[Delivery]:
            late = tuple(kept)
            kept.clear()
            return late

        def delay(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if self.fits(sender, recipient, envelope):
                kept.append((recipient, envelope))
                return ()
            if envelope.header.type == self.until:
                return ((recipient, envelope), *release())
            return ((recipient, envelope),)

        if self.until == "deadline":
            stage.when_quiet.append(release)
        return delay


@known_act("duplicate")
class Duplicate(Selector):
    """Messages that fit arrive `copies` times."""

    copies: int = Field(default=2, ge=2, le=100)

    def start(self, stage: Stage) -> Interceptor:
        """Deliver the same bytes again."""

        def duplicate(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            times = self.copies if self.fits(sender, recipient, envelope) else 1
            return ((recipient, envelope),) * times

        return duplicate


@known_act("reorder")
class Reorder(Selector):
    """Messages that fit wait until `count` of them are there, then arrive last first."""

    count: int = Field(ge=2)

    def start(self, stage: Stage) -> Interceptor:
        """Collect what fits, and let it go backwards."""
        kept: list[Delivery] = []

        def reorder(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if not self.fits(sender, recipient, envelope):
                return ((recipient, envelope),)
            kept.append((recipient, envelope))
            if len(kept) < self.count:
                return ()
            backwards = tuple(reversed(kept))
            kept.clear()
            return backwards

        def release() -> Sequence[Delivery]:
            late = tuple(reversed(kept))
            kept.clear()
            return late

        stage.when_quiet.append(release)
        return reorder


@known_act("corrupt")
class Corrupt(Selector):
    """Messages that fit arrive with one bit changed, in `part`: nobody signs them again."""

    part: Literal["body", "signature", "context"] = "body"

    def start(self, stage: Stage) -> Interceptor:
        """Flip the last bit of the part."""

        def corrupt(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if not self.fits(sender, recipient, envelope):
                return ((recipient, envelope),)
            if self.part == "body":
                bent = replace(envelope, body=_flipped(envelope.body))
            elif self.part == "signature":
                bent = replace(envelope, signature=_flipped(envelope.signature))
            else:
                header = replace(envelope.header, context=_flipped(envelope.header.context))
                bent = replace(envelope, header=header)
            return ((recipient, bent),)

        return corrupt


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if data else b"\x01"


@known_act("redirect")
class Redirect(Selector):
    """Messages that fit go to `client` instead."""

    client: str

    def mentions(self) -> frozenset[str]:
        """Also the new recipient."""
        return super().mentions() | {self.client}

    def start(self, stage: Stage) -> Interceptor:
        """Change the recipient."""

        def redirect(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            fits = self.fits(sender, recipient, envelope) and recipient != self.client
            return ((self.client if fits else recipient, envelope),)

        return redirect


@known_act("replay")
class Replay(Selector):
    """Before every message to a party, all that it was sent in an earlier `round` comes again."""

    round: int = Field(ge=1)

    def start(self, stage: Stage) -> Interceptor:
        """Repeat what the network has recorded."""
        old = [
            (recipient, envelope)
            for index, sender, recipient, envelope in stage.earlier
            if index == self.round and self.fits(sender, recipient, envelope)
        ]

        def replay(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            again = [d for d in old if d[0] == recipient]
            return (*again, (recipient, envelope))

        return replay


@known_act("splice")
class Splice(Selector):
    """Before every message to a party, all that it was sent in round 1 of another federation of
    the same parties comes too (`federation` is its name)."""

    federation: str

    def start(self, stage: Stage) -> Interceptor:
        """Run the other federation with the same keys, and mix its messages in."""
        foreign = [
            (recipient, envelope)
            for index, sender, recipient, envelope in stage.alongside(self.federation)
            if index == 1 and self.fits(sender, recipient, envelope)
        ]

        def splice(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            return (*(d for d in foreign if d[0] == recipient), (recipient, envelope))

        return splice


@known_act("repeat-late")
class RepeatLate(Selector):
    """Messages that fit arrive, and once more after the next message of type `until`."""

    until: str

    def start(self, stage: Stage) -> Interceptor:
        """Deliver now, keep a copy, and let it go later."""
        kept: list[Delivery] = []

        def repeat(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if self.fits(sender, recipient, envelope):
                kept.append((recipient, envelope))
            elif envelope.header.type == self.until and kept:
                late = tuple(kept)
                kept.clear()
                return ((recipient, envelope), *late)
            return ((recipient, envelope),)

        return repeat
