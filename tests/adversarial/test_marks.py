"""Thieves of marked adapters: each attack is refused, or resolved to the owner."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from fedfm_audit.watermark.commitment import CommittedClaim
from fedfm_audit.watermark.dispute import (
    Contender,
    LoggedRelease,
    Resolution,
    Witnessed,
    resolve,
)
from fedfm_audit.watermark.errors import CaseError, ClaimError
from fedfm_audit.watermark.judge import judge
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.suspect import LowRank, LowRankSuspect
from fedfm_audit.watermark.trace import accusation_threshold, trace
from fedfm_crypto.labels import Label
from secure_fedfm.watermark.embedding import Caps, embed, marked
from tests.audit.marks import Host, Owner, Shape, host, owner, random_statistics

OWNER, THIEF = owner(1), owner(2, strength=1.8)
HOST = host()
RELEASED = marked(HOST, embed(HOST, OWNER.claim, [OWNER.opening().key]))
STOLEN = marked(RELEASED, embed(RELEASED, THIEF.claim, [THIEF.opening().key], Caps(relative=1)))
"""The owner's release, overwritten by the thief at three times the strength."""
HASH = bytes(32)
LOG, OTHER_LOG = "ward-notes/log", "thief/log"


def contender(
    name: str,
    side: Owner,
    release: Host | None,
    *,
    committed: Witnessed | None = None,
    released: Witnessed | None = None,
    stated: bytes = HASH,
    commitments: int = 6,
) -> Contender:
    shown = None
    if release is not None and released is not None:
        shown = LoggedRelease(LowRankSuspect(release), HASH, released, stated)
    return Contender(name, side.opening(), committed, commitments, shown)


COMMITTED, RELEASE_LEAF = Witnessed(LOG, 5, 1000), Witnessed(LOG, 40, 5000)
HONEST = contender("owner", OWNER, RELEASED, committed=COMMITTED, released=RELEASE_LEAF)


def against(thief: Contender) -> tuple[Resolution, str]:
    """The owner and a thief over the stolen copy: the resolution and why the thief is refused."""
    found = resolve(LowRankSuspect(STOLEN), [thief, HONEST])
    return found, found.standings[0].refused


def test_an_overwritten_copy_still_carries_the_owners_mark() -> None:
    suspect = LowRankSuspect(STOLEN)
    mine = judge(OWNER.opening(), suspect, Trials(6, 1))
    his = judge(THIEF.opening(), suspect, Trials(None, 1))
    assert mine.present
    assert his.present  # a mark written afterwards is there too: that is why logs decide
    assert not judge(THIEF.opening(), LowRankSuspect(RELEASED), Trials(6, 1)).present


def test_a_thief_whose_commitment_no_log_holds() -> None:
    found, refused = against(contender("thief", THIEF, STOLEN))
    assert found.winner == "owner"
    assert refused.startswith("its commitment is in no log")


def test_a_thief_that_logs_its_commitment_after_its_release() -> None:
    late = contender(
        "thief", THIEF, STOLEN, committed=Witnessed(OTHER_LOG, 9, 6000),
        released=Witnessed(OTHER_LOG, 8, 5900),
    )  # fmt: skip
    found, refused = against(late)
    assert found.winner == "owner"
    assert refused == "its commitment (leaf 9) was logged after its release (leaf 8)"


def test_a_thief_that_starts_a_log_of_its_own_after_the_theft() -> None:
    """Everything in order, only later: the earliest witnessed commitment wins."""
    later = contender(
        "thief", THIEF, STOLEN, committed=Witnessed(OTHER_LOG, 0, 6000),
        released=Witnessed(OTHER_LOG, 1, 6100),
    )  # fmt: skip
    found, refused = against(later)
    assert (found.winner, refused) == ("owner", "")
    assert found.reason == "the earliest witnessed commitment among the claims that stand"


def test_a_thief_that_committed_early_but_never_released_anything_with_its_mark() -> None:
    early = contender(
        "thief", THIEF, RELEASED, committed=Witnessed(LOG, 1, 10), released=RELEASE_LEAF
    )
    found, refused = against(early)
    assert found.winner == "owner"
    assert refused == "its own logged release does not carry the mark"
    assert found.standings[0].in_release is not None


def test_a_thief_that_shows_another_release_than_the_logged_one() -> None:
    other = contender(
        "thief", THIEF, STOLEN, committed=Witnessed(LOG, 1, 10), released=RELEASE_LEAF,
        stated=b"\1" * 32,
    )  # fmt: skip
    found, refused = against(other)
    assert found.winner == "owner"
    assert refused.startswith("the release shown has tensor hash")


def test_a_thief_without_a_release_or_with_one_in_another_log() -> None:
    bare = contender("thief", THIEF, None, committed=Witnessed(LOG, 1, 10))
    assert against(bare)[1].startswith("it shows no release")
    apart = contender(
        "thief", THIEF, STOLEN, committed=Witnessed(LOG, 1, 10),
        released=Witnessed(OTHER_LOG, 3, 7000),
    )  # fmt: skip
    found, refused = against(apart)
    assert (found.winner, refused) == ("owner", "commitment and release are not in one log")


def test_a_thief_under_somebody_elses_commitment() -> None:
    """It puts its own identity on the owner's leaf; the signature, or the key, gives it away."""
    claim = dataclasses.replace(OWNER.claim, identity=THIEF.identity.public)
    commitment = OWNER.committed.commitment
    signature = THIEF.identity.sign(Label.MARK_SIGNATURE, claim.digest() + commitment)
    for signed in (OWNER.committed.signature, signature):
        taken = CommittedClaim(claim, commitment, signed)
        opening = dataclasses.replace(OWNER.opening(), committed=taken)
        with pytest.raises(ClaimError):
            judge(opening, LowRankSuspect(STOLEN), Trials(6, 1))
        posing = dataclasses.replace(
            HONEST, name="thief", opening=opening, committed=Witnessed(LOG, 1, 10)
        )
        assert against(posing)[0].winner == "owner"


def test_a_claim_over_a_model_that_was_never_marked() -> None:
    found = resolve(LowRankSuspect(host(seed=50)), [HONEST])
    assert found.winner is None
    assert found.standings[0].refused == "the suspect does not carry the mark"


def test_commitments_of_two_logs_at_one_time_decide_nothing() -> None:
    same = contender(
        "thief", THIEF, STOLEN, committed=Witnessed(OTHER_LOG, 0, COMMITTED.time),
        released=Witnessed(OTHER_LOG, 1, 6100),
    )  # fmt: skip
    found, _ = against(same)
    assert found.winner is None
    assert "before all the others" in found.reason


def test_owners_of_one_federation_are_told_to_be_that() -> None:
    both = marked(HOST, [*embed(HOST, OWNER.claim, [OWNER.opening().key]),
                         *embed(HOST, THIEF.claim, [THIEF.opening().key])])  # fmt: skip
    sides = [
        contender(name, side, both, committed=Witnessed(LOG, leaf, 1000), released=RELEASE_LEAF)
        for name, side, leaf in (("b", THIEF, 6), ("a", OWNER, 5))
    ]
    found = resolve(LowRankSuspect(both), sides)
    assert found.winner == "a"
    assert "co-owners" in found.reason
    with pytest.raises(CaseError):
        resolve(LowRankSuspect(both), [])
    with pytest.raises(CaseError):
        resolve(LowRankSuspect(both), [sides[0], sides[0]])


def test_ground_keys_reach_no_threshold() -> None:
    """10,000 keys tried on one copy; tests/soak tries 1,000,000."""
    tried = random_statistics(10_000, seed=3, shape=Shape(modules=1, width=16, rank=2))
    assert 3 < tried.max() < Trials(1, 1).threshold < Trials(None, 1).threshold


# ---- leaks


RECIPIENTS = {f"recipient-{i:02}": i for i in range(40)}
EXPORTER = owner(7, size=256, keys=40, purpose="fingerprint")


@dataclass(frozen=True)
class Leak:
    """Copies of these recipients, averaged."""

    recipients: tuple[int, ...]

    def suspect(self) -> LowRankSuspect:
        copies = [
            marked(RELEASED, embed(RELEASED, EXPORTER.claim, [EXPORTER.opening(i).key]))
            for i in self.recipients
        ]
        return LowRankSuspect(
            {
                name: LowRank(np.mean([copy[name].b for copy in copies], axis=0), one.a, one.scale)
                for name, one in RELEASED.items()
            }
        )


@pytest.mark.parametrize("colluding", [(5,), (3, 21)], ids=str)
def test_a_leak_is_traced_to_those_who_leaked(colluding: tuple[int, ...]) -> None:
    found = trace(EXPORTER.committed, EXPORTER.key, RECIPIENTS, Leak(colluding).suspect())
    assert set(found.accused) == {f"recipient-{i:02}" for i in colluding}
    assert [one.index for one in found.recipients[: len(colluding)]] == sorted(
        colluding,
        key=lambda i: -next(o for o in found.recipients if o.index == i).evidence.statistic,
    )
    assert judge(OWNER.opening(), Leak(colluding).suspect(), Trials(6, 1)).present


def test_nobody_is_accused_of_what_nobody_leaked() -> None:
    found = trace(EXPORTER.committed, EXPORTER.key, RECIPIENTS, LowRankSuspect(RELEASED))
    assert (found.accused, found.keys) == ((), 40)
    assert accusation_threshold(40, 1e-3) == pytest.approx(4.604, abs=1e-3)


def test_traces_that_make_no_sense_are_refused() -> None:
    suspect = LowRankSuspect(RELEASED)
    with pytest.raises(CaseError, match="purpose ownership"):
        trace(OWNER.committed, OWNER.key, {"a": 0}, suspect)
    with pytest.raises(CaseError, match="at most once"):
        trace(EXPORTER.committed, EXPORTER.key, {"a": 0, "b": 0}, suspect)
    with pytest.raises(CaseError, match=r"alpha 0\.5"):
        trace(EXPORTER.committed, EXPORTER.key, {"a": 0}, suspect, 0.5)
    with pytest.raises(ClaimError, match="not the key of this claim"):
        trace(EXPORTER.committed, OWNER.key, {"a": 0}, suspect)
    with pytest.raises(ClaimError, match="no sub-key 40"):
        trace(EXPORTER.committed, EXPORTER.key, {"a": 40}, suspect)
