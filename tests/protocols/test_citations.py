"""Every public class of the protocol says which step or section it implements."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import fedfm_protocols

README = Path(fedfm_protocols.__path__[0]).parent / "README.md"
MODULES = [
    module.name
    for module in pkgutil.iter_modules(fedfm_protocols.__path__, "fedfm_protocols.")
    if not module.ispkg  # the scenario runner implements no step
]


@pytest.mark.parametrize("name", MODULES)
def test_classes_cite_a_step_or_a_section_that_exists(name: str) -> None:
    module = importlib.import_module(name)
    headings = set(re.findall(r"^#+ (.+)$", README.read_text("utf-8"), re.MULTILINE))
    for label, found in vars(module).items():
        if not inspect.isclass(found) or found.__module__ != name or label.startswith("_"):
            continue
        text = inspect.getdoc(found) or ""
        assert re.search(r"[Ss]tep|[Ss]ection|Source", text), f"{name}.{label} cites nothing"
        for section in re.findall(r'README\.md, section "([^"]+)"', text):
            assert section in headings, f"{name}.{label} cites a missing section {section!r}"
