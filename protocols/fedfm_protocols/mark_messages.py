"""What an owner says about its mark after the round that wrote it.

Source: protocols/README.md, section "Watermark rounds".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fedfm_crypto.codec import MaxLength

MAX_CHECK_BYTES = 5000


@dataclass(frozen=True, slots=True)
class MarkCheck:
    """Client, outside of rounds: its signed statement whether the adapter carries a mark of its
    own, for the log.  One that says that it does not is a complaint.

    Source: protocols/README.md, section "Watermark rounds".
    """

    leaf: Annotated[bytes, MaxLength(MAX_CHECK_BYTES)]
