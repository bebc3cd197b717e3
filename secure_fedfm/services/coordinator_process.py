"""Starting a coordinator: charter, keys, log and transport, then the service."""

from __future__ import annotations

import asyncio
import logging

from fedfm_protocols.federation import Federation
from secure_fedfm.config import SiteConfig
from secure_fedfm.services.archive import RoundArchive
from secure_fedfm.services.coordinator import CoordinatorItem, CoordinatorService
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.limits import limits_for
from secure_fedfm.services.log_rotation import finish_rotation
from secure_fedfm.services.party import check_party, read_enrolments
from secure_fedfm.services.timestamping import read_roots
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.server import ServerTransport
from secure_fedfm.watermark.owned import read_commitments

LOG = logging.getLogger("secure_fedfm.coordinator")


async def _run(site: Site, config: SiteConfig) -> None:
    federation = Federation.of(site.charter().charter)
    config.policy.site_policy().check_charter(federation.charter)
    key, transport_keys = check_party(site, config, federation)
    read_roots(config.timestamp)
    database = site.database()
    finish_rotation(site, federation)
    evidence = Evidence(site, federation, key, site.log_key())
    evidence.found(
        read_enrolments(site, federation),
        federation.charter.model.sha256,
        read_commitments(site, federation),
    )
    archive = RoundArchive(site, config.archive, federation, evidence.history.last_round)
    inbox: asyncio.Queue[CoordinatorItem] = asyncio.Queue()
    transport = ServerTransport(
        config.bind,
        transport_keys,
        _admitted(federation),
        limits_for(federation),
        on_refused=inbox.put_nowait,
        allow_remote=config.allow_remote,
        spool_folder=site.root,
    )
    try:
        await transport.start()
        LOG.info(
            "listening at %s",
            transport.endpoint,
            extra={"kind": "listening", "endpoint": transport.endpoint},
        )
        service = CoordinatorService(
            site, config, federation, key, evidence, database, transport, inbox, archive
        )
        await service.run()
    finally:
        await transport.stop()
        evidence.close()
        database.close()


def _admitted(federation: Federation) -> dict[bytes, str]:
    """Transport keys of those who may connect: the roster, and a validator."""
    charter = federation.charter
    admitted = {bytes.fromhex(client.transport): client.name for client in charter.roster}
    if charter.validator is not None:
        admitted[bytes.fromhex(charter.validator.transport)] = charter.validator.name
    return admitted


def run_coordinator(site: Site, config: SiteConfig) -> int:
    """Run a coordinator until the federation is concluded; returns the exit code 0.

    Raises
    ------
    FedFMError
        if it cannot start or go on; the command line maps it to an exit code.
    """
    asyncio.run(_run(site, config))
    return 0
