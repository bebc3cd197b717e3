"""When the coordinator has a collective key made, and who can take part in a sum under it.

The coordinator knows of a key its name and who holds it, nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from fedfm_protocols.coordinator_round import CollectiveKey
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.federation import Federation

# A round that makes a key may fail, and a disk may be lost twice; but nobody shall keep the
# federation busy with keys.
MOST_KEYS_FOR_ONE = 3


@dataclass
class KeyEpochs:
    """Which collective key every client holds, as each of them said last.

    ``supplied`` counts how often a key was made for the sake of a client; ``doubtful`` says that
    the last sum did not open, which a wrong share of the key may have caused.
    """

    federation: Federation
    held: dict[str, bytes] = field(default_factory=dict)
    supplied: Counter[str] = field(default_factory=Counter)
    doubtful: bool = False

    def holding(self, ready: AbstractSet[str], key: CollectiveKey | None) -> set[str]:
        """Who is ready and holds ``key``; in suites without encryption everybody who is ready."""
        if not self.federation.encrypted:
            return set(ready)
        if key is None:
            return set()
        return {name for name in ready if self.held.get(name) == key.key_hash}

    def needed(self, ready: AbstractSet[str], key: CollectiveKey | None) -> bool:
        """Whether a key must be made before the next sum.

        For want of one; because the last sum did not open; because too few hold it; or because
        somebody lacks it (:meth:`supply`).
        """
        if not self.federation.encrypted:
            return False
        holding, thresholds = self.holding(ready, key), self.federation.thresholds
        if key is None or self.doubtful or len(holding) < thresholds.vote_quorum:
            return True
        if len(holding & set(key.holders)) < thresholds.key_threshold:
            return True
        return self.supply(ready, key)

    def supply(self, ready: AbstractSet[str], key: CollectiveKey | None) -> bool:
        """Whether a key must be made because somebody has none, who was away when it was made or
        has lost it: ``MOST_KEYS_FOR_ONE`` times for each; counts this one."""
        lacking = {
            name
            for name in ready - self.holding(ready, key)
            if self.supplied[name] < MOST_KEYS_FOR_ONE
        }
        self.supplied.update(lacking)
        return bool(lacking)

    def note(self, finished: Finished) -> None:
        """What a round that ended says about keys."""
        self.doubtful = finished.outcome == "void"
        if finished.key is not None:
            taken = finished.round.taken
            acknowledged = [name for name, _, what in taken if what == "RoundAck"]
            self.held |= dict.fromkeys(acknowledged, finished.key.key_hash)
