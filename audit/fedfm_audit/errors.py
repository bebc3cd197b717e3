"""What can go wrong with evidence, as one tree.

::

    FedFMError                      (fedfm_crypto.errors, root of the whole project)
    └── AuditError
        ├── SchemaError             a JSON document breaks its published schema
        ├── StatementError          a leaf or the statement inside it is not one of ours
        ├── CharterViewError        the charter contradicts itself, as the auditor reads it
        ├── PolicyError             a tlog-policy that cannot be read, or that trusts nobody
        ├── TranscriptError         a round transcript that cannot be read or built
        ├── BundleError             a bundle that cannot be read or written at all
        ├── ArchiveError            a replay archive that cannot be read or written, or that lies
        ├── ProofError              a document about one leaf that cannot be read or does not hold
        ├── PrivacyError            privacy accounting
        │   ├── PrivacyEventError   a mechanism outside the allow-list, or numbers it cannot have
        │   ├── PrivacySettingError a delta, an order or a budget that no accountant can use
        │   ├── PrivacyLedgerError  a ledger whose entries do not follow from each other
        │   └── BudgetExceededError the next charge would exceed the budget; nothing was spent
        └── LogError
            ├── LogCorruptError     stored entries, tiles and checkpoint do not fit together
            ├── LogForkError        a witness holds a head that this log does not extend
            └── LogLockedError      another process writes to the same folder

The verifier turns all of these into failed steps of a report; the log and the bundle writer raise
them.
"""

from __future__ import annotations

from fedfm_crypto.errors import FedFMError


class AuditError(FedFMError):
    """Root of everything the audit layer raises."""


class SchemaError(AuditError):
    """A JSON document breaks its published schema; the message names the field."""


class StatementError(AuditError):
    """A leaf is not a signed statement of a known type, or contradicts itself."""


class CharterViewError(AuditError):
    """The charter is unsigned, malformed or contradicts itself."""


class PolicyError(AuditError):
    """A tlog-policy cannot be parsed, or is not what it must be."""


class TranscriptError(AuditError):
    """A round transcript cannot be read or built."""


class BundleError(AuditError):
    """A bundle cannot be read safely, or cannot be written."""


class ArchiveError(AuditError):
    """A replay archive lacks a message, or holds what the evidence does not account for."""


class ProofError(AuditError):
    """A document about one leaf of a log cannot be read, or proves nothing."""


class PrivacyError(AuditError):
    """Root of what privacy accounting raises."""


class PrivacyEventError(PrivacyError):
    """An event of an unknown type, or with a field that is missing, unknown or out of range."""


class PrivacySettingError(PrivacyError):
    """A delta, a Renyi order or a budget that no accountant can use."""


class PrivacyLedgerError(PrivacyError):
    """An entry does not follow from the ones before it, or settles what is not open."""


class BudgetExceededError(PrivacyError):
    """A charge would exceed the privacy budget; it was refused before anything was spent."""


class LogError(AuditError):
    """Root of what the log raises."""


class LogCorruptError(LogError):
    """Entries, tiles and checkpoint on disk do not fit together; nothing was changed."""


class LogForkError(LogError):
    """A witness holds a head that this log does not extend: a restored backup, or a fork."""


class LogLockedError(LogError):
    """Another process holds the log open for writing."""
