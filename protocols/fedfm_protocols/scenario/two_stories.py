"""A coordinator that tells two stories at once, and messages that no state machine asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.messages import Cohort, CohortProof, CohortVote, RoundClose, body_hash
from fedfm_protocols.scenario.actors import body_of
from fedfm_protocols.scenario.acts import ActForm, Interceptor, known_act, known_message
from fedfm_protocols.scenario.federations import COORDINATOR
from fedfm_protocols.simulation import Delivery

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage


@known_act("two-cohorts")
class TwoCohorts(ActForm):
    """The clients `to` are shown a cohort without `client`, the others the true one; colluders
    vote for both, and each group gets a proof for its own cohort with every vote there is."""

    role: ClassVar[str] = "malicious coordinator"
    client: str
    to: list[str]
    colluders: list[str] = Field(default_factory=list)

    @property
    def about(self) -> str:
        """The message that there are two of."""
        return "Cohort"

    def signers(self) -> frozenset[str]:
        """The coordinator and whoever votes twice."""
        return frozenset({COORDINATOR, *self.colluders})

    def mentions(self) -> frozenset[str]:
        """Both groups and the victim."""
        return frozenset({self.client, *self.to, *self.colluders})

    def start(self, stage: Stage) -> Interceptor:
        """Collect all votes, then prove each cohort to its group as well as can be."""
        speaker = stage.actor(COORDINATOR)
        true: list[Envelope] = []
        votes: dict[str, Envelope] = {}

        def second(cohort: Cohort) -> Cohort:
            accepted = tuple(name for name in cohort.accepted if name != self.client)
            removed = tuple(sorted({*cohort.removed, self.client}))
            return replace(cohort, accepted=accepted, removed=removed)

        def proofs() -> list[Delivery]:
            honest = body_of(true[0], Cohort)
            made: list[Delivery] = []
            for group, cohort in ((False, honest), (True, second(honest))):
                digest = body_hash(cohort)
                signed: dict[str, Envelope] = {}
                for name, vote in votes.items():
                    if name in self.colluders:
                        signed[name] = stage.actor(name).forge(
                            vote, CohortVote(digest), refers_to=digest
                        )
                    elif (name in self.to) is group:
                        signed[name] = vote
                proof = CohortProof(tuple(signed[name].encode() for name in sorted(signed)))
                envelope = speaker.speak(
                    "CohortProof",
                    proof,
                    context=true[0].header.context,
                    like=true[0],
                    sequence=99,
                    refers_to=digest,
                )
                made += [(name, envelope) for name in votes if (name in self.to) is group]
            return made

        def tell(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            kind = envelope.header.type
            if kind == "CohortVote":
                votes[sender] = envelope
                shown = stage.observer.now.invited
                return tuple(proofs()) if len(votes) == len(shown) else ()
            if kind == "CohortProof" and envelope.header.sequence != 99:
                return ()
            if kind == "Cohort":
                true.append(envelope)
                if recipient in self.to:
                    body = second(body_of(envelope, Cohort))
                    return ((recipient, speaker.forge(envelope, body)),)
            return ((recipient, envelope),)

        return tell


@known_act("close-early")
class CloseEarly(ActForm):
    """`to` are told that the round is over, with `outcome`, instead of its message of type
    `before`; `completed` names an adapter of the coordinator's own."""

    role: ClassVar[str] = "malicious coordinator"
    to: list[str]
    before: str
    outcome: str = "completed"

    @property
    def about(self) -> str:
        """The message that the closing comes before."""
        return self.before

    @field_validator("before")
    @classmethod
    def _known_message(cls, value: str) -> str:
        return known_message(value)

    def signers(self) -> frozenset[str]:
        """The coordinator."""
        return frozenset({COORDINATOR})

    def mentions(self) -> frozenset[str]:
        """The recipients."""
        return frozenset(self.to)

    def start(self, stage: Stage) -> Interceptor:
        """Close, then go on as if nothing had been said."""
        speaker = stage.actor(COORDINATOR)

        def tell(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if (
                sender != COORDINATOR
                or recipient not in self.to
                or envelope.header.type != self.before
            ):
                return ((recipient, envelope),)
            before = stage.observer.now.adapter_before
            adapter = b"\x77" * 32 if self.outcome == "completed" else before
            close = RoundClose(self.outcome, "tired", adapter, ())
            false = speaker.speak(
                "RoundClose", close, context=envelope.header.context, like=envelope
            )
            return ((recipient, false), (recipient, envelope))

        return tell


@known_act("inject")
class Inject(ActForm):
    """`by` signs `body` (hex) under any `type` and sends it to `to`, `times` times, whenever a
    message of type `at` goes by; the context is the round's unless it says `elsewhere`."""

    role: ClassVar[str] = "any malicious party"
    by: str
    to: list[str]
    type: str
    body: str = ""
    at: str
    times: int = Field(default=1, ge=1, le=1000)
    elsewhere: bool = False

    @property
    def about(self) -> str:
        """The message that it comes before."""
        return self.at

    @field_validator("at")
    @classmethod
    def _known_message(cls, value: str) -> str:
        return known_message(value)

    @field_validator("body")
    @classmethod
    def _hex(cls, value: str) -> str:
        bytes.fromhex(value)
        return value

    def signers(self) -> frozenset[str]:
        """The speaker; an outsider needs no key of the federation."""
        return frozenset() if self.by == "eve" else frozenset({self.by})

    def mentions(self) -> frozenset[str]:
        """Speaker and recipients."""
        return frozenset({self.by, *self.to})

    def start(self, stage: Stage) -> Interceptor:
        """Send once for the first message that fits."""
        done = False

        def tell(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            nonlocal done
            if done or envelope.header.type != self.at:
                return ((recipient, envelope),)
            done = True
            header: dict[str, Any] = {"sequence": 1000}
            context = bytes(32) if self.elsewhere else envelope.header.context
            false = stage.actor(self.by).speak(
                self.type, bytes.fromhex(self.body), context=context, like=envelope, **header
            )
            sent = [(name, false) for name in self.to for _ in range(self.times)]
            return (*sent, (recipient, envelope))

        return tell
