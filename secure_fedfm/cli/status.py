"""`status`: what a site's service is doing, from the files of its folder alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from fedfm_audit.log import CHECKPOINT
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.note import parse_checkpoint, split_note
from secure_fedfm.cli.charter_files import read_charter_file
from secure_fedfm.cli.options import JsonOption, SiteOption
from secure_fedfm.cli.output import emit, say, table
from secure_fedfm.errors import ConfigurationError, StorageError
from secure_fedfm.services.split_views import kept_split_views
from secure_fedfm.services.status import STATUS_FILE
from secure_fedfm.storage.site import Site

STATE_FILE = "state.sqlite"  # what Site.database() opens


def status(site: SiteOption, as_json: JsonOption = False) -> None:
    """Show what the service of a site is doing, or did last.

    Reads files of DIR only, so it also works while the service runs and after it has ended.
    """
    if not site.is_dir():
        raise ConfigurationError(f"no site folder {site}; check --site")
    folder = Site(site)
    running = is_running(folder)
    last = read_status(folder)
    charter = _charter_facts(folder)
    log_size = read_log_size(folder)
    evidence = [str(path) for path in kept_split_views(folder)]
    say(_headline(folder, running, last))
    say(table(_lines(last, charter, log_size, evidence)))
    if as_json:
        emit(
            {
                "site": str(site),
                "running": running,
                "status": last,
                "charter": charter,
                "log_size": log_size,
                "split_views": evidence,
            }
        )


def is_running(site: Site) -> bool:
    """Whether a process holds this site's state file, which services keep locked."""
    path = site.root / STATE_FILE
    if not path.is_file():
        return False
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
        try:
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    except sqlite3.DatabaseError:
        return False
    return False


def read_status(site: Site) -> dict[str, object] | None:
    """What the service wrote last, or None if none ever ran here.

    Raises
    ------
    StorageError
        the file is not what a service writes.
    """
    path = site.root / STATUS_FILE
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path} ({error}); restart the service") from error
    if not isinstance(found, dict):
        raise StorageError(f"{path} holds no JSON object; restart the service")
    return found


def read_log_size(site: Site) -> int | None:
    """Statements under the log's last checkpoint, or None where there is no log."""
    path = site.log_folder / CHECKPOINT
    try:
        body, _ = split_note(path.read_bytes())
        return parse_checkpoint(body).size
    except FileNotFoundError:
        return None
    except (OSError, FedFMError) as error:
        raise StorageError(
            f"cannot read the log's checkpoint {path} ({error}); restore the log from a backup"
        ) from error


def _charter_facts(site: Site) -> dict[str, object] | None:
    if not site.charter_file.is_file():
        return None
    found = read_charter_file(site.charter_file)
    return {
        "federation": found.charter.federation,
        "sha256": found.charter.hash.hex(),
        "in_force": found.in_force,
    }


def _headline(site: Site, running: bool, last: Mapping[str, object] | None) -> str:
    if last is None:
        return (
            f"a service of {site.root} is starting"
            if running
            else f"nothing runs in {site.root}, and nothing ever has"
        )
    who = f"{last.get('role')} {last.get('name')}"
    if running:
        return f"{who} is running: {last.get('state')} ({_age(last.get('updated'))})"
    return f"nothing runs in {site.root}; {who} ended in state {last.get('state')!r}" + (
        f" ({_age(last.get('updated'))})"
    )


def _lines(
    last: Mapping[str, object] | None,
    charter: Mapping[str, object] | None,
    log_size: int | None,
    split_views: Sequence[str],
) -> dict[str, object]:
    lines: dict[str, object] = {}
    if last is not None:
        lines["round"] = (
            f"{last.get('round')}, {last.get('completed')} of {last.get('rounds')} done"
        )
        if last.get("role") == "validator":
            lines["round"] = f"{last.get('round')}, {last.get('completed')} judged"
        else:
            lines["adapter"] = last.get("adapter")
        if last.get("verdict"):
            lines["verdict"] = last.get("verdict")
        connected = last.get("connected")
        if last.get("role") == "coordinator" and isinstance(connected, list):
            lines["connected"] = ", ".join(map(str, connected)) or "nobody"
    if charter is None:
        lines["charter"] = "none yet"
    else:
        state = "" if charter["in_force"] else " (not signed by a quorum)"
        lines["charter"] = f"{charter['federation']}, sha256 {charter['sha256']}{state}"
    if log_size is not None:
        lines["log"] = f"{log_size} statements"
    if split_views:
        lines["SPLIT VIEW"] = (
            f"this site was shown two histories of the log and cosigns no more; evidence: "
            f"{', '.join(split_views)}"
        )
    return lines


def _age(updated: object) -> str:
    try:
        since = datetime.fromisoformat(str(updated))
        seconds = (datetime.now(UTC) - since).total_seconds()
    except (ValueError, TypeError):
        return "time unknown"
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
