"""A run of real processes with everything kept: frames, secrets, updates, bytes on the wire; and
the statistics that tell protected bytes from others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, unpack_lanes
from fedfm_crypto.lattice.bulk_format import PRIMES, read_polynomials
from fedfm_crypto.lattice.bulk_keys import KeySum, PublicPolynomials
from fedfm_crypto.lattice.key_additive import decrypt
from fedfm_crypto.lattice.wide_words import LIMBS, add_wide_masks, from_wide, wide_size
from fedfm_crypto.mask import Sign, add_masks
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking
from fedfm_protocols.context import TRAIN, bulk_seed
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.masking import StepSecrets
from fedfm_protocols.messages import Aggregate, Cohort, KeyOffer, Upload, read_body
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec
from secure_fedfm.privacy.recipe import SharedNoiseRequest
from tests.integration.federation_processes import (
    COORDINATOR,
    TestFederation,
    build_federation,
    key_ring,
    write_config,
)
from tests.integration.forked_processes import Launcher
from tests.integration.wire_tap import WireTap

Array = NDArray[np.generic]
# Six standard deviations of the statistics below: about one false alarm in 10**8 runs.
SIGMAS = 6.0
# 229,000 values: chance keeps a correlation within 0.002, one standard deviation.
UNCORRELATED = 0.01
LONG_UPDATES = AdapterSpec(rank=256, alpha=256)


def uniform_sigmas(data: Array) -> float:
    """How far the bytes are from uniform: chi-square of 256 bins in standard deviations."""
    counts = np.bincount(data.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - 255) / float(np.sqrt(2 * 255))


def correlation(words: NDArray[np.uint32], update: Array, lane_bits: int) -> float:
    """Of lane words, read as signed numbers, with an update's values."""
    values = from_lanes(words, lane_bits).astype(np.float64)
    return float(np.corrcoef(values, update.astype(np.float64))[0, 1])


@dataclass(frozen=True, slots=True)
class StepKeys:
    """What protects one upload: the client's keys and seed of one round that sums updates."""

    share_key: AgreementKey
    mask_key: AgreementKey
    seed: bytes


@dataclass(frozen=True, slots=True)
class Capture:
    """A finished run.  Sums (of sessions: each step's) are numbered from 1, whatever their rounds'
    numbers."""

    federation: TestFederation
    sums: int
    streams: list[bytes]

    @property
    def steps(self) -> int:
        """Sums of one round."""
        return self.terms.steps_of(TRAIN)

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of the clients."""
        return self.federation.clients

    @property
    def terms(self) -> Federation:
        """The charter with all that follows from it."""
        return Federation.of(self.federation.charter)

    @property
    def lane_bits(self) -> int:
        """Bits of a lane."""
        return self.federation.charter.quantiser.lane_bits

    def frames(self, way: str, kind: str = "*", peer: str = "*") -> list[bytes]:
        """Payloads that the coordinator got ``from`` clients or sent ``to`` them, in order."""
        folder = self.federation.sites[COORDINATOR].root / "traffic"
        return [path.read_bytes() for path in sorted(folder.glob(f"*.{way}.{peer}.{kind}"))]

    def received(self, name: str, kind: str, number: int = 1) -> Envelope:
        """The ``number``-th message of a type from a client."""
        return Envelope.decode(self.frames("from", kind, name)[number - 1])

    def uploads(self) -> dict[tuple[str, int], bytes]:
        """(client, sum) -> the protected words that the coordinator received."""
        return {
            (name, number): read_body(Envelope.decode(frame), Upload).words
            for name in self.clients
            for number, frame in enumerate(self.frames("from", "Upload", name), start=1)
        }

    def aggregates(self) -> list[tuple[Envelope, Aggregate]]:
        """Step 12 of every sum; everybody is sent the same."""
        found = [Envelope.decode(frame) for frame in self.frames("to", "Aggregate", "clinic-1")]
        return [(envelope, read_body(envelope, Aggregate)) for envelope in found]

    def cohorts(self) -> list[tuple[str, ...]]:
        """Whose updates are in each sum."""
        frames = self.frames("to", "Cohort", "clinic-1")
        return [read_body(Envelope.decode(frame), Cohort).accepted for frame in frames]

    def kept(self, what: str, name: str, number: int) -> Array:
        """``update`` as trained, ``words`` of it before any protection, ``bulk`` key."""
        array: Array = np.load(self._folder(name) / f"{what}-{number}.npy")
        return array

    def all_kept(self, what: str) -> dict[tuple[str, int], Array]:
        """(client, sum) -> what that client's process kept."""
        numbers = range(1, self.sums + 1)
        return {(name, n): self.kept(what, name, n) for name in self.clients for n in numbers}

    def step_keys(self, name: str, number: int = 1) -> StepKeys:
        """Keys and seed of the ``number``-th sum."""
        session, step = divmod(number - 1, self.steps)
        data = (self._folder(name) / f"secrets-{session + 1}").read_bytes()
        pieces = [data[i : i + 32] for i in (0, 32 + 64 * step, 64 + 64 * step)]
        share, mask = (AgreementKey.from_secret(Secret(piece)) for piece in pieces[:2])
        return StepKeys(share, mask, pieces[2])

    def key_ring(self, name: str) -> KeyRing:
        """The collective keys on a client's disk."""
        return key_ring(self.federation, name)

    def total(self, number: int) -> NDArray[np.uint32]:
        """Lane words of the sum of what the accepted clients trained."""
        accepted = self.cohorts()[number - 1]
        found = sum(self.kept("words", name, number).astype(np.uint64) for name in accepted)
        return (np.asarray(found) % (1 << self.lane_bits)).astype(np.uint32)

    def _folder(self, name: str) -> Path:
        return self.federation.sites[name].root / "kept"


def capture_run(
    root: Path,
    launcher: Launcher,
    model: ModelSpec,
    *,
    rounds: int,
    suite: str,
    clients: int = 3,
    adapter: AdapterSpec = LONG_UPDATES,
    privacy: SharedNoiseRequest | None = None,
) -> Capture:
    """Run clients with long updates through a tap, and keep everything, a replay archive too."""
    federation = build_federation(
        root,
        launcher,
        model,
        clients=clients,
        rounds=rounds,
        adapter=adapter,
        suite=suite,
        privacy=privacy,
    )
    faults: dict[str, dict[str, str]] = {}
    with federation.sites[COORDINATOR].config_file.open("a", encoding="utf-8") as stream:
        stream.write("[archive]\nenabled = true\n")
    with WireTap(federation.endpoint) as tap, federation:
        for name, site in federation.sites.items():
            folder = site.root / ("traffic" if name == COORDINATOR else "kept")
            folder.mkdir()
            if name == COORDINATOR:
                faults[name] = {"record_traffic": str(folder)}
            else:
                faults[name] = {"record_updates": str(folder), "record_secrets": str(folder)}
                faults[name]["record_spending"] = str(site.root / "spending")
                write_config(site, name, tap.endpoint, {}, suites=f'["{suite}"]')
        federation.start_all(faults)
        federation.run_to_end()
    streams = [bytes(way) for one in tap.connections for way in (one.from_client, one.to_client)]
    return Capture(federation, rounds * Federation.of(federation.charter).steps_of(TRAIN), streams)


def read_without_key(capture: Capture, words: bytes) -> NDArray[np.uint32]:
    """Lane words as somebody reads them who has no key: in a suite with encryption the ciphertext
    modulo the plaintext's modulus, which is what a key of zeros would leave."""
    values = capture.federation.charter.quantiser.values
    if not capture.terms.encrypted:
        return unpack_lanes(words, capture.lane_bits)
    return from_wide(_plain_words(read_polynomials(words)), capture.lane_bits, values)


def _plain_words(residues: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Coefficients of polynomials [M, 2, N], centred, modulo 2**96, as three uint32 each."""
    first, second = PRIMES
    low, high = residues[:, 0].ravel().astype(object), residues[:, 1].ravel().astype(object)
    numbers = low + first * ((high - low) * pow(first, -1, second) % second)
    modulus = first * second
    centred = [int(n) - modulus if 2 * n > modulus else int(n) for n in numbers]
    data = b"".join((n % (1 << 96)).to_bytes(12, "little") for n in centred)
    return np.frombuffer(data, "<u4").astype(np.uint32)


def open_upload(
    capture: Capture,
    name: str,
    number: int = 1,
    *,
    bulk_key: NDArray[np.int64] | None = None,
    step_keys: StepKeys | None = None,
    seed: bytes | None = None,
) -> NDArray[np.uint32]:
    """Lane words of a client's ``number``-th upload, less the layers whose keys are given; with a
    ``seed`` alone less the self-mask that grows from it.

    Raises
    ------
    DecryptionError
        if ``bulk_key`` is another upload's.
    """
    envelope = capture.received(name, "Upload", number)
    words, context = read_body(envelope, Upload).words, envelope.header.context
    masks = [] if step_keys is None else _masks(capture, name, number, context, step_keys)
    if seed is not None:
        own = masking.self_mask_key(context, name, envelope.header.step, Secret(seed))
        masks = [*masks, (own, -1)]
    values = capture.federation.charter.quantiser.values
    if not capture.terms.encrypted:
        lanes = unpack_lanes(words, capture.lane_bits)
        add_masks(lanes, masks, capture.lane_bits)
        return lanes
    if bulk_key is None:
        limbs = _plain_words(read_polynomials(words))
    else:
        public = PublicPolynomials(bulk_seed(context, envelope.header.step))
        limbs = decrypt(words, KeySum(bulk_key, 1), public)
    limbs = limbs[: LIMBS * wide_size(values, capture.lane_bits)].copy()
    add_wide_masks(limbs, masks)
    return from_wide(limbs, capture.lane_bits, values)


def _masks(
    capture: Capture, name: str, number: int, context: bytes, keys: StepKeys
) -> list[tuple[Secret, Sign]]:
    """What takes a client's masks off again."""
    session, step = divmod(number - 1, capture.steps)
    # With encryption an offer came before, for the collective key.
    place = session + (2 if capture.terms.encrypted else 1)
    offers = {
        peer: read_body(capture.received(peer, "KeyOffer", place), KeyOffer)
        for peer in capture.clients
    }
    found = masking.mask_keys(
        context=context,
        client=name,
        step=step,
        secrets=StepSecrets(keys.mask_key, Secret(keys.seed)),
        peers={peer: offer.steps[step].mask_key for peer, offer in offers.items()},
    )
    return [(key, -1 if sign == 1 else 1) for key, sign in found]
