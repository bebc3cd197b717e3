"""Ownership marks in the demo: every institution commits to one before round 1, the first keeps the
consortium's; afterwards all show theirs, so that an auditor can measure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedfm_audit.report import MarkSummary
from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.commitment import MarkKey
from fedfm_crypto.random_source import system_random
from fedfm_protocols.charter import Charter
from fedfm_protocols.federation import Federation
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.owned import (
    leaf_path,
    load_marks,
    read_commitments,
    read_leaf,
    save_mark,
)
from secure_fedfm.watermark.planning import MarkPlan, plan_marks


@dataclass(frozen=True, slots=True)
class DemoMarks:
    """Makes every institution's commitment, once it is known what the adapter can carry."""

    sites: dict[str, Site]
    clients: Sequence[str]
    federation: str
    base_model: str
    private: bool = False

    def __call__(self, modules: tuple[TargetModule, ...]) -> Sequence[bytes]:
        """The leaves of all marks that fit."""
        plan = plan_marks(modules, len(self.clients), private=self.private)
        made = []
        if plan.consortium:
            keeper = self.clients[0]
            made.append(self._one(keeper, "consortium", modules, plan))
        if plan.own:
            made += [self._one(name, "own", modules, plan) for name in self.clients]
        return made

    def _one(
        self, name: str, mark: str, modules: tuple[TargetModule, ...], plan: MarkPlan
    ) -> bytes:
        site = self.sites[name]
        identity = site.identity()
        claim = Claim(
            purpose="ownership",
            federation=self.federation,
            identity=identity.public,
            base_model=self.base_model,
            modules=modules,
            size=plan.consortium if mark == "consortium" else plan.own,
            strength=plan.strength,
            keys=1,
        )
        key = MarkKey.generate(system_random)
        return save_mark(site, name, mark, key.commit(claim, identity), key).read_bytes()


def collect_leaves(charter: Charter, sites: dict[str, Site], coordinator: Site) -> None:
    """Hand the coordinator what it logs before round 1, as owners do with their files."""
    section = charter.watermark
    for owner in () if section is None else section.owners:
        leaf = leaf_path(sites[owner.client], owner.client, owner.mark).read_bytes()
        path = leaf_path(coordinator, owner.client, owner.mark)
        path.parent.mkdir(parents=True, exist_ok=True)
        coordinator.write(path, leaf)


def openings(charter: Charter, sites: dict[str, Site]) -> tuple[bytes, ...]:
    """Every mark, shown: what owners do in a dispute, and never all of them for a demonstration."""
    federation = Federation.of(charter)
    return tuple(
        mark.key.open(mark.committed, 0).encode()
        for name in charter.clients
        for mark in load_marks(sites[name], federation, name)
    )


def introduction(charter: Charter, coordinator: Site) -> str:
    """One line about the marks that will be written."""
    if charter.watermark is None:
        return "marks: none (the adapter cannot carry any, or none were asked for)"
    claims = [
        (said.mark, said.committed.claim)
        for said in (
            read_leaf(leaf, list(Federation.of(charter).identities.values()), "a mark")
            for leaf in read_commitments(coordinator, Federation.of(charter))
        )
    ]
    shown = ", ".join(
        f"{mark} {sizes[0].size} directions x {len(sizes)}"
        for mark in ("consortium", "own")
        if (sizes := [claim for kind, claim in claims if kind == mark])
    )
    few = "" if len(claims) > 1 else "; too few for a mark of every institution as well"
    return f"marks: {shown}, in {claims[0][1].capacity} values of B{few}"


def marks_json(summary: MarkSummary | None) -> list[dict[str, Any]]:
    """The marks as the verifier measured them, for metrics.json."""
    marks = () if summary is None else summary.marks
    return [
        {
            "owner": mark.client,
            "mark": mark.mark,
            "directions": mark.size,
            "statistic": None if mark.measured is None else round(mark.measured, 3),
            "owner_says": None if mark.said is None else round(mark.said, 3),
            "threshold": round(mark.threshold, 3),
        }
        for mark in marks
    ]


def marks_text(summary: MarkSummary | None) -> str:
    """One line for the end of the demo."""
    if summary is None:
        return "marks: none"
    shown = ", ".join(
        f"{mark.client} ({mark.mark}) {mark.measured:.1f}"
        for mark in summary.marks
        if mark.measured is not None
    )
    return f"marks measured (T, {summary.marks[0].threshold:.2f} is needed): {shown or 'none'}"
