"""Charter files: canonical JSON while nobody has signed, a DSSE envelope from then on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedfm_audit.storage import write_durably
from fedfm_crypto.agreement import AgreementKey
from fedfm_protocols.charter import (
    Charter,
    add_charter_signature,
    open_charter,
    read_charter_payload,
    sign_charter,
)
from fedfm_protocols.errors import CharterError
from fedfm_protocols.federation import Federation
from secure_fedfm.services.learning_specs import LearningSpecs
from secure_fedfm.storage.site import Site

MAX_CHARTER_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class CharterFile:
    """A charter read from a file; ``envelope`` and ``signers`` are empty while it is a draft."""

    charter: Charter
    envelope: bytes
    signers: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Founders who have not signed."""
        return tuple(name for name in self.charter.founders.names if name not in self.signers)

    @property
    def in_force(self) -> bool:
        """Whether a quorum of the founders has signed."""
        return len(self.signers) >= self.charter.founders.quorum


def read_charter_file(path: Path) -> CharterFile:
    """Read a draft or a signed charter; every signature present is verified.

    Raises
    ------
    CharterError
        naming the file and what is wrong.
    """
    try:
        if path.stat().st_size > MAX_CHARTER_BYTES:
            raise CharterError(f"{path} has more than {MAX_CHARTER_BYTES} bytes: not a charter")
        data = path.read_bytes()
    except OSError as error:
        raise CharterError(
            f"cannot read the charter {path}: {error.strerror}; make one with "
            "`secure-fedfm charter new`"
        ) from error
    try:
        if _is_envelope(data):
            signed = open_charter(data, require_quorum=False)
            return CharterFile(signed.charter, data, tuple(sorted(signed.signers)))
        return CharterFile(read_charter_payload(data), b"", ())
    except CharterError as error:
        raise CharterError(f"{path}: {error}") from error


def _is_envelope(data: bytes) -> bool:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "payloadType" in fields


def write_draft(path: Path, charter: Charter) -> None:
    """Write an unsigned charter; refuses to replace a file (raises CharterError)."""
    if path.exists():
        raise CharterError(f"{path} exists already; give another --out, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, charter.payload(), path.parent)


def sign_file(path: Path, site: Site, name: str) -> CharterFile:
    """Add this site's signature to a charter file, in place; returns what the file holds then.

    Raises
    ------
    CharterError
        not a founder, signed before, or the charter names other keys for this site than it has.
    ConfigurationError
        a learning section that no client could run.
    """
    found = read_charter_file(path)
    check_learning_sections(found.charter)
    _check_transport(found.charter, site, name)
    key = site.identity()
    envelope = (
        add_charter_signature(found.envelope, name, key)
        if found.envelope
        else sign_charter(found.charter, name, key)
    )
    file = path.absolute()
    write_durably(file, envelope, file.parent)
    return read_charter_file(path)


def check_learning_sections(charter: Charter) -> None:
    """Refuse learning sections that this version cannot run; raises ConfigurationError."""
    LearningSpecs.of(Federation.of(charter))


def _check_transport(charter: Charter, site: Site, name: str) -> None:
    """A charter with a stale transport key would lock its own signer out of the federation."""
    entry = next((client for client in charter.roster if client.name == name), None)
    if entry is None:
        return  # the signature is refused with a better message: not a founder
    own = AgreementKey.from_secret(site.transport()).public.hex()
    if entry.transport != own:
        raise CharterError(
            f"the charter has transport key {entry.transport} for {name}, but this site's is "
            f"{own}; have the charter drafted again with the current enrolment.json"
        )
