"""What a layer of the audit found, and what its result is worth."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one layer."""

    check: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer's findings.

    Fields:
        layer: its name. shows: what a pass means. cannot_show: what a pass does not mean.
        findings: in the order of checking. figures: numbers for the machine-readable result.
    """

    layer: str
    shows: str
    cannot_show: str
    findings: tuple[Finding, ...]
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check of the layer passed."""
        return all(finding.passed for finding in self.findings)

    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(finding.check for finding in self.findings if not finding.passed)

    def to_text(self) -> str:
        """For a person."""
        lines = [f"{self.layer}: {'passed' if self.passed else 'FAILED'}"]
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines += [
            f"  {'ok  ' if finding.passed else 'FAIL'}  {finding.check:<{width}}  {finding.found}"
            for finding in self.findings
        ]
        return "\n".join(
            [*lines, f"  shows:        {self.shows}", f"  cannot show:  {self.cannot_show}"]
        )

    def to_json(self) -> dict[str, object]:
        """For a machine; infinite figures as null."""
        return {
            "layer": self.layer,
            "passed": self.passed,
            "findings": [
                {"check": one.check, "passed": one.passed, "found": one.found}
                for one in self.findings
            ],
            "figures": {
                name: value if abs(value) < float("inf") else None
                for name, value in self.figures.items()
            },
            "shows": self.shows,
            "cannot_show": self.cannot_show,
        }
