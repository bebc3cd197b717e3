"""Is protection on?  Read from the bytes on the wire, and from what the coordinator decrypts.

A run of real processes whose clients reach the coordinator through a tap.  Three layers: CURVE
against everybody on the network, encryption and masks against the coordinator itself.  Every
statistic is also shown to see what it looks for.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.errors import DecryptionError, ShareError
from fedfm_protocols import shares
from fedfm_protocols.messages import (
    KeyOffer,
    SealedShares,
    ShareBundle,
    ShareContents,
    read_body,
)
from tests.integration.capture import (
    SIGMAS,
    UNCORRELATED,
    Capture,
    StepKeys,
    correlation,
    open_upload,
    uniform_sigmas,
)
from tests.integration.federation_processes import LABELS

NAMES = ("clinic-1", "clinic-2", "clinic-3")
# In clear in a handshake: names of commands and of the mechanism, nothing of ours.
HANDSHAKE_BYTES = 1024


def test_all_that_was_sent_went_through_the_tap(captured: Capture) -> None:
    sent = sum(len(words) for words in captured.uploads().values())
    assert sent > 300_000
    assert sum(map(len, captured.streams)) > sent
    assert all(b"CURVE" in stream[:HANDSHAKE_BYTES] for stream in captured.streams if stream)


def test_nothing_can_be_read_from_the_wire(captured: Capture) -> None:
    """No type, name, text, label, metric or count, and no piece of any message."""
    wire = b"".join(captured.streams).lower()
    kinds = ("KeyOffer", "ShareBundle", "UploadHash", "Upload", "CohortVote", "Unmask")
    words = {*kinds, "RoundOpen", "Aggregate", "KeyDealing", "WrappedKey", "KeyOpening", *NAMES}
    words |= {*LABELS, "my money", "card lost"}  # not "Hello": HELLO is CURVE's own
    words |= {"accuracy", "num_samples", "num_examples", "test-federation"}
    for word in words:
        assert word.lower().encode() not in wire, word
    payloads = captured.frames("from") + captured.frames("to")
    assert len(payloads) > 30
    for payload in payloads:
        for piece in (payload[40:72], payload[len(payload) // 2 :][:32], payload[-32:]):
            if len(set(piece)) > 12:  # runs of zeros are in every handshake
                assert piece.lower() not in wire


def test_the_wire_is_uniform(captured: Capture) -> None:
    longest = max(captured.streams, key=len)
    middle = longest[len(longest) * 2 // 5 : len(longest) * 4 // 5]
    assert len(middle) > 100_000
    assert abs(uniform_sigmas(np.frombuffer(middle, np.uint8))) < SIGMAS
    assert len(zlib.compress(middle, 9)) > 0.999 * len(middle)
    # What it would look like without: the update, before it is protected.
    plain = captured.kept("words", "clinic-1", 1).astype(np.uint32)
    assert uniform_sigmas(plain) > 1000
    assert len(zlib.compress(plain.tobytes(), 9)) < 0.9 * plain.nbytes


def is_closed(capture: Capture, name: str, words: NDArray[np.uint32]) -> None:
    """These lane words tell nothing of what the client trained."""
    update, plain = capture.kept("update", name, 1), capture.kept("words", name, 1)
    low = (words & 0xFFFF).astype(np.uint16)
    assert abs(uniform_sigmas(low)) < SIGMAS
    assert abs(correlation(words, update, capture.lane_bits)) < UNCORRELATED
    assert np.count_nonzero(words == plain) < 20


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suite", ["captured", "captured_masked"])
def test_the_right_keys_and_no_others_open_an_upload(
    request: pytest.FixtureRequest, suite: str, name: str
) -> None:
    run: Capture = request.getfixturevalue(suite)
    own, other = run.step_keys(name), run.step_keys(NAMES[(NAMES.index(name) + 1) % 3])
    flipped = StepKeys(own.share_key, own.mask_key, bytes([own.seed[0] ^ 1]) + own.seed[1:])
    bulk = run.kept("bulk", name, 1).astype(np.int64) if run.terms.encrypted else None
    plain = run.kept("words", name, 1).astype(np.uint32)
    np.testing.assert_array_equal(open_upload(run, name, bulk_key=bulk, step_keys=own), plain)
    for wrong in (
        flipped,
        StepKeys(own.share_key, own.mask_key, other.seed),
        StepKeys(own.share_key, other.mask_key, own.seed),
        None,
    ):
        is_closed(run, name, open_upload(run, name, bulk_key=bulk, step_keys=wrong))


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_protects_without_the_other(captured: Capture, name: str) -> None:
    own, bulk = captured.step_keys(name), captured.kept("bulk", name, 1).astype(np.int64)
    # Whoever has all mask secrets and no key of the upload, and the other way round.
    is_closed(captured, name, open_upload(captured, name, step_keys=own))
    is_closed(captured, name, open_upload(captured, name, bulk_key=bulk))
    other = captured.kept("bulk", NAMES[(NAMES.index(name) + 1) % 3], 1).astype(np.int64)
    almost = bulk.copy()
    almost[0] += 1 if almost[0] < 21 else -1
    for wrong in (other, almost, captured.kept("bulk", name, 2).astype(np.int64)):
        with pytest.raises(DecryptionError, match="does not belong"):
            open_upload(captured, name, bulk_key=wrong, step_keys=own)


def test_a_sealed_share_opens_with_its_recipients_key_only(captured: Capture) -> None:
    envelope = captured.received("clinic-1", "ShareBundle")
    bundle = read_body(envelope, ShareBundle)
    # The first offer was for the collective key.
    dealer = read_body(captured.received("clinic-1", "KeyOffer", 2), KeyOffer).share_key
    for entry in bundle.shares:
        for holder in NAMES[1:]:

            def opened(entry: SealedShares = entry, holder: str = holder) -> ShareContents:
                return shares.open_shares(
                    context=envelope.header.context,
                    dealer="clinic-1",
                    recipient=entry.recipient,
                    sealed=entry.sealed,
                    own_key=captured.step_keys(holder).share_key,
                    dealer_public=dealer,
                    steps=1,
                    commitments=entry.commitments,
                )

            if holder == entry.recipient:
                assert len(opened().steps) == 1
            else:
                with pytest.raises(ShareError, match="cannot be used"):
                    opened()
