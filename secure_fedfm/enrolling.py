"""Founding a site: its keys, its site.toml and its signed enrolment.

Private keys are made where they are used and never leave SITE/keys.  What a site hands out are two
files: enrolment.json (public keys, signed by the identity key) and, for the coordinator, log.pub:
the public key of the transparency log as 64 hex digits.  The log's verifier key carries the
federation's name, which is not known yet, so the charter writes it (`founding.log_origin`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.errors import InvalidKeyError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.random_source import RandomSource, system_random
from fedfm_protocols.enrolment import Enrolment, Role, open_enrolment, request_enrolment
from fedfm_protocols.errors import EnrolmentError
from secure_fedfm.errors import ConfigurationError, StorageError
from secure_fedfm.site_template import site_toml
from secure_fedfm.storage.keys import save_identity, save_transport
from secure_fedfm.storage.site import Site

DEFAULT_DAYS = 365
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The public halves of a site's keys; ``log`` only at a coordinator."""

    identity: IdentityPublicKey
    transport: bytes
    log: IdentityPublicKey | None

    def by_name(self) -> dict[str, str]:
        """Key name -> 64 hex digits."""
        found = {"identity": self.identity.hex, "transport": self.transport.hex()}
        return found if self.log is None else {**found, "log": self.log.hex}


def fingerprint(public_hex: str) -> str:
    """128 bits of the key's SHA-256 in groups of four digits, to compare over the telephone."""
    digest = hashlib.sha256(bytes.fromhex(public_hex)).hexdigest()[:32]
    return " ".join(digest[i : i + 4] for i in range(0, len(digest), 4))


def make_keys(site: Site, role: Role, *, random: RandomSource = system_random) -> PublicKeys:
    """Make and store the private keys of a new site, files of mode 0600.

    Raises
    ------
    StorageError
        if any of them exists already; then none is made.
    """
    files = [site.identity_file, site.transport_file]
    if role == "coordinator":
        files.append(site.log_key_file)
    present = [str(path) for path in files if path.exists()]
    if present:
        raise StorageError(
            f"{', '.join(present)} exists already; a key is never overwritten. Choose another "
            "--site, or move the old keys away if this site really needs new ones"
        )
    identity = IdentityKey.generate(random)
    transport = AgreementKey.generate(random)
    save_identity(site.identity_file, identity)
    save_transport(site.transport_file, transport.secret)
    log = None
    if role == "coordinator":
        log = IdentityKey.generate(random)
        save_identity(site.log_key_file, log)
    public = PublicKeys(identity.public, transport.public, None if log is None else log.public)
    _write_log_public(site, public.log)
    return public


def write_config(site: Site, role: Role, name: str) -> bool:
    """Write a commented site.toml; False if there is one already, which is left alone.

    Raises
    ------
    ConfigurationError
        a name outside the pattern of names.
    """
    check_name(name)
    if site.config_file.exists():
        return False
    site.write(site.config_file, site_toml(role, name).encode())
    return True


def check_name(name: str) -> None:
    """Refuse what cannot be a party's name; raises ConfigurationError."""
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"the name is {name!r}; expected up to 63 lowercase letters, digits and . _ -, "
            "starting with a letter or digit"
        )


def today() -> str:
    """The current day in UTC, as enrolments state days."""
    return datetime.now(UTC).date().isoformat()


def expiry(days: int) -> str:
    """The ISO day that many days from now."""
    return (date.fromisoformat(today()) + timedelta(days=days)).isoformat()


def enrol(
    site: Site, role: Role, name: str, *, not_after: str | None = None, replace: bool = False
) -> Enrolment:
    """Sign this site's enrolment and write SITE/enrolment.json (and log.pub at a coordinator).

    ``not_after`` (ISO day) defaults to a year from now.

    Raises
    ------
    EnrolmentError
        if a valid enrolment is there already and ``replace`` is not set: a charter names the
        enrolment by its hash, so a new one does not fit an old charter.
    StorageError
        if a key is missing or readable by others.
    """
    check_name(name)
    path = site.enrolment_file
    if path.exists() and not replace:
        raise EnrolmentError(
            f"{path} exists already, and a charter may name it by its hash; pass --replace to "
            "enrol again, for a new charter"
        )
    transport = AgreementKey.from_secret(site.transport())
    day = expiry(DEFAULT_DAYS) if not_after is None else not_after
    statement = request_enrolment(name, role, site.identity(), transport.public, day)
    if role == "coordinator":
        _write_log_public(site, site.log_key().public)
    site.write(path, statement)
    return open_enrolment(statement)


def read_enrolment(path: Path, *, current: bool = True) -> Enrolment:
    """Open an enrolment file; ``current`` refuses one that has expired.

    Raises
    ------
    EnrolmentError
        naming the file and what is wrong with it.
    """
    try:
        return open_enrolment(path.read_bytes(), today=today() if current else None)
    except OSError as error:
        raise EnrolmentError(f"cannot read the enrolment {path}: {error.strerror}") from error
    except EnrolmentError as error:
        raise EnrolmentError(f"{path}: {error}") from error


def log_public_file(folder: Path) -> Path:
    """Where a coordinator's site keeps the log's public key."""
    return folder / "log.pub"


def read_log_public(source: str | Path) -> IdentityPublicKey:
    """The log's public key: 64 hex digits, or a file that holds them.

    Raises
    ------
    EnrolmentError
        neither, or not an acceptable Ed25519 key.
    """
    text = str(source)
    if re.fullmatch(r"[0-9a-fA-F]{64}", text) is None:
        try:
            text = Path(source).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise EnrolmentError(
                f"no log key at {source}: give the coordinator's log.pub or its 64 hex digits"
            ) from error
    try:
        return IdentityPublicKey(bytes.fromhex(text))
    except (ValueError, InvalidKeyError) as error:
        raise EnrolmentError(
            f"{source} is not a log key ({error}); expected the coordinator's log.pub, one line "
            "of 64 hex digits"
        ) from error


def _write_log_public(site: Site, public: IdentityPublicKey | None) -> None:
    if public is not None:
        site.write(log_public_file(site.root), f"{public.hex}\n".encode())
