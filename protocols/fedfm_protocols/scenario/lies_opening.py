"""Step 0 and 2: a malicious coordinator lies about the round, the keys and the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.coordinator_states import CoordinatorContext, CoordinatorSite
from fedfm_protocols.messages import (
    GraphNonce,
    GraphNonces,
    KeyOffer,
    KeyRoster,
    RoundOpen,
    StepOffer,
)
from fedfm_protocols.scenario.actors import (
    OUTSIDER,
    body_of,
    member,
    outsider,
    resigned,
    swapped,
)
from fedfm_protocols.scenario.acts import ActForm, Interceptor, known_act
from fedfm_protocols.scenario.federations import COORDINATOR
from fedfm_protocols.scenario.lies import Moment, Signed, lie
from fedfm_protocols.simulation import deliver

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

POISONED = b"\x66" * 32


@known_act("lower-thresholds")
class LowerThresholds(ActForm):
    """The coordinator runs the same federation under a charter with weaker limits."""

    role: ClassVar[str] = "malicious coordinator"
    colluding: int = 1
    dropouts: int = 1

    @property
    def about(self) -> str:
        """What opens the round under the other charter."""
        return "RoundOpen"

    def signers(self) -> frozenset[str]:
        """The coordinator opens the round itself."""
        return frozenset({COORDINATOR})

    def start(self, stage: Stage) -> Interceptor:
        """Exchange the coordinator's charter."""
        limits = {"colluding": self.colluding, "dropouts": self.dropouts}
        weak = stage.charter(limits=limits)
        site = CoordinatorSite(stage.actor(COORDINATOR).key, weak)
        stage.coordinator = CoordinatorContext(
            site, SeededRandom(stage.scenario.seed), stage.encryption
        )
        return deliver


# ---------------------------------------------------------------- step 0


@lie("swap-adapter", "RoundOpen")
def _swap_adapter(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The round starts from another adapter than everyone holds."""
    return replace(opened, adapter_hash=POISONED)


@lie("other-configuration", "RoundOpen")
def _other_configuration(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The round trains under another configuration than the charter's."""
    return replace(opened, config_hash=POISONED)


@lie("other-kind", "RoundOpen")
def _other_kind(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The round is of a kind that nobody knows."""
    return replace(opened, kind="exfiltrate")


@lie("more-steps", "RoundOpen", needs=("count",))
def _more_steps(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The round is said to have `count` steps more than the charter says."""
    return replace(opened, steps=opened.steps + moment.count)


@lie("other-key-epoch", "RoundOpen")
def _other_key_epoch(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The round belongs to a key epoch that never was."""
    return replace(opened, key_epoch=77)


@lie("invite", "RoundOpen", needs=("clients",))
def _invite(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The opening says that only `clients` are invited, in this order."""
    return replace(opened, invited=moment.clients)


@lie("renumber-round", "RoundOpen", needs=("count",))
def _renumber(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The round claims to be the `count`-th of the scenario."""
    return replace(opened, round=moment.stage.number_of(moment.count))


@lie("misplace-opening", "RoundOpen")
def _misplace(moment: Moment, opened: RoundOpen) -> Signed:
    """The opening is signed under a context that does not follow from it."""
    return Signed(opened, {"context": bytes(32)})


@lie("withhold-checkpoint", "RoundOpen")
def _withhold_checkpoint(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The opening carries no checkpoint of the log."""
    return replace(opened, checkpoint=b"", consistency=())


# ---------------------------------------------------------------- step 2


@lie("unknown-identity", "KeyRoster")
def _unknown_identity(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """Somebody who is in no charter is on the key roster."""
    eve = resigned(outsider(), roster.offers[-1], sender=OUTSIDER)
    return KeyRoster((*roster.offers, eve))


@lie("answer-for", "KeyRoster", needs=("client",))
def _answer_for(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """The coordinator signs an offer in the name of `client`."""
    place = member(roster.offers, moment.client)
    return KeyRoster(swapped(roster.offers, place, resigned(moment.speaker, roster.offers[place])))


def _with_offer(moment: Moment, roster: KeyRoster, **fields: object) -> KeyRoster:
    offer = body_of(Envelope.decode(roster.offers[member(roster.offers, moment.client)]), KeyOffer)
    return KeyRoster(moment.accomplice(roster.offers, replace(offer, **fields)))  # type: ignore[arg-type]


@lie("repeat-key", "KeyRoster", needs=("client",), signs_for=True)
def _repeat_key(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """An accomplice offers the mask key of the first client on the roster."""
    stolen = body_of(Envelope.decode(roster.offers[0]), KeyOffer)
    return _with_offer(moment, roster, steps=stolen.steps)


@lie("key-for-two-purposes", "KeyRoster", needs=("client",), signs_for=True)
def _two_purposes(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """An accomplice offers one key to mask and to seal shares with."""
    own = body_of(Envelope.decode(roster.offers[member(roster.offers, moment.client)]), KeyOffer)
    step = StepOffer(own.share_key, own.steps[0].seed_commitment)
    return _with_offer(moment, roster, steps=(step, *own.steps[1:]))


@lie("low-order-key", "KeyRoster", needs=("client",), signs_for=True)
def _low_order_key(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """An accomplice offers a point of low order, which the coordinator lets through."""
    return _with_offer(moment, roster, share_key=bytes(32))


@lie("extra-steps", "KeyRoster", needs=("client",), signs_for=True)
def _extra_steps(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """An accomplice offers keys for one step more than the round has."""
    own = body_of(Envelope.decode(roster.offers[member(roster.offers, moment.client)]), KeyOffer)
    return _with_offer(moment, roster, steps=(*own.steps, own.steps[0]))


@lie("alter-offer", "KeyRoster", needs=("client",), signs_for=True)
def _alter_offer(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """The offer of `client` is signed again with its stolen key, other keys in it."""
    return _with_offer(moment, roster, nonce_commitment=bytes(32))


@lie("short-roster", "KeyRoster", needs=("count",))
def _short_roster(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """Only the first `count` offers are on the key roster."""
    return KeyRoster(roster.offers[: moment.count])


@lie("leave-out-offer", "KeyRoster", needs=("client",))
def _leave_out_offer(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """The offer of `client` is not on the key roster."""
    place = member(roster.offers, moment.client)
    return KeyRoster((*roster.offers[:place], *roster.offers[place + 1 :]))


@lie("repeat-offer", "KeyRoster")
def _repeat_offer(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """One offer is on the key roster twice."""
    return KeyRoster((roster.offers[0], *roster.offers))


@lie("junk-offer", "KeyRoster")
def _junk_offer(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """One member of the key roster is no envelope."""
    return KeyRoster((*roster.offers[:-1], b"junk"))


@lie("misplace-roster", "KeyRoster")
def _misplace_roster(moment: Moment, roster: KeyRoster) -> Signed:
    """The key roster is signed under a context that does not follow from it."""
    return Signed(roster, {"context": bytes(32)})


@lie("stale-offer", "KeyRoster", needs=("client",), signs_for=True)
def _stale_offer(moment: Moment, roster: KeyRoster) -> KeyRoster:
    """An accomplice's offer on the key roster was signed for another round."""
    return KeyRoster(moment.accomplice(roster.offers, context=bytes(32)))


# ---------------------------------------------------------------- step 2, sparse graph


@lie("withhold-nonces", "GraphNonces", needs=("clients",))
def _withhold_nonces(moment: Moment, published: GraphNonces) -> GraphNonces:
    """The opened nonces of `clients` are left out, to try another ring."""
    kept = [e for e in published.nonces if Envelope.decode(e).header.sender not in moment.clients]
    return GraphNonces(tuple(kept))


@lie("swap-nonce", "GraphNonces", needs=("client",), signs_for=True)
def _swap_nonce(moment: Moment, published: GraphNonces) -> GraphNonces:
    """An accomplice opens another nonce than it committed to, chosen after all others."""
    return GraphNonces(moment.accomplice(published.nonces, GraphNonce(POISONED)))


@lie("foreign-nonce", "GraphNonces")
def _foreign_nonce(moment: Moment, published: GraphNonces) -> GraphNonces:
    """Somebody who offered no keys is among the opened nonces."""
    eve = resigned(outsider(), published.nonces[-1], sender=OUTSIDER)
    return GraphNonces((*published.nonces, eve))
