"""Signatures that one test process has verified once need no second verification.

In a simulated federation every client verifies what every other one verifies, in this one process,
and the verifier's tests judge the same envelopes again and again.  Whether a signature verifies
depends on its key, its bytes and the message alone, so a repetition can show nothing new.
"""

from __future__ import annotations

import hashlib

from fedfm_crypto.errors import SignatureError
from fedfm_crypto.identity import IdentityPublicKey

_MOST = 200_000  # some tens of megabytes


def remember_signatures() -> None:
    """From now on, in this process."""
    verify = IdentityPublicKey.verify_raw
    known: dict[bytes, str | None] = {}

    def remembering(self: IdentityPublicKey, signature: bytes, message: bytes) -> None:
        # Key and hash have fixed lengths, so no two triples give the same bytes.
        triple = self.raw + hashlib.sha256(signature).digest() + message
        digest = hashlib.sha256(triple).digest()
        if digest not in known:
            if len(known) >= _MOST:
                known.clear()
            try:
                verify(self, signature, message)
                known[digest] = None
            except SignatureError as error:
                known[digest] = str(error)
        if (reason := known[digest]) is not None:
            raise SignatureError(reason)

    IdentityPublicKey.verify_raw = remembering  # type: ignore[method-assign]
