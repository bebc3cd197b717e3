"""watermark claim, verify, dispute and trace: files, exit codes and JSON on the base install."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey
from fedfm_audit.watermark.release import release_hash
from secure_fedfm.storage.keys import load_identity
from secure_fedfm.watermark.embedding import embed, marked
from tests.audit.marks import BASE_MODEL, CARRIER, TINY, Host, host, write_adapter
from tests.secure_fedfm.cli.conftest import Run
from tests.secure_fedfm.cli.test_light_imports import run_without_extras

HOST = host()


@dataclasses.dataclass(frozen=True)
class Owned:
    """A site with a claim, and its adapter before and after marking."""

    site: Path
    name: str = "mark"

    @property
    def claim_file(self) -> Path:
        return self.site / f"{self.name}.json"

    @property
    def key_file(self) -> Path:
        return self.site / "keys" / f"{self.name}.pem"

    def own(self) -> list[object]:
        return ["--claim", self.claim_file, "--key", self.key_file]

    def mark(self, adapter: Host, index: int = 0) -> Host:
        committed = CommittedClaim.decode(self.claim_file.read_bytes()[:-1])
        key = MarkKey(load_identity(self.key_file).secret)
        return marked(
            adapter, embed(adapter, committed.claim, [key.sub_key(committed.claim, index)])
        )


def claim(run: Run, root: Path, *options: object, name: str = "mark") -> Owned:
    site = root / "site"
    if not site.exists():
        assert run("keygen", "--site", site, "--role", "client", "--name", "ward").code == 0
    blank = write_adapter(root / "blank", HOST)
    ran = run(
        "watermark", "claim", "--site", site, "--adapter", blank, "--federation", "ward-notes",
        "--base-model", BASE_MODEL, "--name", name, *options, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return Owned(site, name)


def test_claim_writes_a_public_claim_and_a_private_key(tmp_path: Path, run: Run) -> None:
    owned = claim(run, tmp_path)
    assert stat.S_IMODE(owned.key_file.stat().st_mode) == 0o600
    committed = CommittedClaim.decode(owned.claim_file.read_bytes().removesuffix(b"\n"))
    committed.check()
    key = MarkKey(load_identity(owned.key_file).secret)
    key.check(committed)
    assert key.secret.reveal().hex() not in owned.claim_file.read_text()
    assert (committed.claim.size, committed.claim.modules) == (320, CARRIER.targets())
    again = run(
        "watermark", "claim", "--site", owned.site, "--adapter", tmp_path / "blank",
        "--federation", "ward-notes", "--base-model", BASE_MODEL,
    )  # fmt: skip
    assert (again.code, "exists already" in again.error()) == (3, True)


def test_claim_refuses_what_the_adapter_cannot_carry(tmp_path: Path, run: Run) -> None:
    owned = claim(run, tmp_path)
    base = ["watermark", "claim", "--site", owned.site, "--name", "other", "--federation", "f",
            "--base-model", BASE_MODEL, "--adapter"]  # fmt: skip
    ran = run(*base, tmp_path / "blank", "--size", 1024)
    assert (ran.code, "choose a size of at most 704" in ran.error()) == (3, True)
    ran = run(*base, write_adapter(tmp_path / "tiny", host(TINY)))
    assert (ran.code, "train more modules" in ran.error()) == (3, True)
    assert run(*base, tmp_path / "blank", "--name", "identity").code == 3
    assert run(*base, tmp_path).code == 4
    assert run(*base[:-5], "--adapter", tmp_path / "blank").code == 2
    assert not (owned.site / "other.json").exists()
    assert not (owned.site / "keys" / "other.pem").exists()


def test_verify_and_reveal(tmp_path: Path, run: Run) -> None:
    owned = claim(run, tmp_path, "--keys", 2)
    plain = write_adapter(tmp_path / "plain", HOST)
    copy = write_adapter(tmp_path / "copy", owned.mark(HOST, 1))
    opening = tmp_path / "opening.json"
    verify = ["watermark", "verify"]
    ran = run(
        *verify, copy, *owned.own(), "--sub-key", 1, "--logged", 6, "--reveal", opening, "--json"
    )
    assert ran.code == 0, ran.err
    assert ran.err.startswith("MARKED")
    assert (ran.json()["present"], ran.json()["logged"], ran.json()["sub_key"]) == (True, True, 1)
    assert stat.S_IMODE(opening.stat().st_mode) == 0o600
    assert run(*verify, copy, "--opening", opening, "--logged", 6).code == 0
    unlogged = run(*verify, copy, "--opening", opening)
    assert (unlogged.code, unlogged.err.startswith("NOT SHOWN")) == (1, True)  # 10 < 13.38
    assert run(*verify, plain, "--opening", opening, "--logged", 6).code == 1
    assert run(*verify, copy, *owned.own(), "--logged", 6).code == 1  # the other sub-key


def test_verify_refuses_what_does_not_hold(tmp_path: Path, run: Run) -> None:
    owned = claim(run, tmp_path)
    copy = write_adapter(tmp_path / "copy", owned.mark(HOST))
    edited = json.loads(owned.claim_file.read_text())
    edited["claim"]["strength"] = 0.7
    wrong = tmp_path / "edited.json"
    wrong.write_text(json.dumps(edited, sort_keys=True, separators=(",", ":")))
    ran = run("watermark", "verify", copy, "--claim", wrong, "--key", owned.key_file)
    assert (ran.code, "FAILED" in ran.err, "edited" in ran.err) == (1, True, True)
    other = owned.site / "keys" / "identity.pem"
    ran = run("watermark", "verify", copy, "--claim", owned.claim_file, "--key", other)
    assert (ran.code, "not the key of this claim" in ran.err) == (1, True)
    for options in ([], ["--claim", wrong], [*owned.own(), "--opening", wrong]):
        assert run("watermark", "verify", copy, *options).code == 2
    (copy / "adapter_model.safetensors").write_bytes(b"damaged")
    assert run("watermark", "verify", copy, *owned.own()).code == 4
    owned.key_file.chmod(0o644)
    ran = run("watermark", "verify", copy, *owned.own())
    assert (ran.code, "chmod 600" in ran.error()) == (6, True)


def test_verify_merged_weights(tmp_path: Path, run: Run) -> None:
    generator = np.random.default_rng(1)
    weights = {f"{n}.weight": generator.normal(size=(256, 256)).astype("f4") * 0.04 for n in HOST}
    base, suspect = tmp_path / "base.safetensors", tmp_path / "merged.safetensors"
    save_file(weights, base)
    pinned = hashlib.sha256(base.read_bytes()).hexdigest()
    owned = claim(run, tmp_path, "--base-model", pinned)
    changed = owned.mark(HOST)
    save_file({f"{n}.weight": weights[f"{n}.weight"] + changed[n].product() for n in HOST}, suspect)
    ran = run("watermark", "verify", suspect, *owned.own(), "--base", base)
    assert ran.code == 0, ran.err
    ran = run("watermark", "verify", suspect, *owned.own(), "--base", suspect)
    assert (ran.code, "the claim is about changes to" in ran.error()) == (4, True)
    ran = run("watermark", "verify", suspect, *owned.own())
    assert (ran.code, "add --base" in ran.error()) == (4, True)


def test_dispute(tmp_path: Path, run: Run) -> None:
    sides: list[dict[str, Any]] = []
    copy: Host = HOST
    for name, leaf, time in (("owner", 5, 1000), ("thief", 0, 9000)):
        owned = claim(run, tmp_path / name)
        copy = owned.mark(copy)
        adapter = write_adapter(tmp_path / name / "release", copy)
        opening = tmp_path / name / "opening.json"
        assert run("watermark", "verify", adapter, *owned.own(), "--reveal", opening).code == 0
        where = {"log": f"{name}/log", "leaf": leaf, "time": time}
        sides.append({
            "name": name, "opening": f"{name}/opening.json", "commitments": 1, "committed": where,
            "release": {**where, "leaf": 50, "time": time + 1, "adapter": f"{name}/release",
                        "tensors": release_hash(adapter).hex()},
        })  # fmt: skip
    case, suspect = tmp_path / "case.json", tmp_path / "thief" / "release"

    def decide() -> Any:
        case.write_text(json.dumps({"version": 1, "contenders": sides}))
        return run("watermark", "dispute", suspect, case, "--json")

    ran = decide()
    assert (ran.code, ran.json()["winner"]) == (0, "owner"), ran.err
    sides[0]["committed"] = None
    assert decide().json()["winner"] == "thief"  # whoever kept no evidence has none
    sides[1]["release"]["tensors"] = "00" * 32
    ran = decide()
    assert (ran.code, ran.json()["winner"]) == (1, None)
    sides[1]["release"] = 7
    assert decide().code == 3
    case.write_text("[")
    assert run("watermark", "dispute", suspect, case).code == 3


def test_trace(tmp_path: Path, run: Run) -> None:
    owned = claim(run, tmp_path, "--purpose", "fingerprint", "--keys", 8)
    leaked = write_adapter(tmp_path / "leak", owned.mark(HOST, 3))
    names = tmp_path / "recipients.json"
    names.write_text(json.dumps({"north": 2, "south": 3}))
    ran = run("watermark", "trace", leaked, *owned.own(), "--recipients", names, "--json")
    assert (ran.code, ran.json()["accused"]) == (0, ["south"])
    ran = run("watermark", "trace", write_adapter(tmp_path / "plain", HOST), *owned.own())
    assert (ran.code, "0 of 8 accused" in ran.err) == (1, True)
    names.write_text('{"north": "2"}')
    assert run("watermark", "trace", leaked, *owned.own(), "--recipients", names).code == 3
    names.write_text('{"north": 9}')
    assert run("watermark", "trace", leaked, *owned.own(), "--recipients", names).code == 1


def test_verify_needs_no_extra(tmp_path: Path, run: Run) -> None:
    owned = claim(run, tmp_path)
    copy = write_adapter(tmp_path / "copy", owned.mark(HOST))
    ran = run_without_extras(*map(str, ["watermark", "verify", copy, *owned.own()]))
    assert ran.returncode == 0, ran.stderr
