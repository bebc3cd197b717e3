"""The coordinator's replay archive: bodies kept while a round runs, closed before it is logged.

Off unless the site's configuration asks for it.  A disk that fails costs the archive that round,
never the federation its result: the round is then not in the archive, which a replay names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from fedfm_audit.archive import ARCHIVED_KINDS, ArchiveWriter, archived_messages
from fedfm_audit.entries import Entry
from fedfm_audit.errors import ArchiveError
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.context import KEYS
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.effects import Send
from fedfm_protocols.federation import Federation
from secure_fedfm.config import ArchiveSection
from secure_fedfm.storage.site import Site

LOG = logging.getLogger("secure_fedfm.coordinator")

_WHAT_IT_TELLS = {
    "layered": "it opens neither an update nor a sum; keep it like the traffic of the rounds",
    "sealed": "who holds it and the keys of colluding + 1 institutions opens single updates",
    "masked": "it opens the SUM of every round; nobody else than this site may hold it by default",
    "clear": "it holds EVERY UPDATE in clear",
}


class RoundArchive:
    """What of a running round goes into the archive; does nothing where there is none."""

    def __init__(
        self, site: Site, section: ArchiveSection, federation: Federation, last_round: int
    ) -> None:
        self._federation = federation
        self._keep = section.keep_rounds
        self._broken = 0
        self._writer: ArchiveWriter | None = None
        if section.enabled:
            self._writer = ArchiveWriter(site.archive_folder, last_round)
            suite = federation.charter.suite
            LOG.info(
                "archiving what repeats each sum in %s; suite %s: %s",
                site.archive_folder,
                suite,
                _WHAT_IT_TELLS[suite],
            )

    async def take(self, number: int, envelope: Envelope) -> None:
        """Keep a message that the round has taken, if a replay needs it."""
        if self._writer is None or envelope.header.type not in ARCHIVED_KINDS:
            return
        if number == self._broken:
            return
        header = envelope.header
        try:
            await asyncio.to_thread(
                self._writer.put, number, header.step, header.type, header.sender, envelope.body
            )
        except OSError as error:
            self._break(number, error)

    async def sent(self, number: int, sends: Iterable[Send]) -> None:
        """Keep what the coordinator says to everybody, once."""
        for envelope in {id(send.envelope): send.envelope for send in sends}.values():
            await self.take(number, envelope)

    async def close_round(self, finished: Finished) -> None:
        """Move the round into the archive: each step whose sum was published, and nothing else."""
        if self._writer is None:
            return
        number = finished.round.identity.round
        kept = {
            step: archived_messages(
                [Entry(entry.signed, entry.body) for entry in entries],
                masked=self._federation.masked,
                encrypted=self._federation.encrypted,
            )
            for step, entries in enumerate(finished.round.transcript.steps)
            if finished.round.identity.kind != KEYS and number != self._broken
        }
        try:
            await asyncio.to_thread(self._close, number, kept)
        except (OSError, ArchiveError) as error:
            self._break(number, error)

    def _close(self, number: int, kept: dict[int, tuple[tuple[str, str], ...]]) -> None:
        if self._writer is not None and self._writer.close_round(number, kept) and self._keep:
            for gone in self._writer.keep_last(self._keep):
                LOG.info("round %d left the archive, which keeps the last %d", gone, self._keep)

    def _break(self, number: int, error: Exception) -> None:
        self._broken = number
        LOG.error("round %d will not be in the replay archive: %s", number, error)
