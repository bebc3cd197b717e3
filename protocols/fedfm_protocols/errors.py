"""What can go wrong in the protocol, as one tree.

::

    FedFMError                      (fedfm_crypto.errors, root of the whole project)
    └── ProtocolError
        ├── CharterError            a charter that cannot be read, or is not signed as it must be
        ├── EnrolmentError          an enrolment request that cannot be accepted
        ├── PolicyViolation         charter or round falls short of this site's own policy
        ├── MessageRefused          this one message is dropped, the round goes on
        │   ├── MalformedMessage        body does not decode, or breaks a bound
        │   ├── UnknownSender           not on the roster, or not the one who may send this
        │   ├── WrongContext            signed for another federation, round or roster
        │   ├── ReplayedMessage         same sender and sequence, other bytes
        │   └── OutOfOrder              not expected in this state
        ├── RoundViolation          signed proof of misbehaviour: this site leaves the round
        │   ├── RoundRefused            the opening of a round that must not be joined
        │   │   └── MissingGroupKey         a missed sum that no key at hand opens
        │   ├── EquivocationError       the other side contradicts itself or a signed fact
        │   │   └── SplitView               two histories of the log: no cosignature ever again
        │   └── BelowThreshold          too few participants for the promises of the charter
        ├── RoundAborted            the coordinator cannot finish the round (names why)
        ├── DivergenceError         this site's adapter is not the one the quorum agreed on
        └── ScenarioError           a scripted run that cannot be read, or asks for the impossible

A :class:`MessageRefused` leaves the state as it was: the caller reports it and keeps the old
state.  A :class:`RoundViolation` ends the round for the site that raised it: nothing more is sent
and the round's keys are dropped.
"""

from __future__ import annotations

from fedfm_crypto.envelope import SignedHeader
from fedfm_crypto.errors import FedFMError


class ProtocolError(FedFMError):
    """Root of everything the protocol layer raises.

    Source: protocols/README.md, section "A round".
    """


class CharterError(ProtocolError):
    """The charter is malformed, inconsistent or not signed by its founders' quorum.

    Source: protocols/README.md, section "Charter".
    """


class EnrolmentError(ProtocolError):
    """An enrolment request is malformed, expired, wrongly signed or a duplicate.

    Source: protocols/README.md, section "Identity".
    """


class PolicyViolation(ProtocolError):
    """A charter or a round falls short of this site's own policy; names the policy line.

    Source: protocols/README.md, section "Charter".
    """


class MessageRefused(ProtocolError):
    """One message is dropped; the state is unchanged.

    Source: protocols/README.md, section "A round".
    """


class MalformedMessage(MessageRefused):
    """The body does not decode or breaks a bound.

    Source: protocols/README.md, section "A round".
    """


class UnknownSender(MessageRefused):
    """The sender is not enrolled, or not the role that may send this message.

    Source: protocols/README.md, section "A round".
    """


class WrongContext(MessageRefused):
    """The envelope was signed for another federation, round, roster or step."""


class ReplayedMessage(MessageRefused):
    """The sender and sequence number were used before, for other bytes.

    Source: protocols/README.md, section "A round".
    """


class OutOfOrder(MessageRefused):
    """The message is not one that this state waits for.

    Source: protocols/README.md, section "A round".
    """


class RoundViolation(ProtocolError):
    """A signed message proves that the round cannot be trusted; this site leaves it.

    Source: protocols/README.md, section "A round".
    """


class RoundRefused(RoundViolation):
    """A round was opened that this site must not join.

    Source: protocols/README.md, section "A round".
    """


class MissingGroupKey(RoundRefused):
    """A missed round's sum cannot be opened: this site holds no group key of its ``epoch`` yet.

    Source: protocols/README.md, section "Catching up".
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"this site has no group key of epoch {epoch}; it gets one with the next key generation"
        )
        self.epoch = epoch


class EquivocationError(RoundViolation):
    """The other side contradicts itself, or a fact that this site signed.

    Source: protocols/README.md, section "A round".
    """


class SplitView(EquivocationError):
    """The log was shown with two histories: this site keeps what proves it, and never cosigns that
    log again.

    ``notes`` are checkpoints signed by the log (its own lines only), ``headers`` signed headers of
    others that echo another head.

    Source: protocols/README.md, section "Witness".
    """

    def __init__(
        self,
        message: str,
        *,
        notes: tuple[bytes, ...] = (),
        headers: tuple[SignedHeader, ...] = (),
    ) -> None:
        super().__init__(message)
        self.notes = tuple(note for note in notes if note)
        self.headers = headers


class BelowThreshold(RoundViolation):
    """Fewer participants than the charter's thresholds demand.

    Source: protocols/README.md, section "A round".
    """


class RoundAborted(ProtocolError):
    """The coordinator cannot finish the round; the message says why.

    Source: protocols/README.md, section "A round".
    """


class DivergenceError(ProtocolError):
    """This site's adapter differs from the one that the quorum acknowledged.

    Source: protocols/README.md, section "Catching up".
    """


class ScenarioError(ProtocolError):
    """A scenario is malformed, or asks of its actors what they have no key for.

    Source: docs/protocol-testing.md.
    """
