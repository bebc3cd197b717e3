"""The steps of a round: what a client holds for each of them, and what joins one to the next.

A round is a session of one or more steps under one key setup.  Every step has mask keys and seeds
of its own, so a client that drops at one step gives away nothing about another.
Source: protocols/README.md, section "Sessions".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fedfm_protocols.context import dealers_hash, step_hash
from fedfm_protocols.masking import RoundSecrets, StepSecrets
from fedfm_protocols.messages import KeyOffer, ShareContents, StepShares

T = TypeVar("T")
Ahead = Callable[[Callable[[], T]], Callable[[], T]]
"""How work that will be needed later is begun: takes it, returns what waits for its result."""


def when_needed(work: Callable[[], T]) -> Callable[[], T]:
    """Do nothing ahead of time: the work is done where its result is asked for."""
    return work


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that a client has finished: the sum it applied, and the adapter that came of it.

    Source: protocols/README.md, section "Sessions".
    """

    step: int
    aggregate_hash: bytes
    adapter_hash: bytes


@dataclass(frozen=True, slots=True)
class StepKeys:
    """A client's secrets of one step: its own (none without masks), the others' public mask keys,
    and the shares that it holds of theirs.

    Source: protocols/README.md, section "Sessions".
    """

    own: StepSecrets | None = field(repr=False)
    mask_keys: Mapping[str, bytes]
    held: Mapping[str, StepShares] = field(repr=False)

    def only(self, names: Collection[str]) -> StepKeys:
        """Without what belongs to anybody else: who is left out of a step is never unmasked."""
        return replace(
            self,
            mask_keys={name: key for name, key in self.mask_keys.items() if name in names},
            held={name: shares for name, shares in self.held.items() if name in names},
        )


def keys_of_steps(
    steps: int,
    secrets: RoundSecrets,
    offers: Mapping[str, KeyOffer],
    held: Mapping[str, ShareContents],
    dealers: Collection[str],
    *,
    masked: bool,
) -> tuple[StepKeys, ...]:
    """One :class:`StepKeys` for each step, of the ``dealers`` among those who made ``offers``."""
    if not masked:
        return (StepKeys(None, {}, {}),) * steps
    return tuple(
        StepKeys(
            secrets.steps[step],
            {n: offer.steps[step].mask_key for n, offer in offers.items() if n in dealers},
            {dealer: contents.steps[step] for dealer, contents in held.items()},
        )
        for step in range(steps)
    )


def basis_of(
    context: bytes,
    step: int,
    dealers: Sequence[str],
    graph_seed: bytes,
    before: StepResult | None,
) -> bytes:
    """What every upload hash of a step must name: whose masks an upload may carry and, after the
    first step, the sum and the adapter that it builds on."""
    if before is None:
        return dealers_hash(context, dealers, graph_seed)
    return step_hash(context, step, dealers, before.aggregate_hash, before.adapter_hash, graph_seed)
