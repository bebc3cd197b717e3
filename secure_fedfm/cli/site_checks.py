"""Checks of one site's folder: what would stop its service from starting."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from fedfm_crypto.errors import FedFMError
from fedfm_protocols.charter import Charter
from fedfm_protocols.errors import CharterError, EnrolmentError
from secure_fedfm.cli.charter_files import check_learning_sections
from secure_fedfm.cli.checks import Check, Level, attempt, offline_model, refused
from secure_fedfm.cli.settings import load_config
from secure_fedfm.cli.status import is_running
from secure_fedfm.config import SiteConfig
from secure_fedfm.enrolling import read_enrolment
from secure_fedfm.learning.data import load_training_rows
from secure_fedfm.learning.specs import ModelSpec
from secure_fedfm.learning.weights import verified_folder
from secure_fedfm.storage.site import Site

_CONNECT_SECONDS = 2.0


def site_checks(site: Site, config: SiteConfig) -> Iterator[Check]:
    """Keys, enrolment, charter, and what the role needs: data and model, or the port."""
    yield attempt("keys", lambda: _keys(site, config))
    yield attempt("enrolment", lambda: _enrolment(site, config))
    charter, opened = _charter(site, config)
    yield opened
    if config.role == "client":
        yield attempt("data", lambda: _data(config, charter))
        if charter is not None:
            yield _model(config, charter)
        yield _reachable(config.coordinator)
    elif config.role == "validator":
        yield _reachable(config.coordinator)
    else:
        if charter is not None:
            present = charter
            yield attempt("enrolments", lambda: _enrolments(site, present))
        yield _port(config.bind, running=is_running(site))
    yield _files_not_ahead(site)


def read_site(root: Path) -> tuple[Site, SiteConfig | None, Check]:
    """The site's configuration, or None and the check that says what is wrong with it."""
    site = Site(root)
    try:
        config = load_config(site)
    except FedFMError as error:
        return site, None, refused("configuration", error)
    return site, config, Check("configuration", Level.OK, f"{config.role} {config.name}")


def _keys(site: Site, config: SiteConfig) -> str:
    site.identity()
    site.transport()
    if config.role == "coordinator":
        site.log_key()
    return f"present and private in {site.identity_file.parent}"


def _enrolment(site: Site, config: SiteConfig) -> str:
    if not site.enrolment_file.is_file():
        raise EnrolmentError(
            f"no enrolment at {site.enrolment_file}; run `secure-fedfm enroll --site {site.root}`"
        )
    found = read_enrolment(site.enrolment_file)
    own = site.identity().public.hex
    if found.identity != own or found.name != config.name or found.role != config.role:
        raise EnrolmentError(
            f"{site.enrolment_file} is that of {found.role} {found.name} or of other keys than "
            "this site has; run `secure-fedfm enroll --replace`"
        )
    return f"valid until {found.not_after}"


def _charter(site: Site, config: SiteConfig) -> tuple[Charter | None, Check]:
    """The charter, which further checks need even if something is wrong with it for this site."""
    if not site.charter_file.is_file():
        found = f"no charter at {site.charter_file} yet"
        return None, Check(
            "charter", Level.WARNING, found, "copy the signed charter of the federation there"
        )
    try:
        charter = site.charter().charter
    except FedFMError as error:
        return None, refused("charter", error)
    return charter, attempt("charter", lambda: _charter_fits(charter, site, config))


def _charter_fits(charter: Charter, site: Site, config: SiteConfig) -> str:
    check_learning_sections(charter)
    if config.role != "coordinator":
        config.policy.site_policy().check_charter(charter)
    listed = {
        "client": {client.name: client.identity for client in charter.roster},
        "coordinator": {charter.coordinator.name: charter.coordinator.identity},
        "validator": {}
        if charter.validator is None
        else {charter.validator.name: charter.validator.identity},
    }[config.role]
    if listed.get(config.name) != site.identity().public.hex:
        raise CharterError(
            f"the charter does not list {config.name} with this site's identity key as "
            f"{config.role}; have it drafted with the current enrolment.json"
        )
    return f"{charter.federation}, sha256 {charter.hash.hex()}"


def _enrolments(site: Site, charter: Charter) -> str:
    expected = {client.name: client.enrolment for client in charter.roster}
    if charter.validator is not None:
        expected[charter.validator.name] = charter.validator.enrolment
    for name, digest in expected.items():
        path = site.enrolments_folder / f"{name}.json"
        if read_enrolment(path).digest != digest:
            raise EnrolmentError(
                f"{path} is not the enrolment of {name} that the founders signed for; copy the "
                "right one there"
            )
    return f"all {len(expected)} parties in {site.enrolments_folder}"


def _data(config: SiteConfig, charter: Charter | None) -> str:
    labelled = charter is None or charter.task.kind == "classification"
    rows = load_training_rows(
        str(config.data),
        text_column=config.text_column,
        label_column=config.label_column,
        labelled=labelled,
    )
    if charter is not None and labelled:
        rows.label_indices(charter.task.labels)
    return f"{len(rows)} rows, {len(rows.label_names())} labels"


def _model(config: SiteConfig, charter: Charter) -> Check:
    spec = ModelSpec(charter.model.name, charter.model.sha256)
    if not offline_model(spec.name, config.model):
        return Check(
            "model",
            Level.WARNING,
            f"{spec.name} is not on this machine as far as can be told without the network",
            "it would be fetched by name; or set `model` in site.toml to its folder",
        )
    return attempt("model", lambda: f"{spec.name} in {verified_folder(spec, config.model)}")


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    return parts.hostname or "127.0.0.1", parts.port or 0


def _port(bind: str, *, running: bool) -> Check:
    """Whether the coordinator could listen; its own running process is not in the way."""
    try:
        host, port = _host_and_port(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As libzmq does: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except ValueError:
        return Check("port", Level.FAILED, f"bind is {bind!r}", "write it as tcp://HOST:PORT")
    except OSError as error:
        if running and error.errno == errno.EADDRINUSE:
            return Check("port", Level.OK, f"{bind} is in use by this site's coordinator")
        return Check(
            "port",
            Level.FAILED,
            f"cannot listen on {bind}: {error.strerror}",
            "stop the process that listens there, or set another `bind` in site.toml",
        )
    return Check("port", Level.OK, f"{bind} is free")


def _reachable(address: str) -> Check:
    try:
        with socket.create_connection(_host_and_port(address), timeout=_CONNECT_SECONDS):
            return Check("coordinator", Level.OK, f"{address} accepts connections")
    except ValueError:
        return Check(
            "coordinator", Level.FAILED, f"it is {address!r}", "write it as tcp://HOST:PORT"
        )
    except OSError as error:
        return Check(
            "coordinator",
            Level.WARNING,
            f"{address} cannot be reached now ({error.strerror or error})",
            "start the coordinator, or correct `coordinator` in site.toml",
        )


def _files_not_ahead(site: Site) -> Check:
    """A clock that was set back shows in files from the future."""
    files = [path for path in site.root.iterdir() if path.is_file()]
    newest = max((path.stat().st_mtime for path in files), default=0.0)
    ahead = newest - time.time()
    if ahead > 60:
        return Check(
            "file times",
            Level.WARNING,
            f"a file of this site is {ahead:.0f} s ahead of the clock",
            "check the clock of this machine",
        )
    return Check("file times", Level.OK, "none lies in the future")
