"""Site folders of a federation on this machine, ready to be started as processes and measured."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfm_protocols.charter import Charter
from fedfm_protocols.enrolment import Enrolment, Role
from secure_fedfm.config import Timeouts
from secure_fedfm.enrolling import enrol, make_keys
from secure_fedfm.founding import sign_by_founders
from secure_fedfm.storage.site import Site

COORDINATOR = "coordinator"
# Enough for every phase on a loaded machine: a deadline would change what is measured.
PHASE_SECONDS = 1800.0
Rows = Iterable[tuple[str, str]]
"""Texts with their labels."""


@dataclass(frozen=True, slots=True)
class SitesOnDisk:
    """Site folders by party, and the charter that all have signed."""

    charter: Charter
    sites: Mapping[str, Site]

    @property
    def values(self) -> int:
        """How many values an update has."""
        return self.charter.quantiser.values


@dataclass(frozen=True, slots=True)
class EnrolledSites:
    """Site folders with keys and enrolments, before there is a charter."""

    sites: Mapping[str, Site]
    enrolments: Mapping[str, Enrolment]

    @classmethod
    def make(cls, root: Path, clients: int) -> EnrolledSites:
        """Make the folders of a coordinator and so many clients under ``root``."""
        names = [f"client-{number:02d}" for number in range(1, clients + 1)]
        sites = {name: Site(root / name) for name in (COORDINATOR, *names)}
        return cls(sites, {name: _enrol(site, name) for name, site in sites.items()})

    @property
    def clients(self) -> list[str]:
        """The clients' names."""
        return [name for name in self.sites if name != COORDINATOR]

    def found(self, charter: Charter, rows: Mapping[str, Rows]) -> SitesOnDisk:
        """Sign ``charter`` and write what every party needs; ``rows`` are those of each client."""
        signed = sign_by_founders(charter, self.sites)
        for name, site in self.sites.items():
            site.write(site.charter_file, signed)
            if name == COORDINATOR:
                for other, enrolment in self.enrolments.items():
                    site.write(site.enrolments_folder / f"{other}.json", enrolment.statement)
            else:
                _write_rows(site.root / "data.csv", rows[name])
            site.write(site.config_file, _config(name, charter.suite).encode())
        return SitesOnDisk(charter, self.sites)


def _enrol(site: Site, name: str) -> Enrolment:
    role: Role = "coordinator" if name == COORDINATOR else "client"
    make_keys(site, role)
    return enrol(site, role, name)


def _write_rows(file: Path, rows: Rows) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        writer.writerows(rows)


def _config(name: str, suite: str) -> str:
    lines = [f'name = "{name}"', 'log_format = "json"']
    if name == COORDINATOR:
        lines += ['role = "coordinator"', 'bind = "tcp://127.0.0.1:0"', "[timeouts]"]
        lines += [f"{phase} = {PHASE_SECONDS}" for phase in Timeouts.model_fields]
    else:
        lines += ['role = "client"', 'data = "data.csv"', "threads = 1"]
        lines += [f"connect_timeout = {PHASE_SECONDS}"]
    return "\n".join([*lines, "[policy]", f'suites = ["{suite}"]']) + "\n"
