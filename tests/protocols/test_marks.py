"""Rounds that write marks: what a charter may say of them, and what a client does differently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import make_charter, read_charter_payload
from fedfm_protocols.context import TRAIN, WATERMARK
from fedfm_protocols.effects import ApplySum, Charge, Received
from fedfm_protocols.errors import CharterError
from fedfm_protocols.federation import Federation
from fedfm_protocols.scenario.federations import charter_fields, watermark_section
from tests.protocols.federations import make_federation, make_keys
from tests.protocols.robust_federations import OUTLIER, robust_simulation, validator_of
from tests.protocols.scripted import RecordingSimulation

KEYS = make_keys(5)
OWNERS = ("client-02", "client-01")
CLIENT_MODE = {
    "mode": "client",
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": 1.0,
    "clip_l2": 1.0,
    "mechanism": "discrete-gaussian",
    "rotation": True,
}


def marked(**changes: Any) -> Federation:
    """A federation of five in which two clients own marks and the first keeps the consortium's."""
    return make_federation(KEYS, **{"watermark": watermark_section(OWNERS), "rounds": 1, **changes})


def simulation(federation: Federation) -> RecordingSimulation:
    """Everybody's update is 1/65536 times its number, in every value."""
    values = federation.charter.quantiser.values
    return RecordingSimulation(
        federation,
        KEYS.clients,
        KEYS.coordinator,
        SeededRandom(b"marks"),
        lambda name, *_: np.full(values, int(name[-2:]) / 65536),
    )


def test_a_charter_without_marks_has_no_byte_of_them() -> None:
    assert b"watermark" not in make_charter(charter_fields(KEYS)).payload()


def test_a_charter_with_marks_reads_back() -> None:
    charter = marked().charter
    again = read_charter_payload(charter.payload())
    assert again == charter
    assert again.watermark is not None
    assert [owner.mark for owner in again.watermark.marks_of("client-02")] == ["consortium", "own"]
    assert again.watermark.marks_of("client-05") == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s["owners"].reverse(), "sorted"),
        (lambda s: s["owners"].append(s["owners"][-1]), "sorted"),
        (lambda s: s["owners"][1].update(commitment=s["owners"][0]["commitment"]), "one commit"),
        (lambda s: s["owners"][2].update(client="eve"), "sorted|eve"),
        (lambda s: s.update(largest_change=0.5), "less than or equal to 0.4"),
        (lambda s: s.update(norm_bound=float("inf")), "finite"),
        (lambda s: s.update(epsilon=0), "Extra inputs"),
        (lambda s: s.update(owners=[]), "at least 1"),
        (lambda s: s.update(scale=1 << 29), "does not fit"),
    ],
)
def test_a_section_that_is_wrong_is_refused(change: Any, text: str) -> None:
    section = watermark_section(OWNERS)
    change(section)
    with pytest.raises(CharterError, match=text):
        make_federation(KEYS, watermark=section)


def test_two_keepers_of_one_mark_are_refused() -> None:
    section = watermark_section(OWNERS)
    section["owners"][0]["mark"] = "consortium"
    with pytest.raises(CharterError, match="two keepers"):
        make_federation(KEYS, watermark=section)


def test_marks_of_sums_are_bounded_by_what_their_writers_own() -> None:
    section = marked().charter.watermark
    assert section is not None
    assert [section.largest_norm(count) for count in (1, 2, 5)] == [2.0, 3.0, 3.0]
    assert section.measured_bound("client-05") == 0.0
    assert section.measured_bound("client-02") == 2 * section.measured_bound("client-01")


@pytest.mark.parametrize("privacy", [{"mode": "none"}, CLIENT_MODE])
def test_marks_add_up_exactly_and_are_charged_nothing(privacy: dict[str, Any]) -> None:
    fields = {"values": 50, "clip": 1.0, "scale": 65536, "lane_bits": 32}
    run = simulation(marked(privacy=privacy, quantiser=fields))
    assert run.run_round(1).outcome == "completed"
    trained = [e for c in run.clients.values() for e in c.totals]
    assert run.run_round(2, kind=WATERMARK).outcome == "completed"
    totals = [e for c in run.clients.values() for e in c.totals][len(trained) :] or []
    last = [client.totals[-1] for client in run.clients.values()]
    assert all(np.array_equal(total, np.full(50, 15 / 65536)) for total in last)
    assert len(totals) == 5
    assert {client.state.memory.completed for client in run.clients.values()} == {2}


def test_only_training_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    charged: list[int] = []
    run = simulation(marked(privacy=CLIENT_MODE))
    carry = run._carry_out_client

    def seen(name: str, client: Any, effect: Any) -> None:
        if isinstance(effect, Charge):
            charged.append(effect.round)
        if isinstance(effect, ApplySum):
            assert effect.kind == (TRAIN if effect.round == 1 else WATERMARK)
        carry(name, client, effect)

    monkeypatch.setattr(run, "_carry_out_client", seen)
    run.run_round(1)
    run.run_round(2, kind=WATERMARK)
    assert charged == [1] * 5


def test_a_spent_budget_does_not_stop_marks() -> None:
    run = simulation(marked())
    run.run_round(1)
    for client in run.clients.values():
        object.__setattr__(client.context, "objection", lambda: "the budget is spent")
    assert run.run_round(2, kind=WATERMARK).outcome == "completed"


def test_who_missed_the_marks_repeats_them() -> None:
    run = simulation(marked())
    run.run_round(1)
    names = tuple(n for n in run.federation.clients if n != "client-05")
    assert run.run_round(2, kind=WATERMARK, invited=names).outcome == "completed"
    run.catch_up("client-05")
    memory = run.clients["client-05"].state.memory
    assert (memory.adapter_hash, memory.completed) == (run.adapter_hash, 2)
    kinds = [type(event).__name__ for _, _, event in run.client_tape if isinstance(event, Received)]
    assert kinds


def test_marks_are_judged_by_norms_and_teach_the_rule_nothing() -> None:
    owners = [f"client-0{i}" for i in (1, 2, 4, 5)]
    section = watermark_section(owners, norm_bound=8.0)
    run = robust_simulation(watermark=section, rounds=1, outliers={OUTLIER: 1.0})
    run.run_round(1)
    validator = validator_of(run)
    before = validator.state.memory.rule
    finished = run.run_round(2, kind=WATERMARK)
    assert finished.outcome == "completed"
    seen = [seen for client in run.clients.values() for seen in client.verdicts if seen.round == 2]
    assert {one.removed for one in seen} == {((OUTLIER, "norm"),)}
    assert validator.state.memory.rule == before
