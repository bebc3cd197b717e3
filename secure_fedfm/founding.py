"""Drafting a charter: everything that can be computed about a federation before anybody signs.

A draft is unsigned and makes no decision that its arguments do not state: the founders read it
(`secure-fedfm charter show`) and sign it, or ask for another.  What is computed here is what a
person would get wrong: the length of an update and the hash of the initial adapter, both from the
base model itself, and a quantiser scale that cannot overflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from fedfm_audit.watermark.claim import TargetModule
from fedfm_crypto.errors import NoteError
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_crypto.note import format_vkey
from fedfm_protocols.charter import (
    Charter,
    add_charter_signature,
    make_charter,
    sign_charter,
)
from fedfm_protocols.enrolment import Enrolment
from fedfm_protocols.errors import CharterError, EnrolmentError
from fedfm_protocols.thresholds import Thresholds
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import OptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.votes import VoteSpec
from secure_fedfm.privacy.recipe import PrivacySections, SharedNoiseRequest
from secure_fedfm.robust.charter_rule import check_rule
from secure_fedfm.robust.drafting import RobustRequest
from secure_fedfm.robust.registry import make_rule
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.carrier import Carrier
from secure_fedfm.watermark.planning import DEFAULT_NORM_BOUND, MarksOffer, watermark_section

LARGEST_SCALE = 1 << 24
# Wide enough that a round of local training is not cut: a head moves by less than 1 in a round
# of a few hundred steps at the default rates.
DEFAULT_CLIP = 4.0
# Finer steps than this change nothing that training would notice: rounding is unbiased, and its
# error is 1e-5 of the largest update's where the noise of a batch is a tenth of it.
FINE_ENOUGH = 1 << 16
_UNKNOWN_HASH = "00" * 32


def log_origin(federation: str) -> str:
    """Origin line of a federation's transparency log, which is also the name of its key."""
    return f"{federation}/log"


def majority(founders: int) -> int:
    """The default quorum: more than half of the founders."""
    return founders // 2 + 1


def largest_scale(clients: int, clip: float, lane_bits: int) -> int:
    """The largest power of two that the capacity rule allows as quantiser scale, at most 2**24.

    The rule is n * (s * c + 1) < 2**(lane_bits - 1) with n clients, scale s and clip c: then no
    sum of n clipped and rounded updates can leave its lane.  A power of two, because multiplying
    a float by it is exact; at most 2**24, because the updates are float32 with 24 significant
    bits, so a finer grid would resolve nothing but the rounding of training itself.

    Raises
    ------
    CharterError
        if not even a scale of 1 fits.
    """
    room = Fraction(1 << (lane_bits - 1))
    scale = LARGEST_SCALE
    while scale >= 1 and clients * (scale * Fraction(clip) + 1) >= room:
        scale //= 2
    if scale < 1:
        raise CharterError(
            f"the sum of {clients} updates clipped at {clip} does not fit lanes of {lane_bits} "
            "bits at any scale; lower the clip or use 32-bit lanes"
        )
    return scale


def leanest_lane(clients: int, clip: float, scale: int | None) -> int:
    """24 bits a lane where the sum fits them, at the given scale or a fine one; else 32.

    A quarter fewer bytes, in every suite, for steps that are still far below what matters.
    """
    try:
        finest = largest_scale(clients, clip, 24)
    except CharterError:
        return 32
    return 24 if finest >= (FINE_ENOUGH if scale is None else scale) else 32


def draft_charter(
    *,
    federation: str,
    coordinator: Enrolment,
    clients: Sequence[Enrolment],
    log_public: IdentityPublicKey,
    model: ModelSpec,
    adapter: AdapterSpec,
    task: TaskSpec,
    plan: TrainingPlan,
    server_optimiser: OptimiserSpec,
    rounds: int,
    suite: str = "layered",
    colluding: int = 1,
    dropouts: int | None = None,
    clip: float | None = None,
    scale: int | None = None,
    lane_bits: int | None = None,
    privacy: PrivacySections | SharedNoiseRequest | None = None,
    robust: RobustRequest | None = None,
    founders: Sequence[str] | None = None,
    quorum: int | None = None,
    location: Path | None = None,
    marks: MarksOffer | None = None,
    mark_norm_bound: float | None = None,
) -> Charter:
    """An unsigned charter, complete and checked.

    Parameters
    ----------
    coordinator, clients
        Verified enrolments (``open_enrolment``); the order of the clients does not matter.
    log_public
        Public key of the transparency log, a key of its own that the coordinator holds.
    colluding, dropouts
        Clients that may conspire, and that may vanish in a round; ``dropouts`` of None takes one
        where the roster is large enough for that, else none.
    clip, scale, lane_bits
        The quantiser: element-wise clip in units of the update, steps per unit, 24 or 32 bits a
        lane.  ``scale`` of None takes :func:`largest_scale`, ``lane_bits`` of None
        :func:`leanest_lane`, ``clip`` of None :data:`DEFAULT_CLIP`; see :func:`_grid` for mode
        ``shared-noise``.
    privacy
        The sections ``privacy`` and ``training.private``, or what mode ``shared-noise`` shall keep
        to (``secure_fedfm.privacy.recipe``); None is mode ``none``.
    robust
        Who judges updates and by which rule; None is nobody.
    founders, quorum
        Who signs and how many make the charter valid; None takes all clients, and a majority.
    location
        Folder of the base model, where it is not found by its name.
    marks, mark_norm_bound
        Asked for the leaves that commit to ownership marks, once it is known which layers are
        trained; no leaf at all leaves the charter without marks.  The bound is of the L2 norm of
        what one mark adds.

    Loads the base model once (a few seconds) for the update's length and the initial adapter's
    hash, after everything that needs no model has been checked.

    Raises
    ------
    EnrolmentError
        an enrolment for another role, or two of one name.
    ConfigurationError
        a robust rule that cannot work with this roster, suite or privacy mode.
    CharterError
        fields that contradict each other: two parties with one key, thresholds that leave no
        valid round, a sum that overflows its lanes.
    PrivacySettingError
        a privacy budget that no noise keeps.
    ModelError, ConfigurationError
        the base model is missing, not the pinned one, or does not fit the adapter section.
    """
    _check_roles(coordinator, clients)
    names = sorted(client.name for client in clients)
    signing = list(names if founders is None else founders)
    if clip is not None and not 0 < clip < float("inf"):
        raise CharterError(f"quantiser.clip is {clip}; expected a positive finite number")
    if dropouts is None:
        dropouts = _usual_dropouts(len(clients), colluding)
    thresholds = Thresholds(len(clients), colluding, dropouts)
    if isinstance(privacy, SharedNoiseRequest):
        sections = PrivacySections(privacy.draft(thresholds))
    else:
        sections = privacy or PrivacySections()
    quantiser = _grid(privacy, len(clients), clip, scale, lane_bits)
    fields: dict[str, Any] = {
        "version": 1,
        "federation": federation,
        "coordinator": {
            "name": coordinator.name,
            "identity": coordinator.identity,
            "transport": coordinator.transport,
        },
        "roster": [_roster_entry(client) for client in sorted(clients, key=lambda c: c.name)],
        "founders": {
            "names": signing,
            "quorum": majority(len(signing)) if quorum is None else quorum,
        },
        "log": _log_section(federation, log_public),
        "model": model.to_json(),
        "task": task.to_json(),
        "adapter": adapter.to_json(),
        "training": plan.to_json()
        | ({} if sections.private is None else {"private": sections.private}),
        "server_optimiser": server_optimiser.to_json(),
        "rounds": rounds,
        "suite": suite,
        "limits": {"colluding": colluding, "dropouts": dropouts},
        "quantiser": quantiser,
        "privacy": sections.privacy,
        "initial_adapter": _UNKNOWN_HASH,
    }
    votes = isinstance(server_optimiser, VoteSpec)
    if robust is not None:
        robust.check(suite, sections.privacy["mode"])
        robust.check_roster([client.name for client in clients])
        rule = make_rule(robust.rule, robust.parameters)
        check_rule(rule, len(clients), thresholds.min_accepted, robust.group_count(votes))
    make_charter(fields)  # everything but the two values below; refuse before the slow part
    values, initial, modules = learning_facts(model, adapter, task, location)
    quantiser["values"] = values
    fields["initial_adapter"] = initial
    if robust is not None:
        fields |= robust.sections(values, votes)
    if isinstance(privacy, SharedNoiseRequest):
        calibrated = privacy.sections(thresholds, values=values, scale=quantiser["scale"])
        fields["privacy"] = calibrated.privacy
    leaves = () if marks is None else marks(modules)
    if leaves:
        bound = DEFAULT_NORM_BOUND if mark_norm_bound is None else mark_norm_bound
        fields["watermark"] = watermark_section(
            leaves,
            federation=federation,
            base_model=model.sha256,
            clients=clients,
            modules=modules,
            norm_bound=bound,
            scale=largest_scale(len(clients), bound, quantiser["lane_bits"]),
        )
    return make_charter(fields)


def _grid(
    privacy: PrivacySections | SharedNoiseRequest | None,
    clients: int,
    clip: float | None,
    scale: int | None,
    lane_bits: int | None,
) -> dict[str, Any]:
    """The quantiser, for an update of one value.

    In mode ``shared-noise`` 32 bits, since every step of the grid is noise too (sqrt(d) on top of
    s C); the clip is of one value of an institution's sum, and half of each lane stays free for
    the noise.
    """
    if isinstance(privacy, SharedNoiseRequest):
        clip = privacy.bound(clients) if clip is None else clip
        lane_bits = 32 if lane_bits is None else lane_bits
        scale = largest_scale(2 * clients, clip, lane_bits) if scale is None else scale
    clip = DEFAULT_CLIP if clip is None else clip
    lane_bits = leanest_lane(clients, clip, scale) if lane_bits is None else lane_bits
    scale = largest_scale(clients, clip, lane_bits) if scale is None else scale
    return {"values": 1, "clip": float(clip), "scale": scale, "lane_bits": lane_bits}


def _check_roles(coordinator: Enrolment, clients: Iterable[Enrolment]) -> None:
    if coordinator.role != "coordinator":
        raise EnrolmentError(
            f"the enrolment given for the coordinator is that of {coordinator.name}, a "
            f"{coordinator.role}; give the coordinator's enrolment.json"
        )
    seen: set[str] = set()
    for client in clients:
        if client.role != "client":
            raise EnrolmentError(
                f"the enrolment of {client.name} is for the role {client.role}, expected client; "
                "the coordinator takes no place on the roster"
            )
        if client.name in seen:
            raise EnrolmentError(
                f"two enrolments are named {client.name}; give each client once, and let one of "
                "two institutions of the same name choose another with `secure-fedfm keygen`"
            )
        seen.add(client.name)


def _usual_dropouts(clients: int, colluding: int) -> int:
    return min(1, clients - Thresholds(clients, colluding, 0).vote_quorum)


def _log_section(federation: str, public: IdentityPublicKey) -> dict[str, str]:
    origin = log_origin(federation)
    try:
        return {"origin": origin, "key": format_vkey(origin, public)}
    except NoteError as error:
        raise CharterError(
            f"federation is {federation!r}; expected up to 63 lowercase letters, digits and . _ -, "
            "starting with a letter or digit"
        ) from error


def _roster_entry(client: Enrolment) -> dict[str, str]:
    return {
        "name": client.name,
        "identity": client.identity,
        "transport": client.transport,
        "enrolment": client.digest,
    }


def learning_facts(
    model: ModelSpec, adapter: AdapterSpec, task: TaskSpec, location: Path | None
) -> tuple[int, str, tuple[TargetModule, ...]]:
    """Values in an update, the hash (hex) of the adapter before round 1, and the layers that can
    carry marks."""
    # The one import that needs torch: reading and checking a charter must work without it.
    from secure_fedfm.learning.learner import load_adapted  # noqa: PLC0415

    adapted = load_adapted(model, adapter, task, location)
    initial = adapted.state()
    transposed = bool(getattr(adapted.config, "fan_in_fan_out", False))
    carrier = Carrier(adapted.layout, adapter.alpha / adapter.rank, transposed)
    return adapted.layout.size, initial.hash().hex(), carrier.modules(initial)


def sign_by_founders(charter: Charter, sites: Mapping[str, Site]) -> bytes:
    """The envelope of a charter that every founder signs, each with the key of its own site.

    For federations whose sites all lie on this machine: demos, measurements, tests.
    """
    first, *others = charter.founders.names
    envelope = sign_charter(charter, first, sites[first].identity())
    for name in others:
        envelope = add_charter_signature(envelope, name, sites[name].identity())
    return envelope
