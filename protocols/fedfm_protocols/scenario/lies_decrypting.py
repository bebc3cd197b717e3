"""Steps 11 and 12 with encryption: false requests to open a key sum, false openings of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fedfm_crypto.aead import open_sealed, seal
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client_decrypt import opening_key
from fedfm_protocols.context import active_hash
from fedfm_protocols.key_messages import KeyOpening, KeyRequest, WrappedKey
from fedfm_protocols.messages import Aggregate, Cohort, body_hash
from fedfm_protocols.scenario.actors import body_of, member, resigned, swapped
from fedfm_protocols.scenario.acts import ActForm, Interceptor, known_act
from fedfm_protocols.scenario.federations import COORDINATOR
from fedfm_protocols.scenario.lies import Moment, Signed, lie
from fedfm_protocols.simulation import Delivery

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

BY = ("by",)

# ---------------------------------------------------------------- step 11, coordinator


def _digest(stage: Stage, envelope: Envelope, active: Sequence[str]) -> bytes:
    """Hash of an active set for the cohort that everybody voted for."""
    cohort = stage.last("Cohort")
    hashed = body_hash(body_of(cohort, Cohort)) if cohort is not None else bytes(32)
    return active_hash(envelope.header.context, envelope.header.step, hashed, active)


def _ask(moment: Moment, active: Sequence[str], request: KeyRequest) -> Signed:
    digest = _digest(moment.stage, moment.envelope, active)
    return Signed(replace(request, active=tuple(active)), {"refers_to": digest})


@lie("ask-set", "KeyRequest", needs=("clients",))
def _ask_set(moment: Moment, request: KeyRequest) -> Signed:
    """The active set is said to be `clients`, in this order."""
    return _ask(moment, moment.clients, request)


@lie("ask-for-other-cohort", "KeyRequest")
def _ask_other_cohort(moment: Moment, request: KeyRequest) -> Signed:
    """The key sum is to be opened for a cohort that nobody voted for."""
    header = moment.envelope.header
    return Signed(
        request,
        {"refers_to": active_hash(header.context, header.step, b"\x66" * 32, request.active)},
    )


@lie("ask-without", "KeyRequest", needs=("client",))
def _ask_without(moment: Moment, request: KeyRequest) -> KeyRequest:
    """The wrapped key of `client`, who is accepted, is left out of the sum."""
    place = member(request.wraps, moment.client)
    return replace(request, wraps=(*request.wraps[:place], *request.wraps[place + 1 :]))


@lie("ask-with-repeated", "KeyRequest", needs=("client",))
def _ask_repeated(moment: Moment, request: KeyRequest) -> KeyRequest:
    """The wrapped key of `client` is in the sum twice."""
    place = member(request.wraps, moment.client)
    return replace(request, wraps=(*request.wraps[: place + 1], *request.wraps[place:]))


@lie("ask-with-exchanged", "KeyRequest")
def _ask_exchanged(moment: Moment, request: KeyRequest) -> KeyRequest:
    """The wrapped key of the first client stands for that of the second, signed by nobody."""
    first, second = (Envelope.decode(data) for data in request.wraps[:2])
    false = replace(
        second, body=first.body, header=replace(second.header, body_hash=first.header.body_hash)
    )
    return replace(request, wraps=swapped(request.wraps, 1, false.encode()))


@lie("ask-with-removed", "KeyRequest", needs=("client",))
def _ask_removed(moment: Moment, request: KeyRequest) -> object:
    """The wrapped key of `client`, whose upload was removed, is in the sum too."""
    sent = moment.stage.last("WrappedKey", moment.client)
    if sent is None:
        return None
    return replace(request, wraps=tuple(sorted((*request.wraps, sent.encode()), key=_sender)))


@lie("ask-with-other-wrap", "KeyRequest", needs=("client",), signs_for=True)
def _ask_other_wrap(moment: Moment, request: KeyRequest) -> KeyRequest:
    """An accomplice's wrapped key was exchanged after it had seen the others': it is the last
    uploader after all."""
    first = body_of(Envelope.decode(request.wraps[0]), WrappedKey)
    return replace(request, wraps=moment.accomplice(request.wraps, first))


@lie("ask-with-misplaced-wrap", "KeyRequest", needs=("client",), signs_for=True)
def _ask_misplaced(moment: Moment, request: KeyRequest) -> KeyRequest:
    """An accomplice's wrapped key refers to another upload set."""
    return replace(request, wraps=moment.accomplice(request.wraps, refers_to=bytes(32)))


@lie("ask-with-forged-wrap", "KeyRequest", needs=("client",))
def _ask_forged(moment: Moment, request: KeyRequest) -> KeyRequest:
    """The coordinator signs a wrapped key in the name of `client`."""
    place = member(request.wraps, moment.client)
    false = resigned(moment.speaker, request.wraps[place])
    return replace(request, wraps=swapped(request.wraps, place, false))


@known_act("ask-sets")
class AskSets(ActForm):
    """Besides the active set that is due, the coordinator asks each of `sets` to open the same
    key sum."""

    role: ClassVar[str] = "malicious coordinator"
    sets: list[list[str]] = Field(min_length=1)

    @property
    def about(self) -> str:
        """The request that is due."""
        return "KeyRequest"

    def signers(self) -> frozenset[str]:
        """The coordinator."""
        return frozenset({COORDINATOR})

    def mentions(self) -> frozenset[str]:
        """Everybody asked."""
        return frozenset(name for one in self.sets for name in one)

    def start(self, stage: Stage) -> Interceptor:
        """Ask once, behind the request that is due."""
        speaker = stage.actor(COORDINATOR)
        done = False

        def tell(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            nonlocal done
            if done or envelope.header.type != "KeyRequest":
                return ((recipient, envelope),)
            done = True
            honest = body_of(envelope, KeyRequest)
            asked: list[Delivery] = [(recipient, envelope)]
            for active in self.sets:
                false = speaker.forge(
                    envelope,
                    replace(honest, active=tuple(active)),
                    refers_to=_digest(stage, envelope, active),
                )
                asked += [(name, false) for name in active]
            return asked

        return tell


# ---------------------------------------------------------------- step 11, holders


@lie("open-false", "KeyOpening", needs=BY)
def _open_false(moment: Moment, opening: KeyOpening) -> KeyOpening:
    """The part of the key sum is false, and properly sealed."""
    stage, name, header = moment.stage, moment.speaker.name, moment.envelope.header
    keys = stage.clients[name].state.memory.keys.current
    if keys is None:
        return opening
    key = opening_key(keys.group, header.context, name, header.refers_to)
    share = open_sealed(key, opening.sealed, header.refers_to)
    false = share[8:] + share[:8]
    return KeyOpening(seal(key, false, header.refers_to, stage.coordinator.random))


@lie("open-junk", "KeyOpening", needs=BY)
def _open_junk(moment: Moment, opening: KeyOpening) -> KeyOpening:
    """What is sent does not open under the group key."""
    return KeyOpening(opening.sealed[:-1] + bytes([opening.sealed[-1] ^ 1]))


@lie("open-for-other-set", "KeyOpening", needs=BY)
def _open_elsewhere(moment: Moment, opening: KeyOpening) -> Signed:
    """The opening refers to another active set."""
    return Signed(opening, {"refers_to": bytes(32)})


# ---------------------------------------------------------------- step 12, coordinator


@lie("few-openings", "Aggregate", needs=("count",))
def _few_openings(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """The sum comes with `count` openings only."""
    return replace(aggregate, openings=aggregate.openings[: moment.count])


@lie("forge-opening", "Aggregate", needs=("client",))
def _forge_opening(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """The coordinator signs an opening of its own in the name of `client`."""
    place = member(aggregate.openings, moment.client)
    junk = KeyOpening(bytes(131_100))
    false = resigned(moment.speaker, aggregate.openings[place], junk)
    return replace(aggregate, openings=swapped(aggregate.openings, place, false))


@lie("exchange-opening", "Aggregate", needs=("client",), signs_for=True)
def _exchange_opening(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """An accomplice's opening is exchanged for one that refers to another active set."""
    openings = moment.accomplice(aggregate.openings, refers_to=bytes(32))
    return replace(aggregate, openings=openings)


@lie("hand-over-openings", "Aggregate", needs=("clients",))
def _hand_over(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """Openings by `clients`, whose keys are stolen, of whatever: each signed and sealed by its
    own key (in a suite without encryption there should be none)."""
    sample = moment.envelope
    opened = [
        moment.stage.actor(name)
        .speak(
            "KeyOpening",
            KeyOpening(bytes(131_100)),
            context=sample.header.context,
            like=sample,
            refers_to=bytes(32),
        )
        .encode()
        for name in sorted(moment.clients)
    ]
    return replace(aggregate, openings=tuple(opened))


def _sender(encoded: bytes) -> str:
    return Envelope.decode(encoded).header.sender
