"""An auditor's install has no torch and no transport: proven in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    *("torch", "transformers", "peft", "opacus"),
    *("zmq", "pyarrow", "datasets", "huggingface_hub"),
]

# Absent packages raise ModuleNotFoundError, as they do where an extra was not installed.
_SCRIPT = f"""
import sys
HEAVY = {HEAVY!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from secure_fedfm.cli.main import main
code = main(sys.argv[1:])
assert not set(HEAVY) & {{name.partition('.')[0] for name in sys.modules}}
sys.exit(code)
"""


def run_without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "verb",
    [[], ["audit"], ["audit", "verify"], ["audit", "inclusion"], ["audit", "privacy"], ["client"]],
    ids=str,
)
def test_help_needs_no_extra(verb: list[str]) -> None:
    ran = run_without_extras(*verb, "-h")
    assert ran.returncode == 0, ran.stderr


def test_audit_verify_needs_no_extra(tmp_path: Path) -> None:
    (tmp_path / "charter.json").write_text("{}")
    ran = run_without_extras("audit", "verify", str(tmp_path), "--json")
    assert ran.returncode == 1, ran.stderr
    assert json.loads(ran.stdout)["verdict"] == "failed"


def test_audit_documents_need_no_extra(tmp_path: Path) -> None:
    bundle, page = tmp_path / "bundle", tmp_path / "bundle-report.html"
    bundle.mkdir()
    (bundle / "charter.json").write_text("{}")
    assert run_without_extras("audit", "report", str(bundle)).returncode == 1
    assert "<h1>FAILED</h1>" in page.read_text()
    ran = run_without_extras("audit", "diff", str(bundle), str(bundle), "--json")
    assert (ran.returncode, json.loads(ran.stdout)["relation"]) == (1, "incomparable")


def test_doctor_needs_no_extra() -> None:
    ran = run_without_extras("doctor", "--json")
    assert json.loads(ran.stdout)["role"] == "auditor"


def test_what_needs_an_extra_names_it(tmp_path: Path) -> None:
    ran = run_without_extras("evaluate", "--adapter", str(tmp_path), "--data", "x.csv")
    assert ran.returncode == 3
    assert ran.stderr.splitlines() == [
        "error: this needs the package torch, which is not installed: run "
        'pip install "secure-fedfm[federation]"'
    ]
