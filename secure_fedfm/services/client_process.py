"""Starting a client: load and check everything, connect, run, export."""

from __future__ import annotations

import asyncio
import gc
import logging

from secure_fedfm.config import SiteConfig
from secure_fedfm.services.client import ClientService
from secure_fedfm.services.client_setup import ClientSetup, export_result, set_up_client
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.client import ClientTransport

LOG = logging.getLogger("secure_fedfm.client")


async def _run(site: Site, config: SiteConfig, setup: ClientSetup) -> None:
    transport = ClientTransport(
        config.coordinator,
        bytes.fromhex(setup.federation.charter.coordinator.transport),
        setup.transport_keys,
        setup.limits,
        spool_folder=site.root,
    )
    await transport.start()
    try:
        await transport.wait_connected(config.connect_timeout)
        service = ClientService(site, setup, transport)
        await service.run()
    finally:
        await transport.stop()


def run_client(site: Site, config: SiteConfig) -> int:
    """Run a client until the federation is over; returns the exit code 0.

    Raises
    ------
    FedFMError
        if this site cannot take part (any longer); the command line maps it to an exit code.
    """
    setup = set_up_client(site, config)  # slow, and there is nobody to answer meanwhile
    # What was loaded stays: the collector need not walk torch's objects in the middle of a step.
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(_run(site, config, setup))
    finally:
        setup.close()
    export_result(site, setup)
    LOG.info("the adapter is at %s", site.export_folder, extra={"kind": "exported"})
    return 0
