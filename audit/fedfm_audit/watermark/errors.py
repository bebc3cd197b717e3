"""What can go wrong with a mark, as a branch of the one tree.

::

    AuditError                (fedfm_audit.errors)
    └── WatermarkError
        ├── ClaimError        a claim, a commitment or an opening that is malformed or does not hold
        ├── MarkCapacityError an adapter too small for the mark asked for, or a mark too small
        ├── SuspectError      a suspect's files cannot be read, or are of another model
        └── CaseError         a dispute or a tracing asked about something it cannot answer
"""

from __future__ import annotations

from fedfm_audit.errors import AuditError


class WatermarkError(AuditError):
    """Root of what marks raise."""


class ClaimError(WatermarkError):
    """A claim, a signed commitment or an opening is malformed, edited or somebody else's."""


class MarkCapacityError(WatermarkError):
    """The adapter cannot carry a mark of this size, or so small a mark could never be shown."""


class SuspectError(WatermarkError):
    """A suspect's files are damaged, hostile, of an unknown kind or of another model."""


class CaseError(WatermarkError):
    """The evidence of a dispute, or a question about recipients, contradicts itself."""
