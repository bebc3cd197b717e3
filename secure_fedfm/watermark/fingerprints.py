"""Copies of a finished adapter, each with its recipient's fingerprint, and the records of them.

::

    SITE/fingerprints/claim.json           claim and commitment to all sub-keys (public)
    SITE/keys/fingerprint.pem              their secret: whoever holds it can frame any recipient
    SITE/fingerprints/recipients.json      recipient -> sub-key, as `watermark trace` reads it
    SITE/fingerprints/copies/NAME.json     a signed record of each copy (DSSE)

A fingerprint is written on top of the marks in the release; the release itself stays as it is. A
record says who exported (and so who holds the keys), from which adapter, and the hash of the copy.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from fedfm_audit.watermark.adapter_suspect import ADAPTER_FILE, AdapterSuspect
from fedfm_audit.watermark.capacity import (
    LARGEST_CHANGE,
    choose_size,
    choose_strength,
)
from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey
from fedfm_audit.watermark.errors import WatermarkError
from fedfm_audit.watermark.release import release_hash
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_sign
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import RandomSource
from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.storage.keys import load_identity, save_identity
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.case_file import read_bounded, read_recipients
from secure_fedfm.watermark.embedding import Caps, Embedding, embed

RECORD_TYPE = "application/vnd.secure-fedfm.export-record+json"
DEFAULT_RECIPIENTS = 64


def collusion_limit(size: int, recipients: int) -> str:
    """What averaging copies does to a fingerprint, in words."""
    few = "up to 4" if size >= 1024 else "up to 3" if size >= 256 else "up to 2"
    return (
        f"a leak by one recipient is traced; of recipients who average their copies, {few} were "
        f"traced at {size} directions and {recipients} sub-keys (on random adapters), more may not "
        "be. A trace that accuses nobody clears nobody."
    )


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """A site's fingerprint claim, its key, and who has which sub-key."""

    committed: CommittedClaim
    key: MarkKey
    recipients: dict[str, int]

    @property
    def claim(self) -> Claim:
        """The claim that all copies of this site are exported under."""
        return self.committed.claim


@dataclass(frozen=True, slots=True)
class Exported:
    """A copy that was written: its recipient's sub-key, its tensor hash and how strong it is."""

    recipient: str
    sub_key: int
    tensors: bytes
    embedding: Embedding
    record: Path


def claim_file(site: Site) -> Path:
    """The public claim."""
    return site.root / "fingerprints" / "claim.json"


def key_file(site: Site) -> Path:
    """The secret of all fingerprints."""
    return site.root / "keys" / "fingerprint.pem"


def recipients_file(site: Site) -> Path:
    """Who has which sub-key."""
    return site.root / "fingerprints" / "recipients.json"


def open_fingerprints(site: Site) -> Fingerprints:
    """What this site has exported so far.

    Raises:
        ConfigurationError, CaseError, ClaimError: nothing, or files that do not belong together.
    """
    if not claim_file(site).is_file():
        raise ConfigurationError(
            f"{site.root} has exported no fingerprinted copy; use `secure-fedfm export`"
        )
    committed = CommittedClaim.decode(read_bounded(claim_file(site), "claim"))
    key = MarkKey(load_identity(key_file(site)).secret)
    key.check(committed)
    path = recipients_file(site)
    return Fingerprints(committed, key, read_recipients(path) if path.is_file() else {})


def begin_fingerprints(
    site: Site,
    release: Path,
    federation: str,
    base_model: str,
    recipients: int,
    random: RandomSource,
) -> Fingerprints:
    """The claim that exports go on with; made, with a fresh key, at the first one.

    Raises:
        MarkCapacityError: the adapter cannot carry a fingerprint. SuspectError: it cannot be read.
    """
    if claim_file(site).is_file():
        return open_fingerprints(site)
    modules = AdapterSuspect.open(release).modules()
    identity = site.identity()
    size = choose_size(modules, None, 1, LARGEST_CHANGE)
    claim = Claim(
        purpose="fingerprint",
        federation=federation,
        identity=identity.public,
        base_model=base_model,
        modules=modules,
        size=size,
        strength=choose_strength(modules, size, LARGEST_CHANGE),
        keys=recipients,
    )
    key = MarkKey.generate(random)
    committed = key.commit(claim, identity)
    save_identity(key_file(site), IdentityKey(key.secret))
    claim_file(site).parent.mkdir(parents=True, exist_ok=True)
    site.write(claim_file(site), committed.encode() + b"\n")
    return Fingerprints(committed, key, {})


def export_copy(
    site: Site, prints: Fingerprints, release: Path, recipient: str, out: Path, moment: int
) -> Exported:
    """Write the recipient's copy of ``release`` (a PEFT folder) to ``out``, and record it.

    The sub-key is on record before the copy exists: one that leaves can be traced. ``moment`` is
    seconds since 1970.

    Raises:
        ConfigurationError: all sub-keys are given away, or ``out`` exists.
        ModelError, SuspectError: the release cannot be read or marked.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists already; choose another --out")
    index = prints.recipients.get(recipient, len(prints.recipients))
    if index >= prints.claim.keys:
        raise ConfigurationError(
            f"all {prints.claim.keys} sub-keys are given to recipients; this claim has no more"
        )
    suspect = AdapterSuspect.open(release)
    factors = {module.name: suspect.factors(module.name) for module in prints.claim.modules}
    secret = prints.key.sub_key(prints.claim, index)
    (embedding,) = embed(factors, prints.claim, [secret], Caps(LARGEST_CHANGE))
    prints.recipients[recipient] = index
    site.write(recipients_file(site), json.dumps(prints.recipients, indent=1).encode() + b"\n")
    try:
        shutil.copytree(release, out)
        _write_marked(release, out, suspect, embedding)
    except OSError as error:
        raise ModelError(f"cannot write {out}: {error.strerror}") from error
    tensors = release_hash(out)
    record = site.root / "fingerprints" / "copies" / f"{recipient}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    identity = site.identity()
    payload = canonical_encode(
        {
            "version": 1,
            "recipient": recipient,
            "sub_key": index,
            "claim": prints.claim.digest().hex(),
            "holder": identity.public.hex,
            "release": release_hash(release).hex(),
            "copy": tensors.hex(),
            "time": moment,
        }
    )
    site.write(record, dsse_sign(payload, RECORD_TYPE, [(identity.public.hex, identity)]))
    return Exported(recipient, index, tensors, embedding, record)


def _write_marked(release: Path, out: Path, suspect: AdapterSuspect, embedding: Embedding) -> None:
    path = release / ADAPTER_FILE
    try:
        tensors = dict(load(path.read_bytes()))
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged ({error}); get the release again") from error
    for module, change in embedding.changes.items():
        name = suspect.names[module].b
        if tensors[name].dtype != np.float32:
            raise WatermarkError(
                f"{name} is {tensors[name].dtype}; fingerprints are written into float32 releases"
            )
        tensors[name] = tensors[name] + change
    save_file(tensors, out / ADAPTER_FILE, metadata={"format": "pt"})
