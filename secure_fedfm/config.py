"""Configuration of one site: flag > environment > site.toml > default.

Environment variables are the upper-case key with the prefix ``SECURE_FEDFM_`` (for example
``SECURE_FEDFM_BIND``); tables use two underscores (``SECURE_FEDFM_TIMEOUTS__TRAINING``).
Unknown keys are refused: a misspelt limit must not be silently ignored.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fedfm_protocols.policy import SitePolicy
from fedfm_protocols.privacy import PrivacyMode
from secure_fedfm.errors import ConfigurationError

PREFIX = "SECURE_FEDFM_"
# Variables with the prefix that are not configuration keys of a site.
OTHER_VARIABLES = frozenset({"SECURE_FEDFM_KEY_PASSPHRASE", "SECURE_FEDFM_SHARED"})


# Every mode there is: a policy that knows nothing of privacy must not refuse more of it.
PRIVACY_MODES = tuple(
    str(get_args(mode.model_fields["mode"].annotation)[0]) for mode in get_args(PrivacyMode)
)

Seconds = Annotated[float, Field(gt=0)]


def _listed(value: object) -> object:
    """Environment variables and flags give a list as one text with commas."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicySection(_Section):
    """What this site insists on; see ``fedfm_protocols.policy.SitePolicy``."""

    suites: Names = ("layered",)
    min_clients: int = 3
    min_colluding: int = 1
    min_accepted: int = 3
    max_rounds: int = 1000
    privacy_modes: Names = PRIVACY_MODES
    model_sha256: str = ""
    charter_hash: str = ""

    def site_policy(self) -> SitePolicy:
        """The policy as the protocol layer reads it."""
        return SitePolicy(**self.model_dump())


class Timeouts(_Section):
    """Seconds the coordinator waits in each phase before it goes on with those who answered.

    ``connect`` is for everybody's first connection, ``rejoin`` for clients that are missing when
    a later round is about to begin: as long as a restart takes to load the model.
    """

    connect: Seconds = 120.0
    rejoin: Seconds = 30.0
    offers: Seconds = 30.0
    key_shares: Seconds = 60.0
    key_acknowledgements: Seconds = 60.0
    nonces: Seconds = 30.0
    shares: Seconds = 30.0
    training: Seconds = 3600.0
    uploads: Seconds = 300.0
    votes: Seconds = 30.0
    sketches: Seconds = 120.0
    scores: Seconds = 600.0
    verdict: Seconds = 300.0
    unmasking: Seconds = 60.0
    sum_sketches: Seconds = 60.0
    binding: Seconds = 60.0
    decryption: Seconds = 60.0
    acknowledgements: Seconds = 120.0
    cosignatures: Seconds = 15.0

    def of_phase(self, phase: str) -> float:
        """Seconds for a phase as ``coordinator_states.phase_of`` names it."""
        return float(getattr(self, phase.removeprefix("second_")))


class ArchiveSection(_Section):
    """Whether the coordinator keeps what repeats every sum, and of how many rounds.

    ``keep_rounds`` 0 keeps all; else only the latest so many rounds that published a sum.
    """

    enabled: bool = False
    keep_rounds: Annotated[int, Field(ge=0)] = 0


class TimestampSection(_Section):
    """Who stamps the final checkpoint with the time (RFC 3161), if anybody: an http or https URL,
    and the PEM certificates that its answer must verify under."""

    url: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$")] = ""
    root: Path | None = None


class SiteConfig(_Section):
    """Everything a service reads from site.toml, the environment and its flags.

    Clients need ``coordinator`` (tcp://HOST:PORT), ``data`` and a charter; a validator needs
    ``coordinator`` and a charter; the coordinator needs ``bind``.  ``allow_remote`` must be set
    before anything but loopback is bound.
    """

    role: Literal["client", "coordinator", "validator"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    bind: str = "tcp://127.0.0.1:7401"
    allow_remote: bool = False
    coordinator: str = "tcp://127.0.0.1:7401"
    data: Path | None = None
    text_column: str | None = None
    label_column: str | None = None
    model: Path | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    mark_triggers: bool = False
    connect_timeout: Seconds = 60.0
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    policy: PolicySection = PolicySection()
    timeouts: Timeouts = Timeouts()
    archive: ArchiveSection = ArchiveSection()
    timestamp: TimestampSection = TimestampSection()

    @model_validator(mode="after")
    def _complete(self) -> SiteConfig:
        if self.role == "client" and self.data is None:
            raise ValueError(
                "a client needs `data`: a CSV, JSONL or Parquet file, a folder, or a data set"
            )
        return self


def _known_keys(place: tuple[int | str, ...]) -> str:
    """The keys that may stand where an unknown one was found."""
    section: type[BaseModel] = SiteConfig
    for step in place[:-1]:
        annotation = section.model_fields[str(step)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        section = annotation
    return ", ".join(sorted(section.model_fields))


def _readable(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, item["loc"])) or "configuration"
        if item["type"] == "extra_forbidden":
            parts.append(f"{place}: no such key; known are {_known_keys(item['loc'])}")
        else:
            parts.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        *tables, key = variable.removeprefix(PREFIX).lower().split("__")
        place = fields
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = value
    return fields


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(known, Mapping)
        merged[key] = _merge(known, value) if both else value  # type: ignore[arg-type]
    return merged


def read_config(
    file: Path | None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> SiteConfig:
    """Read and check the configuration of a site.

    ``flags`` are values given on the command line (None means not given).

    Raises
    ------
    ConfigurationError
        naming the file, each wrong key, and what was expected.
    """
    fields: dict[str, Any] = {}
    where = "environment and command line"
    if file is not None:
        where = f"{file}, environment and command line"
        try:
            fields = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigurationError(
                f"no configuration at {file}; `secure-fedfm keygen` writes one"
            ) from None
        except (ValueError, RecursionError) as error:  # also numbers and nestings without end
            raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
        for key in ("data", "model"):  # beside site.toml, if there is such a file or folder
            if isinstance(fields.get(key), str) and (file.parent / fields[key]).exists():
                fields[key] = str(file.parent / fields[key])
    fields = _merge(fields, _from_environment(os.environ if environment is None else environment))
    fields = _merge(fields, {k: v for k, v in (flags or {}).items() if v is not None})
    try:
        return SiteConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigurationError(f"{where}: {_readable(error)}") from error
