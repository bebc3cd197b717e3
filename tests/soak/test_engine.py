"""The engine fails where it must: wrong errors, endless loops, memory, changed states."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fedfm_crypto.errors import CodecError, FedFMError
from tests.soak import engine, recordings
from tests.soak.engine import Attempt, Campaign, Target
from tests.soak.recordings import fingerprint


def target_of(run: Callable[[], str], name: str = "made-up") -> Target:
    return Target(name, lambda rng: Attempt(rng.randbytes(8), run, (CodecError,)))


def run_once(tmp_path: Path, run: Callable[[], str]) -> engine.Report:
    return Campaign(target_of(run), 1, folder=tmp_path).run()


def _raise(error: BaseException) -> str:
    raise error


def _spin() -> str:
    while True:
        with suppress(Exception):  # must not hide the time-out
            sum(range(1000))


def test_an_answer_is_no_failure(tmp_path: Path) -> None:
    report = run_once(tmp_path, lambda: _raise(CodecError("bad bytes")))
    assert (report.failures, report.answers) == ([], {"CodecError": 1})


@pytest.mark.parametrize("error", [KeyError("x"), FedFMError("another of the tree"), MemoryError()])
def test_any_other_error_is_a_failure_with_a_reproducer(tmp_path: Path, error: Exception) -> None:
    report = run_once(tmp_path, lambda: _raise(error))
    assert len(report.failures) == 1
    (file,) = (tmp_path / "failures").iterdir()
    record = json.loads(file.read_text("utf-8"))
    assert (record["target"], record["case"], len(record["bytes"])) == ("made-up", 0, 16)
    with pytest.raises(type(error)):
        Campaign(target_of(lambda: _raise(error)), 1, seed=record["seed"]).repeat(record["case"])


def test_an_endless_loop_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CASE_SECONDS", 0.1)
    assert "CaseTimeoutError" in run_once(tmp_path, _spin).failures[0]


def test_unbounded_allocation_is_a_failure(tmp_path: Path) -> None:
    report = run_once(tmp_path, lambda: str(len(bytearray(1 << 30))))
    assert "MemoryError" in report.failures[0]
    report = run_once(tmp_path, lambda: str(np.ones(2_000_000).sum()))
    assert "bytes at once" in report.failures[0]


def test_the_same_seed_makes_the_same_cases_and_another_seed_others() -> None:
    def cases(seed: str) -> list[bytes]:
        target = next(iter(_targets("client/Uploaded")))
        made = [target.make(engine.generator(seed, target.name, i)) for i in range(20)]
        return [attempt.data for attempt in made]

    assert cases("1") == cases("1")
    assert cases("1") != cases("2")


def _targets(name: str) -> list[Target]:
    from tests.soak.targets import all_targets

    return [target for target in all_targets() if target.name == name]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = Campaign(target_of(lambda: "fine"), 300, resume=True, folder=tmp_path).run()
    again = Campaign(target_of(lambda: "fine"), 400, resume=True, folder=tmp_path).run()
    assert (first.cases, again.cases) == (300, 100)
    other = Campaign(target_of(lambda: "fine"), 400, resume=True, seed="2", folder=tmp_path)
    assert other.run().cases == 400


def test_a_failure_is_not_passed_over_by_the_next_run(tmp_path: Path) -> None:
    def campaign() -> Campaign:
        return Campaign(target_of(lambda: _raise(KeyError())), 1, resume=True, folder=tmp_path)

    assert campaign().run().failures
    assert campaign().run().failures


def test_a_fingerprint_sees_every_field_of_a_state() -> None:
    moments = recordings.masked().moments
    for kind in ("Offered", "Training", "Voted", "Unmasking", "Uploading"):
        moment = moments[kind][-1]
        assert fingerprint(moment.state) == moment.fingerprint
        for field in dataclasses.fields(moment.state):
            changed = dataclasses.replace(moment.state, **{field.name: b"changed"})
            assert fingerprint(changed) != moment.fingerprint, field.name
    total = next(m.state.total for m in moments["Uploading"] if m.state.total is not None)
    before = fingerprint(total)
    total[0] += 1
    assert fingerprint(total) != before
    total[0] -= 1


def test_generators_are_independent_of_the_global_one() -> None:
    random.seed(1)
    first = engine.generator("1", "t", 1).random()
    random.seed(2)
    assert engine.generator("1", "t", 1).random() == first
