"""Nothing that audit/README.md says is never logged is in the bundle of a real run, whose secrets
are all known; and each kind of it, planted into that bundle, is found."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fedfm_audit.bundle import read_bundle
from fedfm_audit.tiles import decode_entries, encode_entries
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, pack_lanes
from fedfm_protocols.key_messages import KeyOpening, WrappedKey
from fedfm_protocols.messages import Aggregate, ShareBundle, Unmask, Upload, read_body
from tests.integration.bundle_leaks import haystack, leaks, strangers, words_in
from tests.integration.capture import Array, Capture
from tests.integration.federation_processes import rows_of

Files = dict[str, bytes]
SECRET_BODIES = (ShareBundle, Upload, WrappedKey, Unmask, KeyOpening)


@pytest.fixture(params=["captured", "captured_masked"])
def run(request: pytest.FixtureRequest) -> Capture:
    capture: Capture = request.getfixturevalue(request.param)
    return capture


@pytest.fixture(scope="module")
def files(captured: Capture) -> Files:
    return dict(read_bundle(captured.federation.bundle))


def runs_of(array: Array) -> Iterator[bytes]:
    """The whole, and some runs of eight values (or rows) that are not zero."""
    yield array.tobytes()
    moved = np.flatnonzero(array if array.ndim == 1 else array.any(axis=1))
    for start in moved[:: max(1, moved.size // 8)][:8]:
        piece = array[int(start) : int(start) + 8].tobytes()
        if len(piece) >= 16:
            yield piece


def update_needles(capture: Capture) -> Iterator[tuple[str, list[bytes]]]:
    """Updates as floats, and quantised in every width, packed, as text; and their noise."""
    scale, bits = capture.federation.charter.quantiser.scale, capture.lane_bits
    for key, update in capture.all_kept("update").items():
        yield f"update {key}", [*runs_of(update), *runs_of(update.astype(np.float32))]
        words = capture.kept("words", *key).astype(np.uint32)
        whole = from_lanes(words, bits)
        packed = np.frombuffer(pack_lanes(words, bits), np.uint8)
        yield (
            f"quantised {key}",
            [
                *runs_of(words),
                *runs_of(whole),
                *runs_of(whole.astype(np.int32)),
                *runs_of(whole.astype(np.float64)),
                *runs_of(packed.reshape(-1, bits // 8)),
                json.dumps(whole.tolist()).encode(),
            ],
        )
        noise = whole - np.rint(update.astype(np.float64) * scale).astype(np.int64)
        yield f"rounding or noise {key}", [noise.tobytes(), noise.astype(np.int32).tobytes()]


def key_needles(capture: Capture) -> Iterator[tuple[str, list[bytes]]]:
    """Mask keys and seeds of every step; the keys of masks; of the collective key, shares and
    group key; wrapped and unwrapped keys of uploads."""
    for name in capture.clients:
        for number in range(1, capture.sums + 1):
            keys = capture.step_keys(name, number)
            yield (
                f"step keys {name} {number}",
                [keys.share_key.secret.reveal(), keys.mask_key.secret.reveal(), keys.seed],
            )
            if capture.terms.encrypted:
                bulk = capture.kept("bulk", name, number)
                yield f"bulk key {name} {number}", [*runs_of(bulk), *runs_of(bulk.astype(np.int8))]
        site = capture.federation.sites[name]
        yield f"identity seed {name}", [site.identity().secret.reveal()]
        current = capture.key_ring(name).current
        if current is not None:
            share = [current.share[i : i + 32] for i in range(0, len(current.share), 4096)]
            yield f"share and group key {name}", [current.group, *share]


def body_needles(capture: Capture) -> Iterator[tuple[str, list[bytes]]]:
    """Bodies that are secret as they were sent: shares, protected words, decryption shares, sums.
    Their hashes are logged (they are salted by the encryption), the bytes never."""
    for kind in SECRET_BODIES:
        for name in capture.clients:
            for frame in capture.frames("from", kind.__name__, name):
                body = Envelope.decode(frame).body
                inner = [
                    body[i : i + 32] for i in range(16, len(body) - 32, max(64, len(body) // 8))
                ]
                yield f"{kind.__name__} of {name}", inner
    for envelope, aggregate in capture.aggregates():
        data = bytes(aggregate.words)
        yield f"Aggregate {envelope.header.sequence}", [data[64:96], data[-96:-64]]
        assert isinstance(read_body(envelope, Aggregate), Aggregate)


def row_needles(capture: Capture) -> Iterator[tuple[str, list[bytes]]]:
    """Rows and files of rows, also as the unsalted hash of what is easily guessed."""
    for number, name in enumerate(capture.clients, start=1):
        site = capture.federation.sites[name]
        yield f"data file of {name}", [(site.root / "data.csv").read_bytes()]
        rows = [text.encode() for text, _ in rows_of(number)]
        yield f"rows of {name}", rows


def all_needles(capture: Capture) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for source in (update_needles, key_needles, body_needles, row_needles):
        for name, pieces in source(capture):
            found.setdefault(name, []).extend(pieces)
    return found


def sizes_hashed(capture: Capture) -> dict[str, list[bytes]]:
    """How many rows a client has: its unsalted hash would be a dictionary attack away."""
    sizes = {name: len(rows_of(number)) for number, name in enumerate(capture.clients, start=1)}
    return {
        f"row count of {name}": [hashlib.sha256(form).digest() for form in _spelt(size)]
        for name, size in sizes.items()
    }


def _spelt(number: int) -> tuple[bytes, ...]:
    return (str(number).encode(), number.to_bytes(4, "big"), number.to_bytes(8, "little"))


def private_words(capture: Capture) -> list[str]:
    """Addresses, host, folders, people."""
    sites = capture.federation.sites
    return [
        *("127.0.0.1", "localhost", "tcp://", capture.federation.endpoint.rpartition(":")[2]),
        *(str(site.root) for site in sites.values()),
        *(f'"{socket.gethostname()}"', f"@{socket.gethostname()}", "data.csv", "accuracy", '"loss'),
    ]


def test_no_secret_is_in_the_bundle(run: Capture) -> None:
    files = dict(read_bundle(run.federation.bundle))
    everything, needles = haystack(files), all_needles(run)
    assert len(everything) > sum(map(len, files.values()))
    kinds = {name.split()[0] for name in needles}
    expected = {"update", "quantised", "rounding", "step", "identity", "rows", "data", "Aggregate"}
    assert kinds >= expected | {"ShareBundle", "Upload", "Unmask"}
    if run.terms.encrypted:
        assert kinds >= {"bulk", "share", "WrappedKey", "KeyOpening"}
    assert leaks(everything, {**needles, **sizes_hashed(run)}) == {}
    assert strangers(files) == []


def test_no_address_person_or_folder_is_in_the_bundle(run: Capture) -> None:
    everything = haystack(dict(read_bundle(run.federation.bundle)))
    assert words_in(everything, private_words(run)) == []
    assert words_in(everything, ["clinic-1"]) == ["clinic-1"]  # the search finds what is there


# ---- the search itself: everything above, planted once, is found


def in_a_transcript(files: Files, secret: bytes) -> Files:
    """Inside the base64 body of a message."""
    name = max(name for name in files if name.startswith("transcripts/"))
    document = json.loads(files[name])
    body = base64.b64decode(document["close"][0]["body"]) + secret
    document["close"][0]["body"] = base64.b64encode(body).decode()
    return {**files, name: json.dumps(document).encode()}


def in_a_leaf(files: Files, secret: bytes) -> Files:
    """As hex in the payload of a statement: hex in base64 in an entry bundle."""
    name = min(name for name in files if name.startswith("tile/entries/"))
    width = int(name.rpartition("/")[2]) if ".p/" in name else 256
    leaves = decode_entries(files[name], width, name)
    leaf = json.loads(leaves[-1])
    payload = json.loads(base64.b64decode(leaf["payload"]))
    payload["predicate"]["note"] = secret.hex()
    leaf["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    leaves[-1] = json.dumps(leaf).encode()
    return {**files, name: b"".join(len(x).to_bytes(4, "big") + x for x in leaves)}


def as_its_hash(files: Files, secret: bytes) -> Files:
    """As the unsalted hash that somebody takes for a commitment."""
    return in_a_leaf(files, hashlib.sha256(secret).digest())


def raw_in_a_file(files: Files, secret: bytes) -> Files:
    return {**files, "notes": b"seed=" + secret}


@pytest.mark.parametrize("plant", [in_a_transcript, in_a_leaf, as_its_hash, raw_in_a_file])
def test_a_planted_secret_of_every_kind_is_found(
    captured: Capture, files: Files, plant: Callable[[Files, bytes], Files]
) -> None:
    needles = {**all_needles(captured), **sizes_hashed(captured)}
    one_of_each = {name.split()[0]: name for name in needles}
    for name in one_of_each.values():
        secret = needles[name][-1]
        if len(secret) > 100_000:
            continue
        found = leaks(haystack(plant(files, secret)), {name: needles[name]})
        assert name in found, name


STATISTICS = [("loss", 0.6931), ("rows", 18), ("num_examples", 18), ("accuracy", 0.875)]


@pytest.mark.parametrize(("field", "value"), STATISTICS)
def test_a_planted_statistic_is_found(files: Files, field: str, value: float) -> None:
    name = min(name for name in files if name.startswith("transcripts/"))
    document = json.loads(files[name])
    document["close"][0][field] = value
    assert strangers({**files, name: json.dumps(document).encode()}) == [
        f"{name}: close.{field} is {value!r}"
    ]


PEOPLE = ["Maria Musterfrau", "maria@clinic.example", "https://clinic.example/", "10.0.0.7:5555"]


@pytest.mark.parametrize("text", PEOPLE)
def test_a_planted_name_or_address_is_found(captured: Capture, files: Files, text: str) -> None:
    name = min(name for name in files if name.startswith("transcripts/"))
    document = json.loads(files[name])
    document["close"][0]["contact"] = text
    planted = {**files, name: json.dumps(document).encode()}
    found = strangers(planted) + words_in(haystack(planted), [text])
    assert found
    host = {**files, "policy": files["policy"] + f"# {captured.federation.endpoint}\n".encode()}
    assert words_in(haystack(host), private_words(captured))


def test_entry_bundles_are_read_as_they_are_written(files: Files) -> None:
    name = min(name for name in files if name.startswith("tile/entries/"))
    width = int(name.rpartition("/")[2]) if ".p/" in name else 256
    assert encode_entries(decode_entries(files[name], width, name)) == files[name]
