"""The round of marks at a site: what it adds, what of the sum is applied, what is said of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_audit.mark_predicates import MarkCheckPredicate
from fedfm_audit.statements import open_leaf
from fedfm_audit.watermark.capacity import LARGEST_CHANGE, relative_change
from fedfm_audit.watermark.claim import TargetModule
from fedfm_audit.watermark.errors import ClaimError
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import NO_CHECKPOINT, Envelope, seal_envelope
from fedfm_protocols.errors import MalformedMessage
from fedfm_protocols.mark_messages import MarkCheck
from secure_fedfm.errors import ConfigurationError, ServiceError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.server_optimiser import AdapterUpdater, ServerOptimiserSpec
from secure_fedfm.services.adapter_keeper import AdapterKeeper
from secure_fedfm.services.evidence import History
from secure_fedfm.services.mark_words import hear_owner, silent_owners
from secure_fedfm.watermark.owned import leaf_path, read_commitments, save_mark
from secure_fedfm.watermark.planning import PRIVATE_TOGETHER, TOGETHER, plan_marks
from secure_fedfm.watermark.writing import words
from tests.secure_fedfm.watermark.federated import (
    KEYS,
    OWNERS,
    carrier,
    federation,
    mark_sum,
    owner_site,
    released,
    writer,
)

FloatArray = NDArray[np.float64]
CLIENTS = ("client-01", "client-02", "client-03")


@cache
def total() -> FloatArray:
    """The sum of what three clients add, one of whom owns nothing."""
    found: FloatArray = np.sum([writer(name).update(released()) for name in CLIENTS], axis=0)
    found.flags.writeable = False
    return found


@cache
def result() -> Adapter:
    """What everybody makes of it."""
    return mark_sum().apply(released(), total(), 3)


def test_all_marks_are_found_in_the_sum_and_none_before() -> None:
    marked = result()
    for name, expected in (("client-01", 1), ("client-02", 2), ("client-03", 0)):
        found = writer(name).find(marked)
        assert len(found) == expected
        assert all(one.present and one.statistic > 12 for one in found)
        assert not any(one.present for one in writer(name).find(released()))
    assert not writer("client-03").update(released()).any()
    assert mark_sum().change(released(), marked) < 0.25


def test_nothing_outside_of_b_is_written() -> None:
    spoiled = total().copy()
    layout = carrier().layout
    start = layout.offsets[layout.names.index("head.weight")]
    spoiled[start : start + 12] = 5.0
    marked = mark_sum().apply(released(), spoiled, 3)
    assert np.array_equal(marked["head.weight"], released()["head.weight"])
    assert marked == result()


def test_a_sum_that_is_too_long_is_rolled_back() -> None:
    norm = float(np.linalg.norm(total()))
    bound = norm / 3.2  # three marks are counted
    assert mark_sum(norm_bound=bound).apply(released(), total(), 3) is released()
    assert mark_sum(norm_bound=norm / 2.8).apply(released(), total(), 3) is not released()


def test_a_sum_that_changes_too_much_is_rolled_back() -> None:
    assert mark_sum(largest_change=0.01).apply(released(), total(), 3) is released()


def test_an_owner_keeps_to_the_bound_itself() -> None:
    update = writer("client-01", norm_bound=0.05).update(released())
    assert float(np.linalg.norm(update)) <= 0.05 * 1.001
    small = writer("client-01", largest_change=0.01).update(released())
    changed = mark_sum().change(released(), mark_sum().apply(released(), small, 1))
    assert 0.009 < changed < 0.0101


def test_words_say_what_was_found_and_are_the_owners() -> None:
    marked = result()
    key = KEYS.clients["client-02"]
    found = writer("client-02").find(marked)
    leaves = words(found, b"\x01" * 32, 7, marked.hash(), key)
    for leaf, one in zip(leaves, found, strict=True):
        said = open_leaf(leaf, {key.public.hex: key.public}).statement.predicate
        assert isinstance(said, MarkCheckPredicate)
        assert said.present
        assert (said.round, said.adapter, said.mark) == (7, marked.hash().hex(), one.mark.said.mark)


def test_the_keeper_adds_marks_and_averages_updates(tmp_path: Path) -> None:
    updater = AdapterUpdater(carrier().layout, ServerOptimiserSpec())
    kept = AdapterKeeper(tmp_path, updater, released(), lambda p, d: None, mark_sum())
    assert kept.compute(total(), 3, kind="watermark") == result().hash()
    assert kept.compute(total(), 3) != kept.compute(total(), 3, kind="watermark")
    without = AdapterKeeper(tmp_path, updater, released(), lambda p, d: None)
    with pytest.raises(ServiceError, match="charter that has none"):
        without.compute(total(), 3, kind="watermark")


# ---- files


def test_a_sites_marks_load_as_they_were_committed_to(tmp_path: Path) -> None:
    made = owner_site(tmp_path)
    assert [mark.said.mark for mark in made.load(federation())] == ["consortium", "own"]
    one = made.load(federation())[0]
    with pytest.raises(ConfigurationError, match="exists already"):
        save_mark(made.site, "client-02", "consortium", one.committed, one.key)


def test_another_leaf_or_key_than_the_charters_is_refused(tmp_path: Path) -> None:
    made = owner_site(tmp_path)
    own = leaf_path(made.site, "client-02", "own")
    honest = own.read_bytes()
    own.write_bytes(leaf_path(made.site, "client-02", "consortium").read_bytes())
    with pytest.raises(ConfigurationError, match="not the commitment that the founders signed"):
        made.load(federation())
    own.write_bytes(honest)
    keys = made.site.root / "keys"
    (keys / "mark-own.pem").unlink()
    (keys / "mark-own.pem").write_bytes((keys / "mark-consortium.pem").read_bytes())
    (keys / "mark-own.pem").chmod(0o600)
    with pytest.raises(ClaimError, match="not the key of this claim"):
        made.load(federation())
    own.unlink()
    with pytest.raises(ConfigurationError, match="copy the file that its owner made"):
        read_commitments(made.site, federation())


# ---- what a coordinator hears


def _history(**changes: object) -> History:
    known = History(3, 1, 0, 0, released().hash(), None, concluded=False, marked=True)
    return replace(known, **changes)  # type: ignore[arg-type]


def _told(client: str, mark: str = "own", adapter: bytes | None = None) -> Envelope:
    (found,) = (one for one in writer(client).find(released()) if one.mark.said.mark == mark)
    charter = federation().charter_hash
    key = KEYS.clients[client]
    (leaf,) = words([found], charter, 3, adapter or released().hash(), key)
    return seal_envelope(
        key,
        context=federation().link_context,
        type="MarkCheck",
        sender=client,
        step=0,
        sequence=1,
        checkpoint=NO_CHECKPOINT,
        body=encode(MarkCheck(leaf)),
    )


def test_owners_are_heard_once_marks_are_written() -> None:
    mark, leaf = hear_owner(_history(), federation(), "client-01", _told("client-01"))
    assert mark == "own"
    assert leaf
    for history in (_history(marked=False), _history(concluded=True)):
        with pytest.raises(MalformedMessage, match="another adapter"):
            hear_owner(history, federation(), "client-01", _told("client-01"))
    with pytest.raises(MalformedMessage, match="another adapter"):
        hear_owner(_history(), federation(), "client-01", _told("client-01", adapter=bytes(32)))
    with pytest.raises(MalformedMessage, match="client-05"):
        hear_owner(_history(), federation(), "client-05", _told("client-01"))


def test_only_owners_who_are_there_and_silent_are_waited_for() -> None:
    ready = {"client-01", "client-02", "client-03"}
    agreed = federation()
    assert silent_owners(agreed, _history(), ready, ()) == ("client-01", "client-02")
    heard = frozenset({OWNERS[0]})
    assert silent_owners(agreed, _history(heard=heard), ready, ()) == ("client-02",)
    assert silent_owners(agreed, _history(), ready, {OWNERS[0], OWNERS[1]}) == ("client-02",)
    assert silent_owners(agreed, _history(), {"client-03"}, ()) == ()
    assert silent_owners(agreed, _history(marked=False), ready, ()) == ()


# ---- sizes


@pytest.mark.parametrize(
    ("capacity", "consortium", "own", "strength"),
    [
        (55_296, 768, 384, 1.2),
        (6_144, 192, 0, 1.0),
        (1_000, 0, 0, 0.0),
        (200_000, 1024, 512, 2.0),
    ],
)
def test_marks_are_planned_to_what_an_adapter_carries(
    capacity: int, consortium: int, own: int, strength: float
) -> None:
    modules = [TargetModule("layers.0.query", capacity // 8, 384, 8)]
    plan = plan_marks(modules, 5)
    assert (plan.consortium, plan.own, plan.strength) == (consortium, own, strength)
    assert plan.change <= TOGETHER
    alone = relative_change(consortium, capacity, strength) if consortium else 0.0
    assert alone <= LARGEST_CHANGE
    assert plan_marks((), 5).consortium == 0


@pytest.mark.parametrize(
    ("capacity", "consortium", "own", "strength"),
    [(55_296, 512, 256, 0.6), (6_144, 192, 0, 0.6), (200_000, 1024, 512, 1.1)],
)
def test_marks_are_smaller_where_training_adds_noise(
    capacity: int, consortium: int, own: int, strength: float
) -> None:
    modules = [TargetModule("layers.0.query", capacity // 8, 384, 8)]
    plan = plan_marks(modules, 5, private=True)
    assert (plan.consortium, plan.own, plan.strength) == (consortium, own, strength)
    assert plan.change <= PRIVATE_TOGETHER
