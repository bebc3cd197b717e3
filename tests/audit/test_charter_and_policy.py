"""The auditor's reading of charter and policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedfm_audit.charter_view import CHARTER_PAYLOAD_TYPE, open_charter
from fedfm_audit.errors import CharterViewError, PolicyError
from fedfm_audit.policy import parse_policy, render_policy
from fedfm_audit.thresholds import Thresholds
from fedfm_crypto.canonical_json import canonical_decode
from fedfm_crypto.dsse import dsse_read_unverified, dsse_sign
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.note import NoteAlgorithm, format_vkey
from fedfm_crypto.random_source import SeededRandom
from tests.audit.synthetic import NAME, SHARED_NOISE, Federation

STRANGER = IdentityKey.generate(SeededRandom(b"stranger"))


def test_the_charter_reads_as_written(federation: Federation) -> None:
    charter = open_charter(federation.charter)
    assert charter.digest == federation.charter_hash
    assert charter.clients == federation.names
    assert charter.signers == federation.names[:3]
    assert charter.config_hash == federation.config_hash
    assert (charter.thresholds.vote_quorum, charter.thresholds.min_accepted) == (4, 4)
    assert charter.witnesses[0].name == f"{NAME}/client-01"


@pytest.mark.parametrize(
    ("clients", "colluding", "dropouts", "quorum", "accepted"),
    [
        (100, 10, 10, 67, 90),
        (5, 1, 1, 4, 4),
        (3, 1, 0, 3, 3),
        (10, 2, 2, 7, 8),
        (10, 6, 1, 9, 9),
        (64, 8, 10, 43, 54),
    ],
)
def test_thresholds(
    clients: int, colluding: int, dropouts: int, quorum: int, accepted: int
) -> None:
    found = Thresholds(clients, colluding, dropouts)
    assert (found.vote_quorum, found.min_accepted) == (quorum, accepted)


@pytest.mark.parametrize("numbers", [(5, 1, 2), (5, 4, 0), (3, 1, 1), (2, 1, 0), (65, 30, 2)])
def test_unreachable_thresholds_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(CharterViewError, match="limits"):
        Thresholds(*numbers)


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        target: Any = fields
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return change


CHARTER_BREAKS = {
    "unknown section": (put("robustness", value={}), "robustness"),
    "unknown field": (put("limits", "validators", value=1), "limits"),
    "wrong version": (put("version", value=2), "version"),
    "suite": (put("suite", value="open"), "suite"),
    "privacy": (put("privacy", "mode", value="dp-sgd"), "privacy"),
    "unsorted roster": (lambda fields: fields["roster"].reverse(), "sorted"),
    "shared identity": (
        lambda fields: fields["roster"][0].update(identity=fields["roster"][1]["identity"]),
        "share an identity key",
    ),
    "shared transport": (
        lambda fields: fields["roster"][0].update(transport=fields["roster"][1]["transport"]),
        "share a transport key",
    ),
    "small-order identity": (put("roster", 0, "identity", value="00" * 32), "identity key"),
    "coordinator on the roster": (put("coordinator", "name", value="client-02"), "on the roster"),
    "founder from outside": (put("founders", "names", value=["client-09"]), "not on the roster"),
    "quorum above founders": (put("founders", "quorum", value=4), "quorum 4 of 3"),
    "too many colluding": (put("limits", "colluding", value=5), "limits"),
    "log key of another origin": (put("log", "origin", value="log.example/other"), "log.key"),
    "log key is a client's": (
        lambda fields: fields["log"].update(
            key=format_vkey(fields["log"]["origin"], federation_key(fields))
        ),
        "log key is one of them",
    ),
    "log key is a witness key": (
        lambda fields: fields["log"].update(
            key=format_vkey(fields["log"]["origin"], STRANGER.public, NoteAlgorithm.COSIGNATURE_V1)
        ),
        "algorithm 0x01",
    ),
}


def federation_key(fields: dict[str, Any]) -> IdentityPublicKey:
    return IdentityPublicKey.from_hex(fields["roster"][0]["identity"])


@pytest.mark.parametrize("name", CHARTER_BREAKS)
def test_charters_that_contradict_themselves_are_refused(name: str) -> None:
    change, reason = CHARTER_BREAKS[name]
    with pytest.raises(CharterViewError, match=reason):
        open_charter(Federation(change_charter=change).charter)


def resigned(federation: Federation, *keys: IdentityKey) -> bytes:
    payload = dsse_read_unverified(federation.charter).payload
    return dsse_sign(payload, CHARTER_PAYLOAD_TYPE, [(key.public.hex, key) for key in keys])


def test_the_founders_quorum_must_have_signed(federation: Federation) -> None:
    first, second, third, fourth, _ = federation.keys.values()
    assert open_charter(resigned(federation, first, third)).signers == ("client-01", "client-03")
    for keys in [(first,), (first, fourth), (first, second, STRANGER), (federation.coordinator,)]:
        with pytest.raises(CharterViewError, match="founders' signatures"):
            open_charter(resigned(federation, *keys))


def test_something_else_signed_is_no_charter(federation: Federation) -> None:
    for data in (b"", b"{}", federation.leaves[0], canonical_bytes(federation)):
        with pytest.raises(CharterViewError):
            open_charter(data)


def canonical_bytes(federation: Federation) -> bytes:
    payload = dsse_read_unverified(federation.charter).payload
    assert isinstance(canonical_decode(payload), dict)
    return payload


# ---- shared noise


def shared(suite: str = "layered", **fields: Any) -> bytes:
    section = {**SHARED_NOISE, **fields}
    return Federation(
        suite=suite, change_charter=lambda charter: charter.update(privacy=section)
    ).charter


@pytest.mark.parametrize("suite", ["masked", "layered"])
@pytest.mark.parametrize("honest", [3, 4])
def test_shared_noise_makes_rounds_sessions(suite: str, honest: int) -> None:
    charter = open_charter(shared(suite, steps_per_round=120, honest_shares=honest))
    assert (charter.steps_of("train"), charter.steps_of("keys")) == (120, 1)
    assert charter.thresholds.min_honest == 3


def test_other_modes_have_one_step(federation: Federation) -> None:
    charter = open_charter(federation.charter)
    assert (charter.steps_of("train"), charter.steps_of("keys")) == (1, 1)


@pytest.mark.parametrize("suite", ["clear", "sealed"])
def test_shared_noise_needs_masks(suite: str) -> None:
    with pytest.raises(CharterViewError, match=f"needs uploads that are masked .* suite {suite}"):
        open_charter(shared(suite))


@pytest.mark.parametrize("honest", [1, 2, 5])
def test_shared_noise_counts_on_those_who_are_there(honest: int) -> None:
    with pytest.raises(
        CharterViewError, match=f"{honest} honest shares.* at least 4 accepted.* least 3 of them"
    ):
        open_charter(shared(honest_shares=honest))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps_per_round", 0),
        ("steps_per_round", 1025),
        ("steps_per_round", 2.5),
        ("batch", 0),
        ("noise_multiplier", 0),
        ("sampling_rate", 1.5),
        ("delta", 1),
        ("mechanism", "gaussian"),
        ("rotation", True),
    ],
)
def test_shared_noise_has_bounds(field: str, value: Any) -> None:
    with pytest.raises(CharterViewError, match="privacy"):
        open_charter(shared(**{field: value}))


# ---- policy


def test_the_rendered_policy_parses_to_the_charter(federation: Federation) -> None:
    charter = open_charter(federation.charter)
    text = render_policy(charter)
    policy = parse_policy(text)
    assert policy.logs == (charter.log_key,)
    assert tuple(policy.witnesses.values()) == charter.witnesses
    assert policy.groups[policy.quorum].needed == 4
    assert policy.satisfied_by(charter.witnesses[:4])
    assert not policy.satisfied_by(charter.witnesses[:3])
    assert render_policy(charter) == text


LOG = "log " + format_vkey("log.example/a", STRANGER.public)


def witness(name: str, seed: bytes | None = None) -> str:
    key = IdentityKey.generate(SeededRandom(seed or name.encode())).public
    return f"witness {name} {format_vkey(name, key, NoteAlgorithm.COSIGNATURE_V1)}"


def policy_text(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def test_nested_groups() -> None:
    x, y = [witness(f"x{i}") for i in range(3)], [witness(f"y{i}") for i in range(2)]
    policy = parse_policy(
        policy_text(
            "# an auditor's own",
            LOG + " https://log.example/",
            *x,
            "",
            *y,
            "group\txs 2  x0 x1 x2",
            "group ys any y0 y1",
            "group both all xs ys",
            "quorum both",
        )
    )
    keys = policy.witnesses
    assert policy.satisfied_by([keys["x0"], keys["x2"], keys["y1"]])
    assert not policy.satisfied_by([keys["x0"], keys["y0"], keys["y1"]])
    assert not policy.satisfied_by([keys["x0"], keys["x1"], keys["x2"]])


def test_no_quorum_needs_nobody_and_a_single_witness_is_a_quorum() -> None:
    assert parse_policy(policy_text(LOG, "quorum none")).satisfied_by([])
    single = parse_policy(policy_text(LOG, witness("w"), "quorum w"))
    assert not single.satisfied_by([])
    assert single.satisfied_by(single.witnesses.values())


BAD_POLICIES = {
    "no quorum": [LOG],
    "two quorums": [LOG, "quorum none", "quorum none"],
    "undefined quorum": [LOG, "quorum w"],
    "undefined member": [LOG, "group g 1 w", "quorum g"],
    "member used twice": [LOG, witness("w"), "group g 1 w", "group h 1 w", "quorum g"],
    "member repeated": [LOG, witness("w"), "group g 1 w w", "quorum g"],
    "threshold too high": [LOG, witness("w"), "group g 2 w", "quorum g"],
    "threshold zero": [LOG, witness("w"), "group g 0 w", "quorum g"],
    "empty group": [LOG, "group g 1", "quorum g"],
    "same name": [LOG, witness("w"), witness("w", b"other"), "quorum w"],
    "same key": [LOG, witness("w", b"s"), witness("v", b"s"), "quorum w"],
    "reserved name": [LOG, witness("none"), "quorum none"],
    "log key as witness": [LOG, "witness w " + LOG.split()[1], "quorum w"],
    "witness key as log": [witness("w").replace("witness w", "log"), "quorum none"],
    "unknown line": [LOG, "trust everyone", "quorum none"],
    "altered key id": [LOG.replace("+", "+0", 1), "quorum none"],
    "control character": [LOG, "# bell \x07", "quorum none"],
}


@pytest.mark.parametrize("name", BAD_POLICIES)
def test_bad_policies_are_refused(name: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(policy_text(*BAD_POLICIES[name]))


def test_policies_are_bounded() -> None:
    for text in (b"#" * (2 << 20), b"\n" * 20_000, b"quorum none", b"\xff\n"):
        with pytest.raises(PolicyError):
            parse_policy(text)
