"""What a site keeps of verdicts for its own people."""

from __future__ import annotations

from pathlib import Path

import pytest

from secure_fedfm.errors import StorageError
from secure_fedfm.services.verdicts import (
    VERDICTS_FILE,
    SeenVerdict,
    VerdictFile,
    read_verdicts,
    removed_for_people,
)

OUT = removed_for_people((("clinic-2", "norm"), ("clinic-4", "home-made")))


def test_verdicts_are_kept_in_order_and_once(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path)
    assert file.last == ""
    first, second = SeenVerdict(3, 0, "removed", OUT), SeenVerdict(4, 0, "accepted", ())
    for seen in (first, first, second, first):
        file.add(seen)
    assert read_verdicts(tmp_path) == (first, second)
    assert (tmp_path / VERDICTS_FILE).stat().st_mode & 0o077 == 0
    assert VerdictFile(tmp_path).last == "round 4: accepted"
    assert first.to_text() == "round 3: removed; removed: clinic-2 (norm), clinic-4 (home-made)"
    assert SeenVerdict(5, 0, "", OUT).to_text().startswith("round 5: removed clinic-2 (norm)")
    assert OUT[0].reason == "its update is much longer than the others'"
    assert OUT[1].reason == "the rule's own"


def test_a_line_that_a_crash_cut_off_is_left_out_and_others_are_refused(tmp_path: Path) -> None:
    VerdictFile(tmp_path).add(SeenVerdict(1, 0, "accepted", ()))
    path = tmp_path / VERDICTS_FILE
    whole = path.read_text("utf-8")
    path.write_text(whole + '{"round": 2, "st')
    assert len(read_verdicts(tmp_path)) == 1
    path.write_text('{"round": 2}\n' + whole)
    with pytest.raises(StorageError, match="line 1, is no verdict"):
        read_verdicts(tmp_path)
