"""The charter that a scenario describes, and what its clients upload."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_protocols.federation import Federation
from fedfm_protocols.privacy import SharedNoisePrivacy
from fedfm_protocols.scenario.federations import (
    Keys,
    make_federation,
    robust_fields,
    watermark_section,
)
from fedfm_protocols.scenario.form import Scenario


def charter_of(scenario: Scenario, keys: Keys, **changes: Any) -> Federation:
    """The federation that a scenario describes; ``changes`` replace fields of the charter."""
    form = scenario.federation
    fields: dict[str, Any] = {
        "federation": form.name,
        "suite": form.suite,
        "rounds": form.rounds,
        "limits": {"colluding": form.colluding, "dropouts": form.dropouts},
        "quantiser": {
            "values": form.values,
            "clip": form.clip,
            "scale": form.scale,
            "lane_bits": form.lane_bits,
        },
    }
    if form.robust:
        rule = {} if form.key_rounds is None else {"key_rounds": form.key_rounds}
        fields = {**robust_fields(keys, **rule), **fields}
    if form.marks:
        fields["watermark"] = watermark_section(
            form.marks,
            norm_bound=form.clip * float(np.sqrt(form.values)),
            clip=form.clip,
            scale=form.scale if form.marks_scale is None else form.marks_scale,
        )
    federation = make_federation(keys, **{**fields, **changes})
    return federation if form.session == 1 else session_of(federation, form.session)


def session_of(federation: Federation, steps: int) -> Federation:
    """The federation with rounds of ``steps`` steps, in any suite and without noise: every opened
    sum is known to the last integer.  (A charter that is read has such rounds in mode
    ``shared-noise`` only, and with noise.)"""
    charter = federation.charter.model_copy(
        update={
            "privacy": SharedNoisePrivacy(
                mode="shared-noise",
                epsilon=1.0,
                delta=1e-5,
                noise_multiplier=1.0,
                sampling_rate=0.1,
                steps_per_round=steps,
                clip=1.0,
                mechanism="discrete-gaussian",
                honest_shares=1,
                batch=1.0,
            )
        }
    )
    return replace(Federation.of(charter), encoding=federation.encoding)


def update_of(
    scenario: Scenario, federation: Federation, name: str, number: int, step: int
) -> NDArray[np.floating]:
    """A client's update in a step of round ``number``: seeded multiples of the quantiser's step, at
    most the clip in magnitude, unless the scenario says otherwise."""
    form, section = scenario.updates, federation.charter.quantiser
    if name in form.vectors:
        return np.array(form.vectors[name], np.float64)
    kind = form.kinds.get(name, form.kind)
    if kind != "random":
        return np.full(section.values, section.clip if kind == "bound" else 0.0)
    bound = int(section.scale * section.clip)
    later = (step,) if step else ()
    seed = np.random.SeedSequence([scenario.seed, number, *later, *name.encode()])
    drawn = np.random.default_rng(seed).integers(-bound, bound, section.values, endpoint=True)
    return drawn / np.float64(section.scale)
