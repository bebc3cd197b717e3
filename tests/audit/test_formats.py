"""audit/README.md, followed by hand: no code of the project between the bytes and the check.

Only hashlib, struct, json, base64 and pyca/cryptography are used on the bundle's files, as somebody
who writes a verifier from the README would.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedfm_crypto.hashing import hash_tensors
from tests.audit.played_round import MAKE_KEYS, Script
from tests.audit.synthetic import play_federation

Files = dict[str, bytes]


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def sized(data: bytes) -> bytes:
    return u32(len(data)) + data


def names(listed: list[str]) -> bytes:
    return u32(len(listed)) + b"".join(sized(name.encode()) for name in listed)


def labelled(label: bytes, *parts: bytes) -> bytes:
    pieces = b"".join(struct.pack(">Q", len(part)) + part for part in (label, *parts))
    return hashlib.sha256(pieces).digest()


def header_bytes(entry: dict[str, Any]) -> bytes:
    return b"".join(
        [
            bytes([entry["version"]]),
            bytes.fromhex(entry["context"]),
            sized(entry["type"].encode()),
            sized(entry["sender"].encode()),
            struct.pack(">HI", entry["step"], entry["sequence"]),
            bytes.fromhex(entry["refers_to"]),
            bytes.fromhex(entry["body_hash"]),
            struct.pack(">Q", entry["checkpoint"]["size"]),
            bytes.fromhex(entry["checkpoint"]["root"]),
        ]
    )


def envelope_bytes(entry: dict[str, Any]) -> bytes:
    body = base64.b64decode(entry["body"])
    return header_bytes(entry) + base64.b64decode(entry["signature"]) + sized(body)


def listed(entries: list[dict[str, Any]]) -> bytes:
    return u32(len(entries)) + b"".join(sized(envelope_bytes(entry)) for entry in entries)


def charter_of(bundle: Files) -> tuple[dict[str, Any], bytes]:
    payload = base64.b64decode(json.loads(bundle["charter.json"])["payload"])
    return json.loads(payload), hashlib.sha256(payload).digest()


def envelopes_of(bundle: Files, number: int) -> list[dict[str, Any]]:
    document = json.loads(bundle[f"transcripts/{number:06d}.json"])
    return [
        *document["setup"],
        *(e for step in document["steps"] for e in step),
        *document["close"],
    ]


def entries_of(bundle: Files, kind: str, number: int = 3) -> list[dict[str, Any]]:
    return [entry for entry in envelopes_of(bundle, number) if entry["type"] == kind]


def test_every_envelope_signature(bundle: Files) -> None:
    charter, _ = charter_of(bundle)
    parties = [charter["coordinator"], *charter["roster"]]
    keys = {party["name"]: bytes.fromhex(party["identity"]) for party in parties}
    label = b"secure-fedfm/v1/envelope"
    for entry in envelopes_of(bundle, 3):
        key = Ed25519PublicKey.from_public_bytes(keys[entry["sender"]])
        signed = bytes([24]) + label + header_bytes(entry)
        key.verify(base64.b64decode(entry["signature"]), signed)


def test_contexts_and_rebuilt_bodies(bundle: Files) -> None:
    charter, charter_hash = charter_of(bundle)
    clients = [party["name"] for party in charter["roster"]]
    (opened,) = entries_of(bundle, "RoundOpen")
    body = base64.b64decode(opened["body"])
    config = {"server_optimiser": charter["server_optimiser"], "training": charter["training"]}
    text = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    start = u32(3) + u32(0) + struct.pack(">H", 1) + sized(b"train") + names(clients)
    assert body.startswith(start)
    adapter, config_hash = body[len(start) : len(start) + 32], hashlib.sha256(text).digest()
    assert body[len(start) + 32 : len(start) + 64] == config_hash
    first = labelled(
        b"secure-fedfm/v1/context-round",
        charter_hash,
        u32(0),
        u32(3),
        struct.pack(">H", 1),
        b"train",
        names(clients),
        adapter,
        config_hash,
    )
    assert opened["context"] == first.hex()
    roster = hashlib.sha256(listed(entries_of(bundle, "KeyOffer"))).digest()
    assert entries_of(bundle, "KeyRoster")[0]["body_hash"] == roster.hex()
    second = labelled(b"secure-fedfm/v1/context-keys", first, roster, bytes(32))
    assert {entry["context"] for entry in entries_of(bundle, "RoundAck")} == {second.hex()}
    dealers = [entry["sender"] for entry in entries_of(bundle, "ShareBundle")]
    hashes = entries_of(bundle, "UploadHash")
    expected = labelled(b"secure-fedfm/v1/dealers", second, names(dealers))
    assert {entry["refers_to"] for entry in hashes} == {expected.hex()}
    upload_set = hashlib.sha256(listed(hashes)).hexdigest()
    assert entries_of(bundle, "Cohort")[0]["refers_to"] == upload_set
    proof = hashlib.sha256(listed(entries_of(bundle, "CohortVote"))).hexdigest()
    assert entries_of(bundle, "CohortProof")[0]["body_hash"] == proof


def test_a_cohort_by_hand(bundle: Files) -> None:
    (cohort,) = entries_of(bundle, "Cohort")
    accepted = [f"client-0{number}" for number in (1, 2, 3, 4)]
    upload_set = hashlib.sha256(listed(entries_of(bundle, "UploadHash"))).digest()
    assert base64.b64decode(cohort["body"]) == (upload_set + names(accepted) + names(["client-05"]))


def test_a_round_under_a_collective_key_by_hand() -> None:
    """Contexts, active set and committed hashes of suite layered."""
    federation = play_federation(MAKE_KEYS, Script(), suite="layered")
    files = federation.files()
    payload = json.loads(base64.b64decode(json.loads(federation.leaves[-2])["payload"]))
    key = payload["predicate"]["key"]
    assert (key["epoch"], key["holders"]) == (1, list(federation.names))
    for number, key_hash in ((1, bytes(32)), (2, bytes.fromhex(key["hash"]))):
        (opened,) = entries_of(files, "RoundOpen", number)
        assert base64.b64decode(opened["body"])[4:8] == u32(1)
        roster = hashlib.sha256(listed(entries_of(files, "KeyOffer", number))).digest()
        context = labelled(
            b"secure-fedfm/v1/context-keys", bytes.fromhex(opened["context"]), roster, key_hash
        )
        assert {e["context"] for e in entries_of(files, "RoundAck", number)} == {context.hex()}
    assert {e["refers_to"] for e in entries_of(files, "RoundAck", 1)} == {key["hash"]}
    (cohort,) = entries_of(files, "Cohort", 2)
    openings = entries_of(files, "KeyOpening", 2)
    active = labelled(
        b"secure-fedfm/v1/active-set",
        context,
        bytes.fromhex(cohort["body_hash"]),
        struct.pack(">H", 0),
        names([entry["sender"] for entry in openings]),
    )
    (request,) = entries_of(files, "KeyRequest", 2)
    assert {entry["refers_to"] for entry in (request, *openings)} == {active.hex()}
    hashes = [base64.b64decode(e["body"]).hex() for e in entries_of(files, "UploadHash", 2)]
    uploads, wraps = entries_of(files, "Upload", 2), entries_of(files, "WrappedKey", 2)
    none = u32(0).hex()  # ledger entries
    sent = [u["body_hash"] + w["body_hash"] + none for u, w in zip(uploads, wraps, strict=True)]
    assert hashes == sent


def test_later_steps_build_on_the_one_before_and_their_tree_is_rfc_6962() -> None:
    federation = play_federation(Script(lost=[(0, "Upload", "client-03")]), steps=3)
    files = federation.files()
    document = json.loads(files["transcripts/000001.json"])
    assert sorted(document) == ["close", "round", "setup", "steps", "version"]
    first, second, _ = document["steps"]
    context = bytes.fromhex(second[0]["context"])
    (aggregate,) = (entry["body_hash"] for entry in first if entry["type"] == "Aggregate")
    (ack, *_) = (base64.b64decode(e["body"]) for e in first if e["type"] == "RoundAck")
    basis = labelled(
        b"secure-fedfm/v1/step",
        context,
        struct.pack(">H", 1),
        names(["client-01", "client-02", "client-04", "client-05"]),
        bytes.fromhex(aggregate),
        ack,
    )
    hashes = [entry for entry in second if entry["type"] == "UploadHash"]
    assert {entry["refers_to"] for entry in hashes} == {basis.hex()}
    assert {entry["step"] for entry in second} == {1}
    leaves = [
        hashlib.sha256(
            b"\x00" + json.dumps(step, sort_keys=True, separators=(",", ":")).encode()
        ).digest()
        for step in document["steps"]
    ]
    left = hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).digest()
    root = hashlib.sha256(b"\x01" + left + leaves[2]).hexdigest()
    (statement,) = (
        json.loads(base64.b64decode(json.loads(leaf)["payload"]))
        for leaf in federation.leaves
        if b"round:v1" in base64.b64decode(json.loads(leaf)["payload"])
    )
    steps = statement["predicate"]["steps"]
    assert steps == {"planned": 3, "good": 3, "recorded": 3, "root": root}


def test_leaves_and_their_signatures(bundle: Files) -> None:
    (name,) = (name for name in bundle if name.startswith("tile/entries/"))
    data, leaves = bundle[name], []
    while data:
        (length,) = struct.unpack(">H", data[:2])
        leaves.append(data[2 : 2 + length])
        data = data[2 + length :]
    charter, _ = charter_of(bundle)
    enrolments = {party["enrolment"] for party in charter["roster"]}
    assert enrolments < {hashlib.sha256(leaf).hexdigest() for leaf in leaves}
    for leaf in leaves:
        envelope = json.loads(leaf)
        payload = base64.b64decode(envelope["payload"])
        kind = b"application/vnd.in-toto+json"
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        (signature,) = envelope["signatures"]
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["keyid"]))
        key.verify(base64.b64decode(signature["sig"]), signed)


def test_the_tensor_hash() -> None:
    bias, weight = np.full(1, 1.5, dtype=np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = labelled(
        b"secure-fedfm/v1/tensors",
        b"bias",
        b"<f4",
        struct.pack(">Q", 1),
        struct.pack("<f", 1.5),
        b"weight",
        b"<f4",
        struct.pack(">QQ", 2, 3),
        struct.pack("<6f", *range(6)),
    )
    assert hash_tensors({"weight": weight, "bias": bias}) == expected
