"""Sessions: what was said or shared in one step, told again in another; steps that never were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client_states import Committed, Offered, Voted
from fedfm_protocols.messages import (
    Cohort,
    KeyOffer,
    RevealedShare,
    RoundAck,
    RoundClose,
    Unmask,
    UploadHash,
    UploadSet,
)
from fedfm_protocols.offers import make_offer
from fedfm_protocols.scenario.actors import body_of
from fedfm_protocols.scenario.acts import SETUP, Interceptor, Selector, known_act
from fedfm_protocols.scenario.federations import COORDINATOR
from fedfm_protocols.scenario.lies import Moment, Signed, lie
from fedfm_protocols.simulation import Delivery
from fedfm_protocols.steps import basis_of

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

BY = ("by",)
OTHER_ADAPTER = b"\x66" * 32

# ---------------------------------------------------------------- the network


@known_act("replay-step")
class ReplayStep(Selector):
    """Before every message to a party, all that fits and that it was sent in step `of` of the same
    session comes again."""

    of: int = Field(ge=0)

    def start(self, stage: Stage) -> Interceptor:
        """Repeat what the network has recorded."""

        def replay(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            index = stage.observer.now.index
            again = [
                (recipient, old)
                for number, origin, to, old in stage.earlier
                if number == index
                and to == recipient
                and old.header.step == self.of
                and old.header.type not in SETUP
                and self.fits(origin, to, old)
            ]
            return (*again, (recipient, envelope))

        return replay


# ---------------------------------------------------------------- the coordinator


@known_act("step-again")
class StepAgain(Selector):
    """Instead of its own, messages of the coordinator that fit have the body that was said in step
    `of` of the session, signed for this step; they refer to what they would (`now`), or to what
    they did `then`."""

    role: ClassVar[str] = "malicious coordinator"
    of: int = Field(ge=0)
    refers_to: Literal["now", "then"] = "now"

    def signers(self) -> frozenset[str]:
        """The coordinator."""
        return frozenset({COORDINATOR})

    def start(self, stage: Stage) -> Interceptor:
        """Say it again."""
        speaker = stage.actor(COORDINATOR)

        def again(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if sender != COORDINATOR or not self.fits(sender, recipient, envelope):
                return ((recipient, envelope),)
            kind = envelope.header.type
            said = [e for e in stage.said if e.header.type == kind and e.header.step == self.of]
            if not said or kind in SETUP:
                return ((recipient, envelope),)
            header = {} if self.refers_to == "now" else {"refers_to": said[-1].header.refers_to}
            return ((recipient, speaker.forge(envelope, said[-1].body, **header)),)

        return again


@lie("hash-on-another-adapter", "UploadSet", needs=("client",), signs_for=True)
def _hash_on_another(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """An accomplice's hash in the set says that it builds on another adapter."""
    return UploadSet(moment.accomplice(upload_set.hashes, refers_to=bytes(32)))


@lie("let-hash-through", "UploadSet", needs=("client",))
def _let_through(moment: Moment, upload_set: UploadSet) -> object:
    """The hash that `client` sent last is in the upload set, whatever it builds on and whether or
    not it takes part in the step."""
    sent = moment.stage.last("UploadHash", moment.client)
    if sent is None:
        return None
    others = [e for e in upload_set.hashes if Envelope.decode(e).header.sender != moment.client]
    members = sorted((*others, sent.encode()), key=lambda e: Envelope.decode(e).header.sender)
    return UploadSet(tuple(members))


@lie("cohort-of-step", "Cohort", needs=("client", "count"))
def _cohort_of_step(moment: Moment, cohort: Cohort) -> object:
    """For step `count`, which is over, a cohort is shown in which `client` vanished."""
    for said in moment.stage.said:
        if said.header.type == "Cohort" and said.header.step == moment.count:
            old = body_of(said, Cohort)
            accepted = tuple(name for name in old.accepted if name != moment.client)
            removed = tuple(sorted({*old.removed, moment.client}))
            false = replace(old, accepted=accepted, removed=removed)
            header = {"step": moment.count, "refers_to": said.header.refers_to}
            return Signed(false, header)
    return None


@lie("bring-back", "Cohort", needs=("client",))
def _bring_back(moment: Moment, cohort: Cohort) -> Cohort:
    """`client`, who was left out after an earlier step, is said to have vanished in this one: its
    mask key of this step is asked for."""
    return replace(cohort, removed=tuple(sorted({*cohort.removed, moment.client})))


@lie("close-at-step", "RoundClose", needs=("count",))
def _close_at_step(moment: Moment, closed: RoundClose) -> Signed:
    """The session is closed as completed at step `count`, with all the acknowledgements of that
    step that have arrived; of a step that never was, with those at hand."""
    acks: dict[str, Envelope] = {}
    for said in moment.stage.coordinator_received:
        header = said.header
        here = header.context == moment.envelope.header.context
        if here and header.type == "RoundAck" and header.step == moment.count:
            acks[header.sender] = said
    if not acks:
        return Signed(closed, {"step": moment.count})
    named = Counter(body_of(ack, RoundAck).adapter_hash for ack in acks.values())
    adapter, _ = named.most_common(1)[0]
    encoded = tuple(acks[name].encode() for name in sorted(acks))
    false = RoundClose("completed", "", adapter, encoded)
    return Signed(false, {"step": moment.count})


# ---------------------------------------------------------------- clients


@lie("offer-old-keys", "KeyOffer", needs=BY)
def _offer_old(moment: Moment, offer: KeyOffer) -> object:
    """The keys, seeds and shares of the last session that the client was in are used once more,
    properly committed to; the first time they are written down."""
    stage, name = moment.stage, moment.speaker.name
    client = stage.clients[name]
    state = client.state
    if not isinstance(state, Offered):
        return None
    old = stage.old_secrets.setdefault(name, state.secrets)
    if old is state.secrets:
        return None
    identity = state.session.identity
    false = make_offer(stage.federation, identity, name, old, stage.encryption)
    forged = moment.speaker.forge(moment.envelope, false)
    client.state = replace(state, secrets=old, offer=forged.encode())
    return forged


@lie("commit-on-another-adapter", "UploadHash", needs=BY)
def _commit_on_another(moment: Moment, committed: UploadHash) -> object:
    """The upload hash says that it builds on another adapter than was acknowledged."""
    state = moment.stage.clients[moment.speaker.name].state
    if not isinstance(state, Committed) or state.session.before is None:
        return None
    session = state.session
    before = replace(state.session.before, adapter_hash=OTHER_ADAPTER)
    basis = basis_of(session.context, session.step, state.dealers, state.hood.seed, before)
    return Signed(committed, {"refers_to": basis})


@lie("reveal-of-next-step", "", needs=BY)
def _reveal_of_next(moment: Moment, body: object) -> object:
    """The shares revealed are those of the next step."""
    stage, name = moment.stage, moment.speaker.name
    state = stage.clients[name].state
    if isinstance(state, Voted) and state.later:  # a state machine keeps them for the next step
        stage.hoard[name] = state.later[0].held
    if not isinstance(body, Unmask):
        return None
    held = stage.hoard[name]
    shares = [
        RevealedShare(e.dealer, held[e.dealer].seed, held[e.dealer].seed_salt)
        for e in body.seed_shares
    ]
    return replace(body, seed_shares=tuple(shares))
