"""The cohorts benchmark at tiny sizes: what it reports beside theory, and that it resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cohorts
from benchmarks.results import Row
from fedfm_crypto import mask
from fedfm_crypto.labels import Label
from fedfm_protocols import client_protect, summing


def test_rows_have_measured_and_counted_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert cohorts.main(["--clients", "70,10", "--values", "500", "--json"]) == 0
    small, large = json.loads(capsys.readouterr().out)["results"]
    assert (small["clients"], large["clients"]) == (10, 70)
    assert (small["dropped"], large["dropped"]) == (1, 7)
    assert small["theory"]["neighbours"] == 9
    assert large["theory"]["neighbours"] < 69
    for row in (small, large):
        assert row["exact"] is True
        assert 0 < row["client_spared_s"] < row["client_cpu_s"]
        assert 0 < row["expansions_per_dropped_s"] < row["server_cpu_per_dropped_s"]
        assert row["bytes_up"] > 2000
        assert row["theory"]["masks"] == row["theory"]["neighbours"] + 1


def test_theory_counts_what_a_round_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, key agreements and signatures of one client, counted while it works."""
    from fedfm_crypto.agreement import AgreementKey
    from fedfm_crypto.identity import IdentityPublicKey

    counts = {"masks": 0, "key_agreements": 0, "signatures": 0}
    add_masks, exchange, verify = (
        mask.add_masks,
        AgreementKey.exchange,
        IdentityPublicKey.verify,
    )

    def counted_masks(words: object, masks: object, lane_bits: int) -> None:
        listed = list(masks)  # type: ignore[call-overload]
        counts["masks"] += len(listed)
        add_masks(words, listed, lane_bits)  # type: ignore[arg-type]

    def counted_exchange(self: AgreementKey, peer: bytes) -> object:
        counts["key_agreements"] += 1
        return exchange(self, peer)

    def counted_verify(
        self: IdentityPublicKey, label: Label, signature: bytes, message: bytes
    ) -> None:
        counts["signatures"] += 1
        verify(self, label, signature, message)

    for module in (client_protect, summing):
        monkeypatch.setattr(module, "add_masks", counted_masks)
    monkeypatch.setattr(AgreementKey, "exchange", counted_exchange)
    monkeypatch.setattr(IdentityPublicKey, "verify", counted_verify)
    from tests.protocols.scripted import Crash, exact_simulation

    # Ten clients, one of whom is gone from its upload hash on; every signature is verified.
    simulation = exact_simulation(10, intercept=Crash({"client-10": "UploadHash"}))
    assert simulation.run_round(1).outcome == "completed"
    expected = cohorts.theory(10)
    # Of the server: nine self-masks, and nine that client-10 shared.
    assert counts["masks"] == 10 * expected["masks"] + expected["server_masks"]
    assert expected["server_masks"] == 18
    assert counts["key_agreements"] == 10 * expected["key_agreements"] + 9
    # The dead one saw the opening, the key roster with ten offers, and its delivery; the server
    # verified ten offers and bundles, then nine each of hashes, uploads, votes, reveals and acks.
    by_others = 3 + 10 + 2 * 10 + 5 * 9
    assert counts["signatures"] == 9 * expected["signatures"] + by_others


def test_a_second_run_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def fake(clients: int, values: int) -> Row:
        calls.append(clients)
        return {**dict.fromkeys(cohorts.MEASURED, 1.0), "exact": clients != 30}

    monkeypatch.setattr(cohorts, "measure", fake)
    out = ["--out", str(tmp_path / "rows.jsonl"), "--values", "100"]
    assert cohorts.main([*out, "--clients", "10,20"]) == 0
    assert calls == [10, 10, 20]  # the first is the warm-up
    assert cohorts.main([*out, "--clients", "10,20", "--only", "20"]) == 0
    assert calls[3:] == [10]
    assert cohorts.main([*out, "--clients", "20,30"]) == 1  # 30 clients: not exact
    assert calls[4:] == [10, 30]
    assert cohorts.main([*out, "--clients", "40", "--budget-minutes", "0"]) == 2
    assert "0 of 1 repetitions" in capsys.readouterr().err
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3
