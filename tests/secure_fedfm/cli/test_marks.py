"""From `watermark claim --for` to `charter new --mark`; `export` and `watermark trace --site`;
`audit verify --opening`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedfm_crypto.dsse import dsse_open
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.fingerprints import RECORD_TYPE
from tests.audit.marked_evidence import marked_evidence, owner_of
from tests.audit.marks import host, write_adapter
from tests.secure_fedfm.cli.conftest import Run, Sites

HOST = host()


def claimed(run: Run, sites: Sites, name: str, mark: str, *options: object, **changes: str) -> Path:
    blank = sites.root / "blank"
    if not blank.exists():
        write_adapter(blank, HOST)
    base = changes.get("base_model") or json.loads((sites.root / "model.json").read_text())
    ran = run(
        "watermark", "claim", "--site", sites.client(name), "--adapter", blank, "--federation",
        changes.get("federation", "banks"), "--base-model", base, "--for", mark,
        *(options or ("--size", 128)), "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return Path(ran.json()["leaf"])


@pytest.fixture
def ready(sites: Sites, run: Run, no_model_loading: None) -> Sites:
    """Sites whose charter can be drafted, and the hash of its base model."""
    ran = run(*sites.new_charter(), "--labels", "greet,part", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(sites.draft.read_text())["model"]["sha256"]
    (sites.root / "model.json").write_text(json.dumps(found))
    sites.draft.unlink()
    return sites


def test_a_charter_names_the_marks_that_clients_claim(run: Run, ready: Sites) -> None:
    leaves = [
        claimed(run, ready, "bank-a", "own"),
        claimed(run, ready, "bank-b", "consortium"),
        claimed(run, ready, "bank-b", "own"),
    ]
    options = [option for leaf in leaves for option in ("--mark", leaf)]
    ran = run(*ready.new_charter(), "--labels", "greet,part", *options)
    assert ran.code == 0, ran.err
    section = json.loads(ready.draft.read_text())["watermark"]
    owners = [(one["client"], one["mark"]) for one in section["owners"]]
    assert owners == [("bank-a", "own"), ("bank-b", "consortium"), ("bank-b", "own")]
    again = run(
        "watermark", "claim", "--site", ready.client("bank-a"), "--adapter", ready.root / "blank",
        "--federation", "banks", "--base-model", "ab" * 32, "--for", "own",
    )  # fmt: skip
    assert again.code != 0
    assert "exists already" in again.error()


def test_marks_that_change_too_much_together_are_refused(run: Run, ready: Sites) -> None:
    wide = ("--size", 512, "--strength", 1.7, "--max-change", 0.25)  # 0.24 each
    owners = (("bank-a", "own"), ("bank-b", "consortium"), ("bank-b", "own"))
    options = [o for one in owners for o in ("--mark", claimed(run, ready, *one, *wide))]
    assert run(*ready.new_charter(), "--labels", "greet,part", *options[:4]).code == 0
    ready.draft.unlink()
    ran = run(*ready.new_charter(), "--labels", "greet,part", *options)
    assert ran.code != 0
    assert "at most 0.4 is allowed; claim smaller ones (`watermark claim --max-change 0.23`" in (
        ran.error()
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"federation": "other"}, "another federation"), ({"base_model": "ab" * 32}, "base model")],
)
def test_a_mark_of_something_else_is_refused(
    run: Run, ready: Sites, changes: dict[str, str], text: str
) -> None:
    leaf = claimed(run, ready, "bank-a", "own", **changes)
    ran = run(*ready.new_charter(), "--labels", "greet,part", "--mark", leaf)
    assert ran.code != 0
    assert text in ran.error()


def test_a_file_that_is_no_commitment_is_refused(run: Run, ready: Sites) -> None:
    enrolment = ready.client("bank-a") / "enrolment.json"
    ran = run(*ready.new_charter(), "--labels", "greet,part", "--mark", enrolment)
    assert ran.code != 0
    assert "commits to no mark" in ran.error()


def _export(run: Run, site: Path, name: str, root: Path) -> Any:
    return run(
        "export", "--site", site, "--adapter", root / "release", "--recipient", name, "--out",
        root / name, "--recipients", 8, "--json",
    )  # fmt: skip


def test_a_leaked_copy_is_traced_to_its_recipient(
    run: Run, founded_federation: Sites, tmp_path: Path
) -> None:
    site = founded_federation.client("bank-c")
    write_adapter(tmp_path / "release", HOST)
    for number, name in enumerate(("alice", "bob")):
        ran = _export(run, site, name, tmp_path)
        assert ran.code == 0, ran.err
        found = ran.json()
        assert found["sub_key"] == number
        assert found["statistic"] > 10
        assert "clears nobody" in ran.err
        assert "keys of all fingerprints" in ran.err
    traced = run("watermark", "trace", tmp_path / "bob", "--site", site, "--json")
    assert traced.code == 0
    assert traced.json()["accused"] == ["bob"]
    clean = run("watermark", "trace", tmp_path / "release", "--site", site, "--json")
    assert clean.code == 1
    assert clean.json()["accused"] == []
    both = {name: load_file(tmp_path / name / "adapter_model.safetensors") for name in
            ("alice", "bob")}  # fmt: skip
    mean = {name: (both["alice"][name] + both["bob"][name]) / 2 for name in both["bob"]}
    write_adapter(tmp_path / "mean", HOST)
    save_file({n: t.astype(np.float32) for n, t in mean.items()},
              tmp_path / "mean" / "adapter_model.safetensors")  # fmt: skip
    averaged = run("watermark", "trace", tmp_path / "mean", "--site", site, "--json")
    assert sorted(averaged.json()["accused"]) == ["alice", "bob"]
    identity = Site(site).identity().public
    record = (site / "fingerprints" / "copies" / "bob.json").read_bytes()
    opened = dsse_open(record, payload_type=RECORD_TYPE, keys={identity.hex: identity}, threshold=1)
    said = json.loads(opened.payload)
    assert (said["recipient"], said["sub_key"], said["holder"]) == ("bob", 1, identity.hex)


def test_exports_are_refused_where_they_cannot_be_told_apart(
    run: Run, founded_federation: Sites, tmp_path: Path
) -> None:
    site = founded_federation.client("bank-d")
    write_adapter(tmp_path / "release", HOST)
    options = ["--site", site, "--adapter", tmp_path / "release", "--recipients", 2]
    for name in ("alice", "bob"):
        assert run("export", *options, "--recipient", name, "--out", tmp_path / name).code == 0
    full = run("export", *options, "--recipient", "carol", "--out", tmp_path / "carol")
    assert full.code != 0
    assert "all 2 sub-keys" in full.error()
    taken = run("export", *options, "--recipient", "bob", "--out", tmp_path / "bob")
    assert taken.code != 0
    assert "exists already" in taken.error()
    bad = run("export", *options, "--recipient", "../x", "--out", tmp_path / "x")
    assert bad.code != 0
    assert "the name is" in bad.error()
    nothing = run("watermark", "trace", tmp_path / "bob", "--site", tmp_path)
    assert nothing.code != 0
    assert "exported no fingerprinted copy" in nothing.error()


def test_an_auditor_measures_a_mark_that_is_shown(run: Run, tmp_path: Path) -> None:
    for name, data in marked_evidence().files().items():
        path = tmp_path / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    opening = tmp_path / "opening.json"
    opening.write_bytes(owner_of("client-01", "own").opening().encode() + b"\n")
    plain = write_adapter(tmp_path / "plain", HOST)
    ran = run("audit", "verify", tmp_path / "bundle", "--opening", opening, "--json")
    assert ran.code == 1
    assert "give the adapter folder too" in ran.err
    ran = run("audit", "verify", tmp_path / "bundle", "--adapter", plain, "--opening", opening)
    assert ran.code == 1
    assert "the own mark of client-01 is not in" in ran.err
