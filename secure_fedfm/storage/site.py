"""A site's folder: where keys, charter, state, adapter and evidence of one party lie.

::

    SITE/
      site.toml          configuration
      keys/              identity.pem, transport.pem, log.pem (coordinator); mode 0600
      enrolment.json     this party's signed enrolment
      charter.json       the signed charter
      state.sqlite       durable state
      adapter/           current adapter and optimiser state (client)
      export/            the adapter as a PEFT folder, once the federation is over (client)
      log/               transparency log (coordinator)
      rounds/            transcripts and catch-up records (coordinator)
      enrolments/        enrolments of all parties (coordinator)
      bundle/            evidence bundle, once the federation is over (coordinator)
      archive/           what repeats every sum, where it is kept (coordinator); mode 0700
      timestamps/        time stamps of checkpoints (coordinator)
      split-view/        evidence of two histories of the log (client); mode 0700
      metrics.json       bytes and seconds per phase (coordinator), seconds per activity (client)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedfm_audit.storage import write_durably
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.secret import Secret
from fedfm_protocols.charter import SignedCharter, open_charter
from fedfm_protocols.errors import CharterError
from secure_fedfm.errors import StorageError
from secure_fedfm.storage.database import Database
from secure_fedfm.storage.keys import load_identity, load_transport


@dataclass(frozen=True, slots=True)
class Site:
    """The folder of one party; nothing is read before it is asked for."""

    root: Path

    @property
    def config_file(self) -> Path:
        """site.toml"""
        return self.root / "site.toml"

    @property
    def identity_file(self) -> Path:
        """Private identity key."""
        return self.root / "keys" / "identity.pem"

    @property
    def transport_file(self) -> Path:
        """Private transport key."""
        return self.root / "keys" / "transport.pem"

    @property
    def log_key_file(self) -> Path:
        """Private key of the transparency log (coordinator)."""
        return self.root / "keys" / "log.pem"

    @property
    def next_log_key_file(self) -> Path:
        """Private key that the log is being handed over to (coordinator)."""
        return self.root / "keys" / "log-next.pem"

    @property
    def enrolment_file(self) -> Path:
        """This party's signed enrolment."""
        return self.root / "enrolment.json"

    @property
    def charter_file(self) -> Path:
        """The signed charter."""
        return self.root / "charter.json"

    @property
    def adapter_folder(self) -> Path:
        """Current adapter and optimiser state."""
        return self.root / "adapter"

    @property
    def export_folder(self) -> Path:
        """The finished adapter as a PEFT folder."""
        return self.root / "export"

    @property
    def log_folder(self) -> Path:
        """Transparency log."""
        return self.root / "log"

    @property
    def rounds_folder(self) -> Path:
        """Transcripts and catch-up records."""
        return self.root / "rounds"

    @property
    def enrolments_folder(self) -> Path:
        """Enrolments of all parties, NAME.json (coordinator)."""
        return self.root / "enrolments"

    @property
    def bundle_folder(self) -> Path:
        """Evidence bundle."""
        return self.root / "bundle"

    @property
    def timestamps_folder(self) -> Path:
        """Time stamps of checkpoints (coordinator)."""
        return self.root / "timestamps"

    @property
    def split_view_folder(self) -> Path:
        """Evidence of two histories of the log (client)."""
        return self.root / "split-view"

    @property
    def archive_folder(self) -> Path:
        """Replay archive."""
        return self.root / "archive"

    @property
    def metrics_file(self) -> Path:
        """Bytes and seconds per phase (coordinator), seconds per activity (client)."""
        return self.root / "metrics.json"

    def identity(self) -> IdentityKey:
        """The identity key."""
        return load_identity(self.identity_file)

    def transport(self) -> Secret:
        """The secret half of the transport key."""
        return load_transport(self.transport_file)

    def log_key(self) -> IdentityKey:
        """The log's signing key."""
        return load_identity(self.log_key_file)

    def charter(self) -> SignedCharter:
        """The signed charter, verified.

        Raises
        ------
        StorageError
            if there is none.
        CharterError
            if it does not verify.
        """
        try:
            data = self.charter_file.read_bytes()
        except FileNotFoundError:
            raise StorageError(
                f"no charter at {self.charter_file}; copy the signed charter of the federation "
                "there (see docs/for-institutions.md)"
            ) from None
        try:
            return open_charter(data)
        except CharterError as error:
            raise CharterError(
                f"{self.charter_file}: {error}; copy the signed charter again from a founder"
            ) from error

    def database(self) -> Database:
        """The state file, opened for this process alone."""
        return Database(self.root / "state.sqlite")

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file of the site durably."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_durably(path, data, self.root)
