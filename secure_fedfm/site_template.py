"""The site.toml that a new site starts from: every key, what it means and its default."""

from __future__ import annotations

from fedfm_protocols.enrolment import Role

_HEAD = """\
# Configuration of one site of a secure-fedfm federation.
# Precedence: command-line flag > environment (SECURE_FEDFM_<KEY>, tables with two underscores:
# SECURE_FEDFM_TIMEOUTS__TRAINING) > this file > default. Unknown keys are refused.
# `secure-fedfm config check --site DIR` prints what is in force and where each value comes from.

role = "{role}"
name = "{name}"
"""

_CLIENT = """
# Training data: a CSV, TSV, JSONL or Parquet file, a folder with train.* (and test.*), or the name
# of a hub data set. A relative path starts at this file. It is read here and never leaves.
data = "data.csv"
# text_column = "text"        # default: the first usual name that is there
# label_column = "label"

# Where the coordinator listens.
coordinator = "tcp://127.0.0.1:7401"
# connect_timeout = 60.0      # seconds until the client gives up reaching it

# Folder of the base model, where it is not found by the name in the charter.
# model = "/path/to/model"
# threads = 2                 # torch threads; default: all cores
"""

_VALIDATOR = """
# Where the coordinator listens.
coordinator = "tcp://127.0.0.1:7401"
# connect_timeout = 60.0      # seconds until the validator gives up reaching it
"""

_COORDINATOR = """
# Address to listen on. Anything but loopback also needs allow_remote = true.
bind = "tcp://127.0.0.1:7401"
# allow_remote = false
"""

_LOGS = """
# log_format = "text"         # or "json": one object per line
# log_level = "info"          # debug, info, warning, error
"""

_POLICY = """
# What this site insists on, whatever the charter says. It can only be stricter than the charter.
[policy]
# suites = ["layered"]
# min_clients = 3
# min_colluding = 1           # sums stay hidden from so many clients together with the coordinator
# min_accepted = 3            # fewest updates in a sum
# max_rounds = 1000
# privacy_modes = ["local"]   # insist on privacy; default: every mode, "none" included
# model_sha256 = ""           # pin the base model
# charter_hash = ""           # pin the one charter that was agreed on (`secure-fedfm charter show`)
"""

_TIMEOUTS = """
# Seconds to wait in each phase before going on with those who answered.
[timeouts]
# connect = 120.0            # everybody's first connection
# rejoin = 30.0              # clients that are missing when a later round begins
# offers = 30.0
# key_shares = 60.0          # suites with encryption
# key_acknowledgements = 60.0
# nonces = 30.0              # rosters above 64 only
# shares = 30.0
# training = 3600.0
# uploads = 300.0
# votes = 30.0
# sketches = 120.0           # with a validator: encrypted sketches of updates
# scores = 600.0             # with a validator: the coordinator multiplies them
# verdict = 300.0            # with a validator: it judges, or comes back
# unmasking = 60.0
# decryption = 60.0          # suites with encryption
# sum_sketches = 60.0        # with a validator: what clients say of the opened sum
# binding = 60.0             # with a validator: it compares
# acknowledgements = 120.0
# cosignatures = 15.0
"""

_ARCHIVE = """
# Uploads and shares kept in SITE/archive, so that an auditor can repeat every sum
# (`audit verify --replay`). Read first what it tells whom: docs/for-auditors.md.
[archive]
# enabled = false
# keep_rounds = 0            # the latest so many; 0 keeps all
"""


_TIMESTAMP = """
# A time-stamping authority (RFC 3161) for the final checkpoint; needs the extra `timestamp`.
[timestamp]
# url = "https://tsa.example/tsr"
# root = "/path/to/tsa-root.pem"   # its answer must verify under these certificates
"""


def site_toml(role: Role, name: str) -> str:
    """A commented configuration; ``name`` must match the pattern of names (it is not escaped)."""
    head = _HEAD.format(role=role, name=name)
    if role == "client":
        return head + _CLIENT + _LOGS + _POLICY
    if role == "validator":
        return head + _VALIDATOR + _LOGS + _POLICY
    return head + _COORDINATOR + _LOGS + _TIMEOUTS + _ARCHIVE + _TIMESTAMP
