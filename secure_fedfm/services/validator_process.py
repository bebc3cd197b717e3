"""Starting a validator: charter, keys and rule, then the service."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from fedfm_crypto.identity import IdentityKey
from fedfm_protocols.federation import Federation
from secure_fedfm.config import SiteConfig
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.robust.reasons import code_of
from secure_fedfm.robust.rule import Verdict
from secure_fedfm.services.limits import limits_for
from secure_fedfm.services.party import check_party
from secure_fedfm.services.sketching import sketching_for
from secure_fedfm.services.validator import ValidatorService
from secure_fedfm.services.validator_memory import ValidatorJournal
from secure_fedfm.services.verdicts import Removed, SeenVerdict, VerdictFile
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.curve import CurveKeyPair

LOG = logging.getLogger("secure_fedfm.validator")


async def _run(
    site: Site, config: SiteConfig, federation: Federation, keys: tuple[IdentityKey, CurveKeyPair]
) -> None:
    identity, transport_keys = keys
    verdicts = VerdictFile(site.root)
    sketching = sketching_for(federation, partial(_keep_reasons, verdicts))
    if sketching is None:
        raise ConfigurationError("the charter names no robust rule; it needs no validator")
    transport = ClientTransport(
        config.coordinator,
        bytes.fromhex(federation.charter.coordinator.transport),
        transport_keys,
        limits_for(federation),
        spool_folder=site.root,
    )
    database = site.database()
    await transport.start()
    try:
        journal = ValidatorJournal(database, federation.charter_hash.hex())
        await transport.wait_connected(config.connect_timeout)
        service = ValidatorService(
            site, federation, identity, sketching, journal, verdicts, transport
        )
        await service.run()
    finally:
        await transport.stop()
        database.close()


def _keep_reasons(verdicts: VerdictFile, number: int, verdict: Verdict) -> None:
    """Whom the rule excludes and its figures: to this site's own file and log, nowhere else."""
    excluded = []
    for name, reason in zip(verdict.names, verdict.reasons, strict=True):
        if reason:
            code = code_of(reason)
            excluded.append(Removed(name, code, reason.removeprefix(f"{code}: ")))
            LOG.warning(
                "round %d: %s is excluded: %s",
                number,
                name,
                reason,
                extra={"kind": "excluded", "round": number, "client": name},
            )
    verdicts.add(SeenVerdict(number, 0, "", tuple(excluded)))


def run_validator(site: Site, config: SiteConfig) -> int:
    """Run a validator until the federation is concluded; returns the exit code 0.

    Raises
    ------
    FedFMError
        if it cannot start or go on; the command line maps it to an exit code.
    """
    federation = Federation.of(site.charter().charter)
    config.policy.site_policy().check_charter(federation.charter)
    keys = check_party(site, config, federation)
    asyncio.run(_run(site, config, federation, keys))
    LOG.info("the federation is concluded", extra={"kind": "concluded"})
    return 0
