"""The charter as the auditor reads it: from bytes, strictly, and with its own arithmetic.

Structure is checked by ``schemas/charter-v1.json``; what a schema cannot say (distinct keys,
sorted roster, reachable thresholds) is checked here.  Fields: audit/README.md, "Charter".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedfm_audit.errors import CharterViewError, SchemaError
from fedfm_audit.messages import TRAIN
from fedfm_audit.schema import check_schema
from fedfm_audit.thresholds import Thresholds
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.dsse import dsse_open, dsse_read_unverified
from fedfm_crypto.errors import CanonicalJSONError, DSSEError, InvalidKeyError, NoteError
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_crypto.note import NoteAlgorithm, VerifierKey, parse_vkey

CHARTER_PAYLOAD_TYPE = "application/vnd.secure-fedfm.charter+json"
MASKED_SUITES = frozenset({"masked", "layered"})
"""Suites whose uploads carry pairwise masks."""
ENCRYPTED_SUITES = frozenset({"sealed", "layered"})
"""Suites whose uploads are ciphertexts under a collective key."""
SHARED_NOISE = "shared-noise"
"""Privacy mode in which a round is a session: each of its sums carries noise shared by clients."""
MAX_ENCRYPTED_CLIENTS = 1000
MAX_KEY_THRESHOLD = 500
VECTOR_RULES = frozenset({"coordinate-median", "trimmed-mean"})
"""Robust rules that give no sum of whole updates."""
MAX_NORM_STEPS = float(1 << 40)
SKETCH_SLOTS = 4096
LEAST_VALUES_PER_SLOT = 16


@dataclass(frozen=True, slots=True)
class Party:
    """A client, the coordinator or the validator: name, Ed25519 identity, CURVE transport key
    (hex), and but for the coordinator the hex SHA-256 of its enrolment leaf."""

    name: str
    identity: IdentityPublicKey
    transport: str
    enrolment: str | None


@dataclass(frozen=True, slots=True)
class CharterView:
    """What the verifier needs of a charter.  ``digest`` is the SHA-256 of its payload, ``signers``
    the founders whose signatures verified, ``privacy`` the section of that name as it stands,
    ``values`` the length of an update, ``scale`` its integer steps per unit, and ``lane_bits`` the
    width of a lane.  ``validator`` and ``robustness`` (the section as it stands) are there in
    robust federations, ``watermark`` (the same) where owners write marks."""

    digest: bytes
    federation: str
    coordinator: Party
    roster: tuple[Party, ...]
    founders: tuple[str, ...]
    founders_quorum: int
    signers: tuple[str, ...]
    log_key: VerifierKey
    base_model: str
    suite: str
    rounds: int
    thresholds: Thresholds
    config_hash: bytes
    initial_adapter: bytes
    privacy: Mapping[str, Any]
    values: int
    scale: int
    lane_bits: int
    validator: Party | None = None
    robustness: Mapping[str, Any] | None = None
    watermark: Mapping[str, Any] | None = None

    @property
    def masked(self) -> bool:
        """Whether uploads carry pairwise masks."""
        return self.suite in MASKED_SUITES

    @property
    def encrypted(self) -> bool:
        """Whether uploads are encrypted, and rounds of kind ``keys`` make the key."""
        return self.suite in ENCRYPTED_SUITES

    @property
    def robust(self) -> bool:
        """Whether a validator judges every update before it is summed."""
        return self.robustness is not None

    @property
    def marked(self) -> bool:
        """Whether owners write marks into the adapter after the last round of training."""
        return self.watermark is not None

    @property
    def rule(self) -> str:
        """The validator's rule; empty without one."""
        return "" if self.robustness is None else str(self.robustness["rule"])

    @property
    def lanes(self) -> int:
        """Lanes of an upload: its values, padded to a power of two where they are rotated."""
        rotated = self.privacy["mode"] == "client" and self.privacy["rotation"]
        return 1 << (self.values - 1).bit_length() if rotated else self.values

    def steps_of(self, kind: str) -> int:
        """How many steps a round of ``kind`` has: one, unless every sum that it opens is one step
        of a training whose noise the clients share."""
        if kind == TRAIN and self.privacy["mode"] == SHARED_NOISE:
            steps: int = self.privacy["steps_per_round"]
            return steps
        return 1

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of the roster, sorted."""
        return tuple(party.name for party in self.roster)

    @property
    def parties(self) -> Mapping[str, Party]:
        """Every enrolled party by name, coordinator and validator included."""
        others = (
            [self.coordinator] if self.validator is None else [self.coordinator, self.validator]
        )
        return {party.name: party for party in (*others, *self.roster)}

    def role_of(self, name: str) -> str:
        """The role that a party enrols in."""
        if name == self.coordinator.name:
            return "coordinator"
        return "validator" if self.validator and name == self.validator.name else "client"

    @property
    def keys(self) -> Mapping[str, IdentityPublicKey]:
        """Every enrolled identity key by its hex form."""
        return {party.identity.hex: party.identity for party in self.parties.values()}

    @property
    def witnesses(self) -> tuple[VerifierKey, ...]:
        """The clients' cosignature keys, named ``<federation>/<client>``."""
        return tuple(
            VerifierKey(
                f"{self.federation}/{party.name}", NoteAlgorithm.COSIGNATURE_V1, party.identity
            )
            for party in self.roster
        )


def open_charter(envelope: bytes) -> CharterView:
    """Verify the founders' signatures on a charter and read it.

    The founders' keys stand in the charter itself, so this shows that the charter is complete and
    unaltered, not that these founders are the right ones: compare its digest, or the policy's
    witness keys, with what you received from somebody you trust.

    Raises
    ------
    CharterViewError
        naming the field or the signature that is wrong.
    """
    try:
        payload = dsse_read_unverified(envelope).payload
        document = check_schema("charter-v1", canonical_decode(payload))
    except (DSSEError, CanonicalJSONError, SchemaError) as error:
        raise CharterViewError(f"not a signed charter: {error}") from error
    return _view(document, payload, envelope)


def _view(charter: Mapping[str, Any], payload: bytes, envelope: bytes) -> CharterView:
    try:
        coordinator = _party(charter["coordinator"])
        roster = tuple(_party(entry) for entry in charter["roster"])
        validator = _party(charter["validator"]) if "validator" in charter else None
        log_key = parse_vkey(charter["log"]["key"])
    except (InvalidKeyError, NoteError) as error:
        raise CharterViewError(str(error)) from error
    _check_parties(coordinator, roster, validator, log_key)
    if log_key.algorithm is not NoteAlgorithm.ED25519 or log_key.name != charter["log"]["origin"]:
        raise CharterViewError(
            f"log.key is named {log_key.name!r}; a log key has algorithm 0x01 and the origin "
            f"{charter['log']['origin']!r} as its name"
        )
    founders = tuple(charter["founders"]["names"])
    limits = charter["limits"]
    thresholds = Thresholds(len(roster), limits["colluding"], limits["dropouts"])
    if charter["suite"] in ENCRYPTED_SUITES:
        _check_encryption(thresholds)
    if charter["privacy"]["mode"] == SHARED_NOISE:
        _check_shared_noise(charter["privacy"], charter["suite"], thresholds)
    if "robustness" in charter:
        _check_robustness(charter, thresholds, {party.name for party in roster})
    if "watermark" in charter:
        _check_watermark(charter, {party.name for party in roster})
    return CharterView(
        digest=hashlib.sha256(payload).digest(),
        federation=charter["federation"],
        coordinator=coordinator,
        roster=roster,
        founders=founders,
        founders_quorum=charter["founders"]["quorum"],
        signers=_signers(envelope, roster, founders, charter["founders"]["quorum"]),
        log_key=log_key,
        base_model=charter["model"]["sha256"],
        suite=charter["suite"],
        rounds=charter["rounds"],
        thresholds=thresholds,
        config_hash=_config_hash(charter),
        initial_adapter=bytes.fromhex(charter["initial_adapter"]),
        privacy=charter["privacy"],
        values=charter["quantiser"]["values"],
        scale=charter["quantiser"]["scale"],
        lane_bits=charter["quantiser"]["lane_bits"],
        validator=validator,
        robustness=charter.get("robustness"),
        watermark=charter.get("watermark"),
    )


def _party(entry: Mapping[str, str]) -> Party:
    return Party(
        entry["name"],
        IdentityPublicKey.from_hex(entry["identity"]),
        entry["transport"],
        entry.get("enrolment"),
    )


def _config_hash(charter: Mapping[str, Any]) -> bytes:
    """What every RoundOpen must name: the hash of the sections that govern training."""
    sections = {name: charter[name] for name in ("training", "server_optimiser")}
    return hashlib.sha256(canonical_encode(sections)).digest()


def _check_parties(
    coordinator: Party, roster: tuple[Party, ...], validator: Party | None, log_key: VerifierKey
) -> None:
    names = [party.name for party in roster]
    if names != sorted(set(names)):
        raise CharterViewError("the roster must be sorted by name and hold each name once")
    if coordinator.name in names:
        raise CharterViewError(f"the coordinator's name {coordinator.name} is on the roster")
    others = () if validator is None else (validator,)
    if validator is not None and validator.name in (*names, coordinator.name):
        raise CharterViewError(f"the validator's name {validator.name} is another party's")
    parties = (coordinator, *roster, *others)
    identities = [party.identity.hex for party in parties] + [log_key.public.hex]
    if len(set(identities)) != len(identities):
        raise CharterViewError("two parties share an identity key, or the log key is one of them")
    if len({party.transport for party in parties}) != len(parties):
        raise CharterViewError("two parties share a transport key")


def _check_encryption(thresholds: Thresholds) -> None:
    """Beyond these limits the noise of a sum, or of its opening, may drown the sum itself."""
    if thresholds.clients > MAX_ENCRYPTED_CLIENTS:
        raise CharterViewError(
            f"the roster has {thresholds.clients} clients; suites with encryption take "
            f"{MAX_ENCRYPTED_CLIENTS}"
        )
    if thresholds.key_threshold > MAX_KEY_THRESHOLD:
        raise CharterViewError(
            f"limits: {thresholds.key_threshold} holders would open a key sum together; suites "
            f"with encryption take {MAX_KEY_THRESHOLD}"
        )


def _check_shared_noise(privacy: Mapping[str, Any], suite: str, thresholds: Thresholds) -> None:
    """The promise holds only where nobody ever sees one client's share of the noise, and where as
    many honest shares as it counts on are in every sum that may be opened."""
    if suite not in MASKED_SUITES:
        raise CharterViewError(
            f"privacy: mode {SHARED_NOISE} needs uploads that are masked (suite "
            f"{' or '.join(sorted(MASKED_SUITES))}); in suite {suite} the sum of one client may be "
            "seen with its own share of the noise alone"
        )
    shares, least, most = privacy["honest_shares"], thresholds.min_honest, thresholds.min_accepted
    if not least <= shares <= most:
        raise CharterViewError(
            f"privacy: noise is calibrated to {shares} honest shares; with these limits a sum has "
            f"at least {most} accepted updates, at least {least} of them honest, and honest_shares "
            "must lie between"
        )


def _check_robustness(
    charter: Mapping[str, Any], thresholds: Thresholds, clients: set[str]
) -> None:
    """Sketches are refused where they would tell an update, or break a promise about its noise."""
    section, mode = charter["robustness"], charter["privacy"]["mode"]
    if mode not in ("none", "local"):
        raise CharterViewError(
            f"robustness: in privacy mode {mode} an update carries only its share of the noise, "
            "and its sketch would tell more than the promise allows"
        )
    if section["rule"] in VECTOR_RULES:
        raise CharterViewError(
            f"robustness.rule {section['rule']} needs whole updates and gives no sum of them"
        )
    if thresholds.min_accepted >= thresholds.clients:
        raise CharterViewError("robustness: a verdict could remove nobody; every sum needs all")
    steps = section["norm_bound"] * charter["quantiser"]["scale"]
    if not 1 <= steps <= MAX_NORM_STEPS:
        raise CharterViewError(f"robustness.norm_bound is {steps:.3g} steps, expected 1 to 2^40")
    if "root" in section and section["root"] not in clients:
        raise CharterViewError(f"robustness.root {section['root']} is no client of the roster")
    _check_groups(section["groups"], charter["quantiser"]["values"])


def _check_groups(groups: Sequence[Mapping[str, Any]], values: int) -> None:
    """Groups cover every value once, and each has 16 values or more for each of its slots."""
    if len(groups) not in (0, 2, 4, 8):
        raise CharterViewError(f"robustness.groups has {len(groups)} entries, expected 0, 2, 4, 8")
    sizes = [values]
    if groups:
        spans = sorted(tuple(span) for group in groups for span in group["spans"])
        edges = [0, *(stop for _, stop in spans)]
        if [start for start, _ in spans] != edges[:-1] or edges[-1] != values:
            raise CharterViewError("robustness.groups must hold every value exactly once")
        if any(stop <= start for start, stop in spans):
            raise CharterViewError("robustness.groups holds an empty span")
        if len({group["name"] for group in groups}) != len(groups):
            raise CharterViewError("robustness.groups names a group twice")
        sizes = [sum(stop - start for start, stop in group["spans"]) for group in groups]
    least = LEAST_VALUES_PER_SLOT * SKETCH_SLOTS // max(len(groups), 1)
    if min(sizes) < least:
        raise CharterViewError(
            f"robustness: {min(sizes)} values are sketched together, expected at least {least}"
        )


def _check_watermark(charter: Mapping[str, Any], clients: set[str]) -> None:
    """Owners are clients, each mark is one, and no sum of marks can leave its lane."""
    section = charter["watermark"]
    places = [(owner["client"], owner["mark"]) for owner in section["owners"]]
    if places != sorted(set(places)):
        raise CharterViewError("watermark.owners must be sorted and hold each mark once")
    strangers = sorted({name for name, _ in places} - clients)
    if strangers:
        raise CharterViewError(f"watermark.owners names {', '.join(strangers)}, not on the roster")
    if sum(mark == "consortium" for _, mark in places) > 1:
        raise CharterViewError("watermark.owners names two keepers of the consortium's mark")
    if len({owner["commitment"] for owner in section["owners"]}) != len(places):
        raise CharterViewError("watermark.owners: two marks have one commitment")
    most = len(clients) * (section["scale"] * Fraction(section["clip"]) + 1)
    if most >= 1 << (charter["quantiser"]["lane_bits"] - 1):
        raise CharterViewError("watermark: a sum of marks does not fit its lanes")


def _signers(
    envelope: bytes, roster: tuple[Party, ...], founders: tuple[str, ...], quorum: int
) -> tuple[str, ...]:
    by_name = {party.name: party.identity for party in roster}
    strangers = sorted(set(founders) - by_name.keys())
    if strangers or quorum > len(founders):
        raise CharterViewError(
            f"founders: quorum {quorum} of {len(founders)}, not on the roster: {strangers}"
        )
    keys = {by_name[name].hex: by_name[name] for name in founders}
    try:
        opened = dsse_open(envelope, payload_type=CHARTER_PAYLOAD_TYPE, keys=keys, threshold=quorum)
    except DSSEError as error:
        raise CharterViewError(f"founders' signatures: {error}") from error
    names = {by_name[name].hex: name for name in founders}
    return tuple(sorted(names[signer] for signer in opened.signers))
