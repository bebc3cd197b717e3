"""Starts the parties of test federations as processes of their own, by forking.

Importing torch costs seconds of CPU time in every process; here it is imported once and each
party is a fork of this process, so that killing and restarting a client takes a second.  From the
fork on a party is an ordinary operating-system process that runs the product's own command line.

Protocol, one JSON object a line: ``{"party", "arguments", "log", "faults"}`` on stdin is answered
by ``{"party", "pid"}``, later by ``{"party", "pid", "code"}`` (minus the signal if killed).
``{"load": module, "call": name}`` imports a module for all parties that are started later, calls
what has that dotted name in it (unless it is empty), and is answered by the same.  When stdin
ends, the children are killed, and the last line holds the CPU seconds of all of them.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import operator
import os
import resource
import select
import signal
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1


def _become_party(order: dict[str, Any]) -> NoReturn:
    code = 70
    try:
        # No orphan survives the launcher, however that ends.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (null, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)  # the launcher's pipes: their ends must not live on in a party
        from secure_fedfm.cli.main import main
        from tests.integration.faults import install

        install(order["faults"])
        code = main(order["arguments"])
    finally:
        os._exit(code)


class _Launcher:
    def __init__(self) -> None:
        self.parties: dict[int, str] = {}
        self.wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(self.wake, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        pending = b""
        while True:
            ready, _, _ = select.select([0, self.wake], [], [])
            if self.wake in ready:
                os.read(self.wake, 4096)
                self.reap()
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self.obey(json.loads(line))

    def obey(self, order: dict[str, Any]) -> None:
        if "load" in order:
            module = importlib.import_module(order["load"])
            if order["call"]:
                operator.attrgetter(order["call"])(module)()
            _say(order)
        else:
            self.start(order)

    def start(self, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            _become_party(order)
        self.parties[pid] = order["party"]
        _say({"party": order["party"], "pid": pid})

    def reap(self) -> None:
        for pid, party in list(self.parties.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found == pid:
                del self.parties[pid]
                code = os.waitstatus_to_exitcode(status)
                _say({"party": party, "pid": pid, "code": code})

    def end(self) -> None:
        for pid in self.parties:
            os.kill(pid, signal.SIGKILL)
        for pid in self.parties:
            os.waitpid(pid, 0)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _import_everything(model: str) -> None:
    """What every client would import, down to what transformers and peft load lazily."""
    import torch

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    import secure_fedfm.cli.main  # noqa: F401 - over half of a short-lived party's processor time
    import tests.integration.faults  # noqa: F401 - brings both services
    from secure_fedfm.learning.learner import load_adapted
    from secure_fedfm.learning.specs import AdapterSpec, TaskSpec
    from secure_fedfm.learning.weights import pin_model

    load_adapted(pin_model(model), AdapterSpec(), TaskSpec("classification", ("a", "b")), None)
    _compile_kernels()


def _compile_kernels() -> None:
    """What numba loads when it is first called.  Nothing that opens a TenSEAL context: those have
    threads, which a fork would be without."""
    import numpy as np

    from fedfm_crypto.lattice.bulk_keys import BulkKey, PublicPolynomials
    from fedfm_crypto.lattice.key_additive import encrypt
    from fedfm_crypto.lattice.wide_words import to_wide
    from fedfm_crypto.random_source import system_random
    from fedfm_crypto.secret import Secret
    from fedfm_protocols.lattice_encryption import LatticeEncryption

    encryption, context = LatticeEncryption(), bytes(32)
    parts = [encryption.contribute(context, system_random) for _ in range(2)]
    encryption.commitment(context, "nobody", parts[0].public_share)
    encryption.public_key(context, [part.public_share for part in parts])
    dealt = [encryption.deal(part, 2, (1, 2), system_random)[0] for part in parts]
    encryption.collect(1, dealt)
    words, key = np.zeros(4, np.uint32), BulkKey.generate(system_random)
    mask = Secret(context)
    bulk = b"".join(encrypt(to_wide(words, 24), key, PublicPolynomials(context), system_random))
    encryption.check_upload(bulk, 4, 24)
    encryption.peel(encryption.add(None, bulk), [(mask, 1)], 4, 24)


def main() -> None:
    _import_everything(sys.argv[1])
    launcher = _Launcher()
    _say({"ready": True})
    try:
        launcher.run()
    finally:
        launcher.end()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        _say(
            {
                "cpu": round(usage.ru_utime + usage.ru_stime, 1),
                "own_cpu": round(own.ru_utime + own.ru_stime, 1),
            }
        )


if __name__ == "__main__":
    main()
