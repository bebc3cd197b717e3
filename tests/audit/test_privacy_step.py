"""Step 6 on whole bundles: honest ones, and every fault named at its leaf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.messages import MAX_CHARGE_BYTES, UploadHash
from fedfm_audit.privacy.accountant import Tally
from fedfm_audit.privacy.budget import Budget
from fedfm_audit.privacy.entries import Adversary, BudgetLeft, PrivacyPredicate, figure_value
from fedfm_audit.privacy.events import (
    AbortedRound,
    ClearRelease,
    CompletedRound,
    GaussianSteps,
    HyperparameterTrials,
    SkellamSteps,
    event_to_json,
)
from fedfm_audit.report import Report, Status
from fedfm_audit.statements import PAYLOAD_TYPE, privacy_statement, sign_statement
from fedfm_audit.verify import verify_files
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.dsse import dsse_sign
from tests.audit.played_round import ABORTED, DROPOUT, Message, Script, change_body
from tests.audit.privacy_ledgers import (
    CLIENT,
    EVENT,
    HASH,
    LOCAL,
    SHARED,
    PrivateFederation,
    leaf_digest,
)
from tests.audit.synthetic import Federation

VICTIM = "client-03"


def verified(files: dict[str, bytes], **options: Any) -> Report:
    return verify_files(files, name="bundle", **options)


def reasons(report: Report, number: int = 6) -> str:
    step = report.step(number)
    assert step.status is Status.FAILED, report.to_text()
    return "\n".join(f"{failure.place}: {failure.reason}" for failure in step.failures)


@pytest.fixture(scope="module")
def local() -> PrivateFederation:
    """Two rounds in mode local, settled and concluded; treat as read-only."""
    played = PrivateFederation(LOCAL)
    played.play()
    played.settle()
    played.play()
    played.settle()
    played.federation.conclude()
    return played


# ---- honest


def test_an_honest_ledger_is_verified(local: PrivateFederation) -> None:
    report = verified(local.files())
    assert report.ok, report.to_text()
    step = report.step(6)
    assert step.status is Status.VERIFIED
    assert "20 entries of 5 institutions recomputed by RDP" in step.detail
    assert "epsilon 1.286 of 2 at delta 1e-05" in step.detail
    assert "claimed, not shown" in step.detail


@pytest.fixture(scope="module")
def with_figures() -> PrivateFederation:
    """Two rounds whose entries state figures by PLD; treat as read-only."""
    played = PrivateFederation(LOCAL, pld=True)
    played.play()
    played.play()
    return played


def understated(played: PrivateFederation, position: int) -> tuple[int, list[bytes]]:
    """The leaf of an entry of VICTIM, and the leaves with a smaller PLD figure in it."""
    index = played.indices(VICTIM)[position]

    def lower(entry: PrivacyPredicate) -> PrivacyPredicate:
        stated = replace(entry.cumulative, epsilon_pld=0.5)
        return replace(entry, cumulative=stated, budget=replace(entry.budget, left=1.5))

    leaves = list(played.federation.leaves)
    leaves[index] = played.alter(index, lower)
    return index, leaves


def test_full_recomputes_every_loss_distribution(with_figures: PrivateFederation) -> None:
    report = verified(with_figures.files(), full=True)
    assert report.step(6).status is Status.VERIFIED, report.to_text()
    assert "recomputed by RDP and PLD; most" in report.step(6).detail
    index, leaves = understated(with_figures, 0)
    found = reasons(verified(with_figures.files(leaves), full=True))
    assert f"leaf {index} (entry 0 of {VICTIM}): understates epsilon by PLD: 0.5" in found


def test_without_full_the_last_entries_of_who_spent_most_are_recomputed(
    with_figures: PrivateFederation,
) -> None:
    report = verified(with_figures.files())
    assert report.step(6).status is Status.VERIFIED, report.to_text()
    assert "RDP, 5 of 10 figures stated by PLD too (all with --full)" in report.step(6).detail
    _, leaves = understated(with_figures, 0)
    assert "understates epsilon by PLD" not in reasons(verified(with_figures.files(leaves)))
    index, leaves = understated(with_figures, 1)
    found = reasons(verified(with_figures.files(leaves)))
    assert f"leaf {index} (entry 1 of {VICTIM}): understates epsilon by PLD: 0.5" in found


def test_a_budget_between_the_two_bounds_is_judged_by_loss_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two rounds cost 1.286 by RDP and 1.104 by PLD: 1.2 is enough, and one distribution shows
    it for both entries; 1.05 is not, and the entry that goes beyond it is named."""
    asked: list[int] = []
    whole = Tally.pld

    def counted(self: Tally, delta: float) -> float | None:
        asked.append(sum(count for _, count in self.groups))
        return whole(self, delta)

    monkeypatch.setattr(Tally, "pld", counted)
    for budget, fits in ((1.2, True), (1.05, False)):
        lowered = _with_budget(budget)
        asked.clear()
        report = verified(lowered)
        assert (report.step(6).status is Status.VERIFIED) == fits, report.to_text()
        if fits:
            assert set(asked) == {40}
            assert "most spent is epsilon 1.10" in report.step(6).detail
        else:
            found = reasons(report)
            assert found.count("exceeds the budget") == 5
            assert f"entry 1 of {VICTIM}): exceeds the budget: epsilon 1.10385" in found


def _with_budget(epsilon: float) -> dict[str, bytes]:
    """A bundle of two rounds under this budget, charged whether they fit or not."""
    again = PrivateFederation({**LOCAL, "epsilon": epsilon})
    for ledger in again.ledgers.values():
        roomy = replace(ledger.state.terms, budget=Budget(9.0, ledger.state.terms.budget.delta))
        ledger.state = replace(ledger.state, terms=roomy)
    for _ in range(2):
        again.play()
    links: dict[str, str] = {}
    for index, leaf in enumerate(again.federation.leaves):
        entry = again.entry(index, leaf)
        if not isinstance(entry, PrivacyPredicate):
            continue
        stated = figure_value(entry.cumulative.epsilon_rdp)
        left = BudgetLeft(epsilon, entry.budget.delta, max(0.0, epsilon - stated))
        changed = replace(entry, budget=left, previous=links.get(entry.institution, entry.previous))
        made = sign_statement(privacy_statement(changed), again.federation.keys[entry.institution])
        again.federation.leaves[index] = made
        links[entry.institution] = leaf_digest(made)
    return again.files()


def test_without_a_privacy_mode_it_is_not_checkable(bundle: dict[str, bytes]) -> None:
    step = verified(bundle).step(6)
    assert step.status is Status.NOT_CHECKABLE
    assert "privacy mode is none" in step.detail


def test_aborted_rounds_and_dropouts() -> None:
    played = PrivateFederation(LOCAL)
    played.play(ABORTED)
    for ledger in played.ledgers.values():
        charge = ledger.state.open_charges[0].sequence
        played.federation.leaves.append(
            ledger.settle(AbortedRound(charge=charge, reason="the round was aborted"))
        )
    played.play(DROPOUT)
    played.settle(accepted=4)
    report = verified(played.files())
    assert report.ok, report.to_text()


def test_a_client_that_never_committed_needs_no_charge() -> None:
    played = PrivateFederation(LOCAL)
    played.play(Script(silent={"client-05": "UploadHash"}), silent=["client-05"])
    assert verified(played.files()).ok


def test_a_second_charge_for_a_round_counts_too() -> None:
    """What a client does that crashed while it trained."""
    played = PrivateFederation(LOCAL)
    played.federation.leaves.append(played.ledgers[VICTIM].reserve(1, EVENT))
    played.play()
    report = verified(played.files())
    assert report.ok, report.to_text()
    assert f"1.286 of 2 at delta 1e-05 ({VICTIM})" in report.step(6).detail


def test_trials_outside_rounds() -> None:
    played = PrivateFederation(LOCAL)
    trials = HyperparameterTrials(trials=2, event=EVENT)
    played.federation.leaves.append(played.ledgers[VICTIM].reserve(0, trials))
    played.play()
    report = verified(played.files())
    assert report.ok, report.to_text()
    assert f"1.507 of 2 at delta 1e-05 ({VICTIM})" in report.step(6).detail


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_noise_shared_by_the_honest(mechanism: str) -> None:
    played = PrivateFederation({**CLIENT, "mechanism": mechanism})
    if mechanism == "skellam":
        fields = {name: value for name, value in event_to_json(SHARED).items() if name != "type"}
        played.event = SkellamSteps(**fields)
    played.play()
    played.settle()
    played.play(DROPOUT)
    played.settle(accepted=4)
    report = verified(played.files())
    assert report.ok, report.to_text()
    assert report.step(6).status is Status.VERIFIED


# ---- faults in the log


def without(leaves: list[bytes], index: int) -> list[bytes]:
    return leaves[:index] + leaves[index + 1 :]


def test_a_removed_entry_is_named(local: PrivateFederation) -> None:
    first, second, *_ = local.indices(VICTIM)
    found = reasons(verified(local.files(without(local.federation.leaves, second))))
    assert f"(entry 2 of {VICTIM}): has sequence 2; the log holds no entry 1 before it" in found
    found = reasons(verified(local.files(without(local.federation.leaves, first))))
    assert f"{VICTIM} committed to an update in round 1 without a charge" in found


def test_a_removed_last_charge_is_missed_by_its_round() -> None:
    played = PrivateFederation(LOCAL)
    played.play()
    (index,) = played.indices(VICTIM)
    found = reasons(verified(played.files(without(played.federation.leaves, index))))
    assert f"{VICTIM} committed to an update in round 1 without a charge" in found


def test_reordered_entries_are_named(local: PrivateFederation) -> None:
    first, second, *_ = local.indices(VICTIM)
    leaves = list(local.federation.leaves)
    leaves[first], leaves[second] = leaves[second], leaves[first]
    found = reasons(verified(local.files(leaves)))
    assert f"leaf {first} (entry 1 of {VICTIM}): has sequence 1; the log holds no entry 0" in found
    assert f"leaf {second} (entry 0 of {VICTIM}): has sequence 0 after 1: out of order" in found


def test_a_duplicated_entry_is_named(local: PrivateFederation) -> None:
    first, second, *_ = local.indices(VICTIM)
    leaves = list(local.federation.leaves)
    leaves.insert(second, leaves[first])
    found = reasons(verified(local.files(leaves)))
    assert f"leaf {second} (entry 0 of {VICTIM}): is entry 0 a second time" in found


def test_an_altered_entry_is_named(local: PrivateFederation) -> None:
    """A flipped byte fails the signature; a new signature by the institution breaks the chain."""
    first, second, *_ = local.indices(VICTIM)
    leaves = list(local.federation.leaves)
    leaves[first] = leaves[first].replace(b'"payload":"e', b'"payload":"f', 1)
    assert f"leaf {first}: " in reasons(verified(local.files(leaves)), 3)
    leaves[first] = local.alter(first, lambda entry: replace(entry, generator="another"))
    found = reasons(verified(local.files(leaves)))
    assert f"leaf {second} (entry 1 of {VICTIM}): follows a leaf with SHA-256" in found
    assert "one of the two was altered" in found


def test_an_entry_of_another_institution_is_named(local: PrivateFederation) -> None:
    """Neither another institution nor the coordinator can spend somebody's budget."""
    first = local.indices(VICTIM)[0]
    for signer in ("client-01", "coordinator"):
        leaves = list(local.federation.leaves)
        leaves[first] = local.alter(first, lambda entry: entry, signer)
        found = reasons(verified(local.files(leaves)), 3)
        assert f"leaf {first}: is a ledger entry of {VICTIM} under another key" in found
    leaves[first] = local.alter(
        first, lambda entry: replace(entry, institution="coordinator"), "coordinator"
    )
    found = reasons(verified(local.files(leaves)), 3)
    assert f"leaf {first}: is a ledger entry of 'coordinator', who is no client" in found


def test_an_entry_for_another_federation_is_named(local: PrivateFederation) -> None:
    first = local.indices(VICTIM)[0]
    leaves = list(local.federation.leaves)
    leaves[first] = local.alter(
        first, lambda entry: replace(entry, federation="elsewhere", charter=HASH)
    )
    report = verified(local.files(leaves))
    assert f"leaf {first} (entry 0 of {VICTIM}): is of federation 'elsewhere'" in reasons(report)
    assert f"leaf {first}: names charter" in reasons(report, 4)


def test_an_unknown_event_is_named(local: PrivateFederation) -> None:
    first = local.indices(VICTIM)[0]
    entry = local.entry(first)
    assert isinstance(entry, PrivacyPredicate)
    document = canonical_decode(privacy_statement(entry).encode())
    assert isinstance(document, dict)
    document["predicate"]["event"] = {"type": "laplace", "noise_multiplier": 9.0}
    key = local.federation.keys[VICTIM]
    leaves = list(local.federation.leaves)
    leaves[first] = dsse_sign(canonical_encode(document), PAYLOAD_TYPE, [(key.public.hex, key)])
    found = reasons(verified(local.files(leaves)), 3)
    assert f"leaf {first}: schema privacy-v1, predicate.event.type: 'laplace'" in found


def test_entries_under_privacy_mode_none_are_refused() -> None:
    played = PrivateFederation(LOCAL)
    plain = Federation()
    ledger = played.ledgers[VICTIM]
    ledger.state = replace(
        ledger.state, terms=replace(ledger.state.terms, charter=plain.charter_hash.hex())
    )
    plain.leaves.append(ledger.reserve(1, EVENT))
    found = reasons(verified(plain.files()))
    assert "is a ledger entry; the charter's privacy mode is none" in found


def test_a_charge_after_its_round_is_none(local: PrivateFederation) -> None:
    played = PrivateFederation(LOCAL)
    played.play(silent=[VICTIM])
    played.federation.leaves.append(played.ledgers[VICTIM].reserve(1, EVENT))
    found = reasons(verified(played.files()))
    assert f"{VICTIM} committed to an update in round 1 without a charge" in found


def test_an_entry_after_the_conclusion_is_refused() -> None:
    played = PrivateFederation(LOCAL)
    played.play()
    played.federation.conclude()
    played.federation.leaves.append(played.ledgers[VICTIM].reserve(2, EVENT))
    assert "after urn:secure-fedfm:conclusion:v1" in reasons(verified(played.files()), 4)


# ---- lies of an institution under its own key


def figures(**changes: Any) -> Callable[[PrivacyPredicate], PrivacyPredicate]:
    return lambda entry: replace(entry, cumulative=replace(entry.cumulative, **changes))


def event(**changes: Any) -> Callable[[PrivacyPredicate], PrivacyPredicate]:
    def change(entry: PrivacyPredicate) -> PrivacyPredicate:
        assert isinstance(entry.event, GaussianSteps)
        return replace(entry, event=replace(entry.event, **changes))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (figures(epsilon_rdp=0.5), "understates epsilon by RDP: 0.5, its events give 1.0"),
        (figures(epsilon_rdp=1.5), "overstates epsilon by RDP: 1.5"),
        (figures(epsilon_rdp="infinity"), "overstates epsilon by RDP: infinity"),
        (figures(delta=1e-4), "states epsilon at another delta than its budget"),
        (
            lambda entry: replace(entry, budget=replace(entry.budget, left=1.9)),
            "says 1.9 of the budget is left",
        ),
        (
            lambda entry: replace(entry, budget=replace(entry.budget, epsilon=8.0)),
            "has a budget of epsilon 8 at delta 1e-05; the charter says 2 at 1e-05",
        ),
        (event(noise_multiplier=0.75), "charges a noise multiplier of 0.75; the charter says 1.5"),
        (event(sampling_rate=0.5), "charges a sampling rate of 0.5; the charter says 0.05"),
        (event(steps=1), "charges a number of steps of 1; the charter says 20"),
        (event(clip=2.0), "charges a clip of 2; the charter says 1"),
        (lambda entry: replace(entry, unit="client"), "protects the unit client"),
        (
            lambda entry: replace(entry, adversary=Adversary("sum-observers", 1)),
            "names another adversary",
        ),
        (
            lambda entry: replace(entry, event=ClearRelease(what="rows")),
            "charges clear to round 1; that belongs to none",
        ),
    ],
)
def test_lies_are_named(
    change: Callable[[PrivacyPredicate], PrivacyPredicate], reason: str
) -> None:
    played = PrivateFederation(LOCAL)
    played.play()
    (index,) = played.indices(VICTIM)
    leaves = list(played.federation.leaves)
    leaves[index] = played.alter(index, change)
    assert f"leaf {index} (entry 0 of {VICTIM}): {reason}" in reasons(
        verified(played.files(leaves))
    )


def test_a_budget_exceeded_is_named_once() -> None:
    """An institution without a filter: the verifier finds the first charge over the budget."""
    played = PrivateFederation(LOCAL)
    ledger = played.ledgers[VICTIM]
    generous = replace(ledger.state.terms.budget, epsilon=50.0)
    real = ledger.state.terms.budget
    for number in range(1, 9):
        ledger.state = replace(ledger.state, terms=replace(ledger.state.terms, budget=generous))
        leaf = ledger.reserve(number, EVENT)
        played.federation.leaves.append(leaf)
    entries = played.indices(VICTIM)
    previous = "0" * 64
    for index in entries:

        def honest_budget(entry: PrivacyPredicate, previous: str = previous) -> PrivacyPredicate:
            spent = float(entry.cumulative.epsilon_rdp)
            left = max(0.0, real.epsilon - spent)
            return replace(
                entry,
                previous=previous,
                budget=replace(entry.budget, epsilon=real.epsilon, left=left),
            )

        played.federation.leaves[index] = played.alter(index, honest_budget)
        previous = leaf_digest(played.federation.leaves[index])
    found = reasons(verified(played.files()))
    assert found.count("exceeds the budget") == 1
    # PLD decides: by RDP the sixth charge is over 2 already (2.042), by PLD a later one is.
    assert f"leaf {entries[5]} " not in found
    assert "allowed is 2" in found


def test_counting_on_more_honest_shares_than_the_limits_leave() -> None:
    played = PrivateFederation(CLIENT)
    played.event = replace(SHARED, honest_shares=4, share_variance=SHARED.variance / 4)
    played.play()
    found = reasons(verified(played.files()))
    assert "counts on 4 honest shares of noise; the charter's limits leave 3" in found


def test_counting_on_more_shares_than_were_accepted() -> None:
    played = PrivateFederation(CLIENT)
    played.event = replace(SHARED, honest_shares=4, share_variance=SHARED.variance / 4)
    played.play(DROPOUT)
    found = reasons(verified(played.files()))
    assert "counts on 4 honest shares of noise; 4 updates were accepted, so 3 may be" in found


def test_other_noise_and_fewer_coordinates_than_agreed() -> None:
    played = PrivateFederation({**CLIENT, "mechanism": "skellam"})
    played.event = replace(SHARED, dimension=32)
    played.play()
    found = reasons(verified(played.files()))
    assert "charges discrete-gaussian noise; the charter says skellam" in found
    assert "is of 32 coordinates; an update has 64" in found


def test_settlements_must_fit_their_round() -> None:
    played = PrivateFederation(LOCAL)
    played.play(ABORTED)
    ledger = played.ledgers[VICTIM]
    said = CompletedRound(charge=0, accepted=5, aggregate=HASH)
    played.federation.leaves.append(ledger.settle(said))
    assert "says round 1 gave a result; it was aborted" in reasons(verified(played.files()))
    played = PrivateFederation(LOCAL)
    played.play(DROPOUT)
    played.federation.leaves.append(played.ledgers[VICTIM].settle(said))
    found = reasons(verified(played.files()))
    assert "says 5 updates were accepted in round 1; the cohort has 4" in found


def test_a_charge_is_settled_once_and_by_its_own_ledger() -> None:
    played = PrivateFederation(LOCAL)
    played.play()
    played.settle()
    _, settled = played.indices(VICTIM)
    entry = played.entry(settled)
    assert isinstance(entry, PrivacyPredicate)
    key = played.federation.keys[VICTIM]
    digest = leaf_digest(played.federation.leaves[settled])
    for charge, reason in ((0, "which is settled already"), (5, "which this ledger does not hold")):
        again = replace(
            entry,
            sequence=2,
            previous=digest,
            event=CompletedRound(charge=charge, accepted=5, aggregate=HASH),
        )
        leaf = sign_statement(privacy_statement(again), key)
        found = reasons(verified(played.files([*played.federation.leaves, leaf])))
        assert f"(entry 2 of {VICTIM}): settles charge {charge}, {reason}" in found


def test_the_coordinator_logs_what_came_with_an_upload_hash() -> None:
    """An entry that a client sent, but that the log holds later or never, is the coordinator's
    fault and is named at the round."""
    played = PrivateFederation(LOCAL)
    ledger = played.ledgers[VICTIM]
    first, second = ledger.reserve(1, EVENT), ledger.reserve(1, EVENT)

    def carry(message: Message) -> bytes:
        return encode(replace(decode(UploadHash, message.body), charges=(first, second)))

    script = Script(change=change_body("UploadHash", carry, VICTIM))
    for held, late in (((first, second), ()), ((first,), ()), ((first,), (second,))):
        federation = PrivateFederation(LOCAL)
        for name, other in federation.ledgers.items():
            if name != VICTIM:
                federation.federation.leaves.append(other.reserve(1, EVENT))
        federation.federation.leaves += held
        federation.federation.play(script)
        federation.federation.leaves += late
        report = verified(federation.files())
        if held == (first, second):
            assert report.ok, report.to_text()
        else:
            assert (
                "leaf 12 (transcripts/000001.json): the log lacks a ledger entry before it that "
                f"{VICTIM} sent with its UploadHash"
            ) in reasons(report)


def test_an_entry_fits_an_upload_hash() -> None:
    """The largest entries that real ledgers hold stay below what a message carries."""
    played = PrivateFederation(CLIENT, pld=True)
    worst = HyperparameterTrials(trials=20, event=replace(SHARED, distance=1.2345678901234567e-30))
    ledger = played.ledgers[VICTIM]
    ledger.state = replace(
        ledger.state,
        terms=replace(
            ledger.state.terms,
            released="x" * 200,
            generator="x" * 64,
            budget=replace(ledger.state.terms.budget, epsilon=1e30),
        ),
    )
    assert len(ledger.reserve(999_999, worst)) <= MAX_CHARGE_BYTES
