"""The charter: every rule it must keep, its one byte form, its founders' quorum, site policies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_add_signature, dsse_sign
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import NoteAlgorithm, format_vkey
from fedfm_protocols.charter import (
    CHARTER_PAYLOAD_TYPE,
    Charter,
    add_charter_signature,
    make_charter,
    open_charter,
    read_charter_payload,
    sign_charter,
)
from fedfm_protocols.errors import CharterError, PolicyViolation
from fedfm_protocols.federation import Federation
from fedfm_protocols.policy import SitePolicy
from tests.protocols.federations import charter_fields, make_federation, make_keys

KEYS = make_keys(5)
NAMES = sorted(KEYS.clients)


def _fields(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(charter_fields(KEYS, **changes)))
    return fields


def _charter(**changes: Any) -> Charter:
    return make_charter(_fields(**changes))


Edit = Callable[[dict[str, Any]], Any]


def _set(*path: str | int) -> Callable[[Any], Edit]:
    """``_set("log", "key")(value)`` edits one place of the fields."""

    def to(value: Any) -> Edit:
        def edit(fields: dict[str, Any]) -> None:
            place: Any = fields
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value

        return edit

    return to


LOG_VKEY = format_vkey("other/log", KEYS.log.public, NoteAlgorithm.ED25519)
COSIGNER = format_vkey("test/log", KEYS.log.public, NoteAlgorithm.COSIGNATURE_V1)
SHARED_VKEY = format_vkey("test/log", KEYS.coordinator.public, NoteAlgorithm.ED25519)

WRONG: dict[str, tuple[Edit, str]] = {
    "future version": (_set("version")(2), "version"),
    "version as text": (_set("version")("1"), "version"),
    "unknown field": (_set("extra")(1), "extra"),
    "unknown field inside": (_set("limits", "extra")(1), "limits.extra"),
    "missing field": (lambda f: f.pop("rounds"), "rounds: Field required"),
    "name with a space": (_set("federation")("a b"), "federation"),
    "name with a newline": (_set("federation")("a\n"), "federation"),
    "name too long": (_set("federation")("a" * 64), "federation"),
    "name in capitals": (_set("coordinator", "name")("Hub"), "coordinator.name"),
    "unsorted roster": (lambda f: f["roster"].reverse(), "sorted by name"),
    "client twice": (lambda f: f["roster"].insert(0, f["roster"][0]), "each name once"),
    "coordinator on the roster": (
        _set("coordinator", "name")(NAMES[0]),
        "coordinator's name client-01 is on the roster",
    ),
    "shared identity": (
        lambda f: f["roster"][1].update(identity=f["roster"][0]["identity"]),
        "client-01 and client-02 have the same identity key",
    ),
    "coordinator is also a client": (
        lambda f: f["roster"][1].update(identity=f["coordinator"]["identity"]),
        "client-02 and coordinator have the same identity key",
    ),
    "shared transport key": (
        lambda f: f["roster"][1].update(transport=f["roster"][0]["transport"]),
        "client-01 and client-02 have the same transport key",
    ),
    "identity of small order": (
        _set("roster", 0, "identity")("01" + "00" * 31),
        "small order",
    ),
    "identity that is no point": (_set("roster", 0, "identity")("02" + "00" * 31), "not a point"),
    "identity not canonical": (_set("roster", 0, "identity")("ff" * 32), "not canonical"),
    "identity in capitals": (_set("roster", 0, "identity")("AB" * 32), "roster.0.identity"),
    "identity too short": (_set("roster", 0, "identity")("ab" * 31), "roster.0.identity"),
    "transport of small order": (_set("roster", 0, "transport")("00" * 32), "small order"),
    "transport not canonical": (_set("coordinator", "transport")("ff" * 32), "not canonical"),
    "enrolment is no hash": (_set("roster", 0, "enrolment")("soon"), "roster.0.enrolment"),
    "founder off the roster": (_set("founders", "names")([NAMES[0], "eve"]), "eve"),
    "founder twice": (_set("founders", "names")([NAMES[0], NAMES[0]]), "distinct clients"),
    "no founders": (_set("founders", "names")([]), "founders.names"),
    "quorum of nobody": (_set("founders", "quorum")(0), "founders.quorum"),
    "quorum above the founders": (_set("founders", "quorum")(4), "founders.quorum is 4 of 3"),
    "log key of another log": (_set("log", "key")(LOG_VKEY), "named after log.origin"),
    "witness key as log key": (_set("log", "key")(COSIGNER), "must be an Ed25519 key"),
    "coordinator's key as log key": (
        _set("log", "key")(SHARED_VKEY),
        "log.key is the identity key of coordinator",
    ),
    "log key is junk": (_set("log", "key")("junk"), "charter: "),
    "model hash": (_set("model", "sha256")("00"), "model.sha256"),
    "unknown task": (_set("task", "kind")("poetry"), "task.kind"),
    "no rounds": (_set("rounds")(0), "rounds"),
    "rounds as text": (_set("rounds")("3"), "rounds"),
    "rounds as a fraction": (_set("rounds")(2.5), "rounds"),
    "unknown suite": (_set("suite")("plain"), "suite"),
    "nobody may collude": (_set("limits", "colluding")(0), "colluding is 0"),
    "too many may collude": (_set("limits", "colluding")(4), "cannot tolerate 4"),
    "too many may vanish": (_set("limits", "dropouts")(2), "at most 1 may vanish"),
    "no values": (_set("quantiser", "values")(0), "quantiser.values"),
    "too many values": (_set("quantiser", "values")(2**28 + 1), "quantiser.values"),
    "clip of zero": (_set("quantiser", "clip")(0), "quantiser.clip"),
    "negative clip": (_set("quantiser", "clip")(-1.0), "quantiser.clip"),
    "infinite clip": (_set("quantiser", "clip")(float("inf")), "charter"),
    "clip is no number": (_set("quantiser", "clip")(float("nan")), "quantiser.clip"),
    "scale of zero": (_set("quantiser", "scale")(0), "quantiser.scale"),
    "scale beyond the lane": (_set("quantiser", "scale")(2**30), "does not fit lanes"),
    "odd lanes": (_set("quantiser", "lane_bits")(16), "quantiser.lane_bits"),
    "unknown privacy": (_set("privacy", "mode")("some"), "privacy"),
    "initial adapter": (_set("initial_adapter")(""), "initial_adapter"),
    "a number that JSON cannot hold": (_set("training")({"lr": float("nan")}), "charter"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_charter_with_one_fault_is_refused_by_name(fault: str) -> None:
    edit, text = WRONG[fault]
    fields = _fields()
    make_charter(fields)  # the same charter without the fault is fine
    edit(fields)
    with pytest.raises(CharterError) as caught:
        make_charter(fields)
    assert text in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_roster_of_two_is_refused() -> None:
    fields = charter_fields(make_keys(2), limits={"colluding": 1, "dropouts": 0})
    fields["founders"] = {"names": ["client-01"], "quorum": 1}
    with pytest.raises(CharterError, match="the roster has 2 clients"):
        make_charter(fields)


def test_a_large_roster_that_no_graph_can_serve_is_refused() -> None:
    fields = charter_fields(make_keys(70), limits={"colluding": 20, "dropouts": 23})
    with pytest.raises(CharterError, match="more neighbours than there are clients"):
        make_charter(fields)


# ---------------------------------------------------------------- one byte form


def test_the_hash_is_that_of_the_canonical_payload() -> None:
    charter = _charter()
    assert charter.payload() == canonical_encode(_fields())
    assert charter.hash == hashlib.sha256(charter.payload()).digest()
    assert read_charter_payload(charter.payload()) == charter
    assert read_charter_payload(charter.payload()).hash == charter.hash


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda p: p + b"\n", "not canonical"),
        (lambda p: b" " + p, "not canonical"),
        (lambda p: json.dumps(json.loads(p)).encode(), "not canonical"),
        (lambda p: p.replace(b'"rounds":3', b'"rounds":3,"rounds":3'), "not canonical"),
        (lambda p: p.replace(b'"rounds":3', b'"rounds":3.0'), "not canonical"),
        (lambda p: b"[]", "must be a JSON object"),
        (lambda p: b"null", "must be a JSON object"),
        (lambda p: b"", "not canonical"),
        (lambda p: b"\xff", "not canonical"),
    ],
    ids=["newline", "space", "spaced", "duplicate", "float", "list", "null", "empty", "binary"],
)
def test_only_the_canonical_bytes_are_a_charter(spoil: Callable[[bytes], bytes], text: str) -> None:
    with pytest.raises(CharterError, match=text):
        read_charter_payload(spoil(_charter().payload()))


def test_every_field_is_bound_by_the_hash_and_the_configuration_by_its_own() -> None:
    base = _charter()
    changes: list[dict[str, Any]] = [
        {"federation": "other"},
        {"rounds": 4},
        {"suite": "clear"},
        {"limits": {"colluding": 1, "dropouts": 0}},
        {"training": {"epochs": 2}},
        {"server_optimiser": {"name": "fedadam"}},
        {"adapter": {"rank": 4}},
        {"initial_adapter": "22" * 32},
    ]
    others = [_charter(**change) for change in changes]
    assert len({base.hash, *(other.hash for other in others)}) == len(changes) + 1
    bound = [other.config_hash != base.config_hash for other in others]
    assert bound == ["training" in change or "server_optimiser" in change for change in changes]


def test_derived_values() -> None:
    federation = Federation.of(_charter())
    assert federation.clients == tuple(NAMES)
    assert dict(federation.share_index) == {name: i + 1 for i, name in enumerate(NAMES)}
    assert federation.coordinator == "coordinator"
    assert federation.masked
    assert not make_federation(KEYS, suite="clear").masked
    assert federation.identities[NAMES[0]].raw == KEYS.clients[NAMES[0]].public.raw
    assert len({federation.link_context, make_federation(KEYS, rounds=4).link_context}) == 2


# ---------------------------------------------------------------- signatures


def _signed(*signers: str) -> bytes:
    charter = _charter()
    envelope = sign_charter(charter, signers[0], KEYS.clients[signers[0]])
    for signer in signers[1:]:
        envelope = add_charter_signature(envelope, signer, KEYS.clients[signer])
    return envelope


def test_a_quorum_of_founders_makes_it_valid() -> None:
    with pytest.raises(CharterError, match="2 of 3 founders"):
        open_charter(_signed("client-01"))
    assert open_charter(_signed("client-01"), require_quorum=False).signers == ("client-01",)
    opened = open_charter(_signed("client-03", "client-01"))
    assert set(opened.signers) == {"client-01", "client-03"}
    assert opened.charter == _charter()
    assert set(open_charter(_signed("client-01", "client-02", "client-03")).signers) == {
        "client-01",
        "client-02",
        "client-03",
    }


def test_only_founders_sign_with_their_own_key_and_once() -> None:
    charter = _charter()
    with pytest.raises(CharterError, match="client-05 is not a founder"):
        sign_charter(charter, "client-05", KEYS.clients["client-05"])
    with pytest.raises(CharterError, match="not the one enrolled for client-01"):
        sign_charter(charter, "client-01", KEYS.clients["client-02"])
    with pytest.raises(CharterError, match="client-01 has already signed"):
        add_charter_signature(_signed("client-01"), "client-01", KEYS.clients["client-01"])
    with pytest.raises(CharterError, match="client-04 is not a founder"):
        add_charter_signature(_signed("client-01"), "client-04", KEYS.clients["client-04"])


def _raw(*keys: IdentityKey, payload: bytes | None = None, kind: str = "") -> bytes:
    return dsse_sign(
        _charter().payload() if payload is None else payload,
        kind or CHARTER_PAYLOAD_TYPE,
        [(key.public.hex, key) for key in keys],
    )


FOUNDERS = [KEYS.clients[name] for name in NAMES[:3]]


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        (_raw(*FOUNDERS[:2], KEYS.clients["client-05"]), "unknown key"),
        (_raw(*FOUNDERS[:2], KEYS.coordinator), "unknown key"),
        (_raw(KEYS.coordinator), "unknown key"),
        (_raw(*FOUNDERS, kind="application/json"), "payload type"),
        (_raw(*FOUNDERS, payload=b"{}"), "invalid charter"),
        (_raw(*FOUNDERS, payload=b"junk"), "not canonical JSON"),
        (_raw(*FOUNDERS).replace(b'"sig":"', b'"sig":"AAAA', 1), "not signed as it must be"),
        (_raw(*FOUNDERS) + b"\n", "not a signed charter"),
        (_charter().payload(), "not a signed charter"),
        (b"", "not a signed charter"),
    ],
    ids=[
        "extra signature of a client",
        "extra signature of the coordinator",
        "coordinator alone",
        "other payload type",
        "other payload",
        "junk payload",
        "broken signature",
        "trailing byte",
        "unsigned",
        "empty",
    ],
)
def test_an_envelope_that_is_not_exactly_a_signed_charter(envelope: bytes, text: str) -> None:
    with pytest.raises(CharterError, match=text):
        open_charter(envelope)


def test_no_signature_at_all() -> None:
    document = json.loads(_raw(*FOUNDERS))
    document["signatures"] = []
    with pytest.raises(CharterError, match="without a signature"):
        open_charter(canonical_encode(document))


def test_signatures_for_another_charter_do_not_count() -> None:
    other = json.loads(_raw(*FOUNDERS, payload=_charter(rounds=5).payload()))
    document = json.loads(_raw(*FOUNDERS))
    document["payload"] = other["payload"]
    with pytest.raises(CharterError, match="not signed as it must be"):
        open_charter(canonical_encode(document))


def test_a_signature_added_around_the_rules_is_found_out() -> None:
    eve = KEYS.clients["client-05"]
    envelope = dsse_add_signature(
        _raw(*FOUNDERS), (eve.public.hex, eve), payload_type=CHARTER_PAYLOAD_TYPE
    )
    with pytest.raises(CharterError, match="unknown key"):
        open_charter(envelope)


# ---------------------------------------------------------------- local policy

MASKED = ("masked",)


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (SitePolicy(charter_hash="00" * 32), "charter_hash"),
        (SitePolicy(suites=("layered",)), "suites"),
        (SitePolicy(MASKED, min_clients=6), "min_clients"),
        (SitePolicy(MASKED, min_colluding=2), "min_colluding"),
        (SitePolicy(MASKED, min_accepted=5), "min_accepted"),
        (SitePolicy(MASKED, max_rounds=2), "max_rounds"),
        (SitePolicy(MASKED, privacy_modes=("dp",)), "privacy_modes"),
        (SitePolicy(MASKED, model_sha256="11" * 32), "model_sha256"),
    ],
)
def test_a_charter_below_the_policy_is_refused_by_the_line(policy: SitePolicy, line: str) -> None:
    with pytest.raises(PolicyViolation, match=f"local policy {line}:"):
        policy.check_charter(_charter())


def test_the_default_policy_takes_the_default_suite_alone() -> None:
    SitePolicy().check_charter(_charter(suite="layered"))
    for suite in ("clear", "masked", "sealed"):
        with pytest.raises(PolicyViolation, match="suites"):
            SitePolicy().check_charter(_charter(suite=suite))
    SitePolicy(suites=("masked", "clear")).check_charter(_charter(suite="clear"))


def test_a_policy_at_exactly_what_the_charter_offers() -> None:
    charter = _charter()
    SitePolicy(
        suites=MASKED,
        min_clients=5,
        min_colluding=1,
        min_accepted=4,
        max_rounds=3,
        model_sha256="00" * 32,
        charter_hash=charter.hash.hex(),
    ).check_charter(charter)
