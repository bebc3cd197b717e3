"""Work ahead starts when it is told to, once, and its result can be asked for at any time."""

from __future__ import annotations

import threading

import pytest

from secure_fedfm.services.ahead import WorkAhead


def test_work_waits_for_the_start_and_runs_in_another_thread() -> None:
    ahead, ran = WorkAhead(), threading.Event()

    def work() -> str:
        ran.set()
        return threading.current_thread().name

    result = ahead.begin(work)
    assert not ran.wait(0.05)
    ahead.start()
    assert ran.wait(5)
    assert result() != threading.current_thread().name
    ahead.stop()


def test_a_result_that_is_asked_for_early_is_computed_once() -> None:
    ahead, calls = WorkAhead(), []
    result = ahead.begin(lambda: calls.append(1))
    result()
    ahead.start()
    result()
    assert calls == [1]
    ahead.stop()


def test_what_goes_wrong_is_told_to_whoever_asks() -> None:
    ahead = WorkAhead()

    def fail() -> None:
        raise ValueError("no key")

    result = ahead.begin(fail)
    ahead.start()
    with pytest.raises(ValueError, match="no key"):
        result()
    ahead.stop()


def test_nothing_starts_after_the_stop() -> None:
    ahead, ran = WorkAhead(), threading.Event()
    ahead.begin(ran.set)
    ahead.stop()
    ahead.start()
    assert not ran.wait(0.05)
