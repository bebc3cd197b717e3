"""The transparency log of a scenario: leaves in memory, checkpoints signed by the log's key."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
)
from fedfm_crypto.note import Checkpoint, sign_checkpoint
from fedfm_protocols.messages import CheckpointOffer
from fedfm_protocols.scenario.federations import LOG_ORIGIN


@dataclass
class ScenarioLog:
    """One leaf per round; ``published`` is the size that was last shown to everyone."""

    key: IdentityKey = field(repr=False)
    leaves: list[bytes] = field(default_factory=list)
    published: int = 0

    def append(self, number: int, outcome: str, adapter: bytes) -> None:
        """Add the statement of a round."""
        statement = {"round": number, "outcome": outcome, "adapter": adapter.hex()}
        self.leaves.append(canonical_encode(statement))

    def hashes(self, size: int | None = None) -> list[bytes]:
        """Leaf hashes of the first ``size`` leaves (all if left out)."""
        return [leaf_hash(leaf) for leaf in self.leaves[:size]]

    def seen(self) -> CheckpointSeen:
        """What an honest log has at its head."""
        return CheckpointSeen(len(self.leaves), tree_root(self.hashes()))

    def note(self, seen: CheckpointSeen | None = None, origin: str = LOG_ORIGIN) -> bytes:
        """The signed checkpoint of the head, or of whatever ``seen`` claims."""
        head = self.seen() if seen is None else seen
        return sign_checkpoint(Checkpoint(origin, head.size, head.root), origin, self.key)

    def consistency(self, old: int) -> tuple[bytes, ...]:
        """Proof from the first ``old`` leaves to the head."""
        if old == 0 or old >= len(self.leaves):
            return ()
        return tuple(consistency_proof(self.hashes(), old))

    def offer(self, seen: int) -> CheckpointOffer:
        """Step 15 for a client that last saw ``seen`` leaves: the newest leaf and its proofs."""
        index = len(self.leaves) - 1
        return CheckpointOffer(
            checkpoint=self.note(),
            consistency=self.consistency(seen),
            leaf_index=index,
            leaf=self.leaves[index],
            inclusion=tuple(inclusion_proof(self.hashes(), index)),
        )
