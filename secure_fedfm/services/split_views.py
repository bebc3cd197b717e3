"""What a client does that was shown two histories of the log: it keeps the evidence, durably, and
takes no further part.

The file is the mark: while one lies in SITE/split-view, the client neither starts nor cosigns.
Only a person moves it away, who has settled with the other institutions which history counts.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from fedfm_audit.split_view import SplitViewDocument
from fedfm_protocols.errors import SplitView
from secure_fedfm.errors import SplitViewFound
from secure_fedfm.storage.site import Site

LOG = logging.getLogger("secure_fedfm.client")


def kept_split_views(site: Site) -> tuple[Path, ...]:
    """The evidence in a site's folder, oldest name first."""
    folder = site.split_view_folder
    return tuple(sorted(folder.glob("*.json"))) if folder.is_dir() else ()


def keep_split_view(site: Site, error: SplitView, log_keys: tuple[bytes, ...]) -> Path:
    """Write what proves ``error`` to the site's folder (mode 0700); durable when it returns.

    ``log_keys`` are the leaves by which the log's key changed, as far as this site knows them.
    """
    document = SplitViewDocument(
        charter=site.charter_file.read_bytes(),
        log_keys=log_keys,
        notes=error.notes,
        headers=error.headers,
    ).encode()
    folder = site.split_view_folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    path = folder / f"{hashlib.sha256(document).hexdigest()[:16]}.json"
    site.write(path, document)
    LOG.error(
        "SPLIT VIEW: %s. Evidence is at %s; this site cosigns nothing more",
        error,
        path,
        extra={"kind": "split-view", "evidence": str(path)},
    )
    return path


def refuse_after_split_view(site: Site) -> None:
    """Refuse to go on at a site that has kept evidence of a split view.

    Raises
    ------
    SplitViewFound
        naming the evidence and what to do with it.
    """
    kept = kept_split_views(site)
    if kept:
        raise SplitViewFound(
            f"this site was shown two histories of the log; the evidence is at {kept[0]}. Show it "
            "to the other institutions (secure-fedfm audit split-view FILE, with their files and a "
            "bundle, if there is one). Once it is settled which history counts, move the file "
            "out of that folder and start again"
        )
