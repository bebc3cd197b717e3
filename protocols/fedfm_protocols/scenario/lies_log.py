"""Step 0 and 15: whoever holds the log's key shows a history that does not grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.merkle import leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, sign_checkpoint
from fedfm_protocols.messages import CheckpointOffer, RoundOpen
from fedfm_protocols.scenario.acts import ActForm, Interceptor, known_act
from fedfm_protocols.scenario.lies import Moment, lie
from fedfm_protocols.simulation import deliver

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage


def forked(stage: Stage, size: int) -> CheckpointSeen:
    """The head of another history of ``size`` leaves."""
    hashes = [leaf_hash(b"another history %d" % number) for number in range(size)]
    return CheckpointSeen(size, tree_root(hashes))


def rolled_back(stage: Stage) -> CheckpointSeen:
    """The head as it was two leaves ago."""
    hashes = stage.log.hashes(len(stage.log.leaves) - 2)
    return CheckpointSeen(len(hashes), tree_root(hashes))


def _note(stage: Stage, how: str) -> bytes:
    """A checkpoint note that lies; only what the log signs needs its key."""
    head = stage.log.seen()
    match how:
        case "forked":
            return stage.log.note(forked(stage, head.size))
        case "rolled-back":
            return stage.log.note(rolled_back(stage))
        case "other-origin":
            return stage.log.note(head, origin="test/other-log")
        case "other-key":
            key = stage.actor("coordinator").key
            origin = stage.federation.charter.log.origin
            return sign_checkpoint(Checkpoint(origin, head.size, head.root), origin, key)
        case _:
            return b"no note"


@lie("open-with-checkpoint", "RoundOpen", needs=("damage",))
def _open_with_checkpoint(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The opening carries a checkpoint that is `forked`, `rolled-back`, of `other-origin`, signed
    by an `other-key`, or no note at all (`damage` says which)."""
    return replace(opened, checkpoint=_note(moment.stage, moment.form.damage or ""))


@known_act("offer-checkpoint")
class OfferCheckpoint(ActForm):
    """After the round the log offers a checkpoint that is `forked`, `rolled-back`, of
    `other-origin`, or whose leaf is `another-leaf` or at `another-index`."""

    role: ClassVar[str] = "malicious log"
    damage: Literal["forked", "rolled-back", "other-origin", "another-leaf", "another-index"]
    to: list[str] | None = None

    @property
    def about(self) -> str:
        """What is offered after the round."""
        return "CheckpointOffer"

    def signers(self) -> frozenset[str]:
        """The log, where another checkpoint is signed."""
        return frozenset() if self.damage.startswith("another") else frozenset({"log"})

    def start(self, stage: Stage) -> Interceptor:
        """Change what clients are offered."""
        change = _offer_change(stage, self.damage)

        def lie_to(name: str, offer: CheckpointOffer) -> CheckpointOffer:
            return change(offer) if self.to is None or name in self.to else offer

        stage.offer_changes.append(lie_to)
        return deliver


def _offer_change(stage: Stage, damage: str) -> Callable[[CheckpointOffer], CheckpointOffer]:
    def change(offer: CheckpointOffer) -> CheckpointOffer:
        if damage == "another-leaf":
            return replace(offer, leaf=b'{"round":99}')
        if damage == "another-index":
            return replace(offer, leaf_index=offer.leaf_index + 1)
        return replace(offer, checkpoint=_note(stage, damage))

    return change
