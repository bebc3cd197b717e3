"""Is protection on?  Read from the bytes on the wire, and from what the coordinator decrypts.

A run of real processes whose clients reach the coordinator through a tap.  Two layers: CURVE
against everybody on the network, masks and sealed shares against the coordinator itself.  Every
statistic is also shown to see what it looks for.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import ShareError
from fedfm_crypto.lanes import unpack_lanes
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking, shares
from fedfm_protocols.masking import StepSecrets
from fedfm_protocols.messages import (
    KeyOffer,
    SealedShares,
    ShareBundle,
    ShareContents,
    Upload,
    read_body,
)
from tests.integration.federation_processes import (
    COORDINATOR,
    LABELS,
    Launcher,
    TestFederation,
    build_federation,
    save_tiny_model,
    write_config,
)
from tests.integration.test_recorded_run import LANE_BITS, SIGMAS, chi_square_sigmas, correlation
from tests.integration.wire_tap import WireTap

NAMES = ("clinic-1", "clinic-2", "clinic-3")
# In clear in a handshake: names of commands and of the mechanism, nothing of ours.
HANDSHAKE_BYTES = 1024


@dataclass
class Tapped:
    """A finished run, everything that passed the wire, and the secrets of all clients."""

    federation: TestFederation
    streams: list[bytes]

    def received(self, name: str, kind: str) -> Envelope:
        """The first message of one type from one client, as the coordinator decrypted it."""
        folder = self.federation.sites[COORDINATOR].root / "traffic"
        (path, *_) = sorted(folder.glob(f"*.from.{name}.{kind}"))
        return Envelope.decode(path.read_bytes())

    def secrets(self, name: str) -> tuple[AgreementKey, AgreementKey, bytes]:
        """Share key, mask key and self-mask seed of round 1."""
        data = (self.federation.sites[name].root / "kept" / "secrets-1").read_bytes()
        keys = [AgreementKey.from_secret(Secret(data[i : i + 32])) for i in (0, 32)]
        return keys[0], keys[1], data[64:]

    def words(self, name: str) -> NDArray[np.uint32]:
        """The words of the upload that was received."""
        upload = read_body(self.received(name, "Upload"), Upload)
        return unpack_lanes(upload.words, LANE_BITS)

    def kept(self, name: str, what: str) -> NDArray[np.generic]:
        """``update`` or ``words`` before any mask, as the client's process kept them."""
        file = self.federation.sites[name].root / "kept" / f"{what}-1.npy"
        array: NDArray[np.generic] = np.load(file)
        return array

    def without_masks(self, name: str, mask_key: AgreementKey, seed: bytes) -> NDArray[np.uint32]:
        """An upload less the masks that grow from these secrets."""
        context = self.received(name, "Upload").header.context
        offers = {n: read_body(self.received(n, "KeyOffer"), KeyOffer) for n in NAMES}
        words = self.words(name)
        masks = np.zeros(words.size, np.uint32)
        masking.mask(
            masks,
            context=context,
            client=name,
            step=0,
            secrets=StepSecrets(mask_key, Secret(seed)),
            peers={n: offer.steps[0].mask_key for n, offer in offers.items()},
            lane_bits=LANE_BITS,
        )
        return words - masks


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher) -> Tapped:
    root = tmp_path_factory.mktemp("wire")
    model = save_tiny_model(root / "model", hidden=128)
    federation = build_federation(root / "sites", launcher, model, clients=3, rounds=1, rank=256)
    faults = {}
    with WireTap(federation.endpoint) as tap, federation:
        for name, site in federation.sites.items():
            folder = site.root / ("traffic" if name == COORDINATOR else "kept")
            folder.mkdir()
            if name == COORDINATOR:
                faults[name] = {"record_traffic": str(folder)}
            else:
                faults[name] = {"record_updates": str(folder), "record_secrets": str(folder)}
                write_config(site, name, tap.endpoint, {})
        federation.start_all(faults)
        federation.run_to_end()
    streams = [bytes(way) for one in tap.connections for way in (one.from_client, one.to_client)]
    return Tapped(federation, streams)


def test_all_that_was_sent_went_through_the_tap(tapped: Tapped) -> None:
    sent = sum(len(tapped.received(name, "Upload").body) for name in NAMES)
    assert sent > 300_000
    assert sum(map(len, tapped.streams)) > sent
    assert all(b"CURVE" in stream[:HANDSHAKE_BYTES] for stream in tapped.streams if stream)


def test_nothing_can_be_read_from_the_wire(tapped: Tapped) -> None:
    """No type, name, text, label, metric or count, and no piece of any message."""
    wire = b"".join(tapped.streams).lower()
    kinds = ("Hello", "KeyOffer", "ShareBundle", "UploadHash", "Upload", "CohortVote", "Unmask")
    words = {*kinds, "RoundOpen", "Aggregate", *NAMES, *LABELS, "my money", "card lost"}
    words |= {"accuracy", "loss", "num_samples", "num_examples", "test-federation"}
    for word in words - {"Hello", "loss"}:  # HELLO is CURVE's; four letters occur by chance
        assert word.lower().encode() not in wire, word
    folder = tapped.federation.sites[COORDINATOR].root / "traffic"
    payloads = [path.read_bytes() for path in folder.iterdir()]
    assert len(payloads) > 30
    for payload in payloads:
        for piece in (payload[40:72], payload[len(payload) // 2 :][:32], payload[-32:]):
            if len(set(piece)) > 12:  # runs of zeros are in every handshake
                assert piece.lower() not in wire


def test_the_wire_is_uniform(tapped: Tapped) -> None:
    longest = max(tapped.streams, key=len)
    middle = longest[len(longest) * 2 // 5 : len(longest) * 4 // 5]  # within the one long frame
    middle = middle[: len(middle) // 4 * 4]
    assert len(middle) > 100_000
    assert abs(chi_square_sigmas(np.frombuffer(middle, np.uint32))) < SIGMAS
    assert len(zlib.compress(middle, 9)) >= len(middle)
    # What it would look like without: the update, before it is masked and sealed.
    plain = tapped.kept("clinic-1", "words").astype(np.uint32)
    assert chi_square_sigmas(plain) > 1000
    assert len(zlib.compress(plain.tobytes(), 9)) < 0.9 * plain.nbytes


@pytest.mark.parametrize("name", NAMES)
def test_the_right_keys_and_no_others_undo_the_masks(tapped: Tapped, name: str) -> None:
    _, mask_key, seed = tapped.secrets(name)
    plain = tapped.kept(name, "words").astype(np.uint32)
    update = tapped.kept(name, "update")
    np.testing.assert_array_equal(tapped.without_masks(name, mask_key, seed), plain)
    other = NAMES[(NAMES.index(name) + 1) % 3]
    _, wrong_key, wrong_seed = tapped.secrets(other)
    flipped = bytes([seed[0] ^ 1]) + seed[1:]
    for guess in (
        tapped.without_masks(name, mask_key, flipped),
        tapped.without_masks(name, mask_key, wrong_seed),
        tapped.without_masks(name, wrong_key, seed),
    ):
        assert abs(chi_square_sigmas(guess)) < SIGMAS
        assert abs(correlation(guess, update)) < 0.01
        assert np.count_nonzero(guess == plain) < 20


def test_a_sealed_share_opens_with_its_recipients_key_only(tapped: Tapped) -> None:
    envelope = tapped.received("clinic-1", "ShareBundle")
    bundle = read_body(envelope, ShareBundle)
    dealer = read_body(tapped.received("clinic-1", "KeyOffer"), KeyOffer).share_key
    for entry in bundle.shares:
        for holder in NAMES[1:]:

            def opened(entry: SealedShares = entry, holder: str = holder) -> ShareContents:
                return shares.open_shares(
                    context=envelope.header.context,
                    dealer="clinic-1",
                    recipient=entry.recipient,
                    sealed=entry.sealed,
                    own_key=tapped.secrets(holder)[0],
                    dealer_public=dealer,
                    steps=1,
                    commitments=entry.commitments,
                )

            if holder == entry.recipient:
                assert len(opened().steps) == 1
            else:
                with pytest.raises(ShareError, match="cannot be used"):
                    opened()
