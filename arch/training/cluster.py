"""A process of several lives in the care of a parent, which says in one line why it ended when another one was lost.

JAX notices in threads of C++ that a process of the cluster is gone, or that not all of them came, and aborts with a
stack trace; Python is not asked. So a program that is to be one process of several runs as a child. Its parent, which
is this file and needs no JAX, turns the abort into a line and an exit status that says "run it again". It hands SIGTERM
on to the child, and neither outlives the other.
"""

import collections
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from arch.training.host import die_with

# Exit statuses of train.py: the loss became non-finite; run it again, where 75 is EX_TEMPFAIL of sysexits.h.
NON_FINITE, RESUME_ME, INTERRUPTED = 1, 75, 130
HEARTBEAT_SECONDS = 30  # a process that is silent for so long is lost; JAX's own default is 100
VERDICT_SECONDS = HEARTBEAT_SECONDS + 15  # by then it is known everywhere
JOIN_SECONDS = 120  # default of --join_seconds
SAME_SECONDS = 1.0  # two signals within are one, which a scheduler sends to every process and a launcher hands on

# Flags, and the variables that stand in for them; any of them makes a process one of several, as --distributed does.
VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
AGAIN = "run the same command on all hosts again, it goes on from the newest checkpoint"
PARENT = "CLUSTER_PARENT_PID"  # set by the parent for its child alone

# Where a message of JAX's coordination begins on stderr, and where one of somebody else does. Between the two are its
# further lines. What comes after a fatal one is stack traces, between which other threads may still speak.
_BEGINS = re.compile(rb"[EFW]\d{4} [\d:.]+ +\d+ (coordination_service\w*|preemption_sync_manager|client)\.(cc|h):\d")
_ENDS = re.compile(rb"[A-Z]\d{4} [\d:.]+ +\d+ |\d\d:\d\d:\d\d |\w+\.py: |Traceback ")
_FATAL = re.compile(rb"F\d{4} [\d:.]+ +\d+ client\.h:\d|\*\*\* Check failure stack trace|Fatal Python error: Aborted")
_ABORTED = "JAX distributed service detected fatal errors"


def supervise() -> None:
    """The first line of a program: returns in a process of its own and in the child; the parent ends here."""
    if parent := os.environ.pop(PARENT, None):
        die_with(int(parent))
    elif is_one_of_several(sys.argv[1:], os.environ):
        sys.exit(Supervisor([sys.executable, *sys.orig_argv[1:]]).run())


def is_one_of_several(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a flag or a variable asks for a cluster; known before any flag is parsed, as that needs all imports."""
    flags = any(last_value(arguments, name) is not None for name in ("distributed", *VARIABLES))
    return flags or any(variable in environment for variable in VARIABLES.values())


def last_value(arguments: Sequence[str], name: str) -> str | None:
    """What a flag is set to, as absl has it; "" where it stands alone, and None where it is not given."""
    value = None
    for item, following in itertools.pairwise([*arguments, ""]):
        flag, equals, text = item.lstrip("-").partition("=")
        if item.startswith("-") and flag == name:
            value = text if equals else "" if following.startswith("-") else following
    return value


class Supervisor:
    """The parent of one process of a cluster.

    SIGTERM goes to the child, where JAX spreads it: all processes save and end. So does SIGINT, as SIGTERM. The child
    is in a process group of its own: of a Ctrl-C on the terminal it hears from here, and once.

    Args:
      command: of the child.
    """

    def __init__(self, command: Sequence[str]):
        self._command = command
        self._child: subprocess.Popen | None = None
        self._signal: signal.Signals | None = None
        self._asked = 0.0  # when, by time.monotonic
        self._held: collections.deque[bytes] = collections.deque(maxlen=1000)  # lines of JAX's coordination

    def run(self) -> int:
        """The exit status, when the child has ended."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hand_on)
        environment = os.environ | {PARENT: str(os.getpid())}
        self._child = subprocess.Popen(self._command, env=environment, stderr=subprocess.PIPE, process_group=0)
        if self._signal is not None:  # it came before there was a child
            self._child.send_signal(signal.SIGTERM)
        relay = threading.Thread(target=self._relay, daemon=True)
        relay.start()
        status = self._child.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)  # workers that an aborted child has left
        relay.join(timeout=10)
        return self._explain(status)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is not None and now - self._asked < SAME_SECONDS:
            return
        self._signal, self._asked = signal.Signals(number), now
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def _relay(self) -> None:
        """Passes on what the child says on stderr, but for what JAX's coordination says."""
        fatal = holding = False
        for line in self._child.stderr:
            fatal = fatal or _FATAL.match(line) is not None
            if _BEGINS.match(line):
                holding = True
            elif _ENDS.match(line):
                holding = False
            if fatal or holding:
                self._held.append(line)
            else:
                _write(line)

    def _explain(self, status: int) -> int:
        """Says why the child ended, where it could not say so itself; the exit status for it."""
        held, program = b"".join(self._held), os.path.basename(sys.argv[0])
        if status == -signal.SIGABRT and _ABORTED in (text := held.decode(errors="replace")):
            _write(f"{program}: error: {verdict(text, sys.argv[1:], os.environ)}\n".encode())
            return RESUME_ME
        if status == -signal.SIGKILL:
            _write(f"{program}: error: cluster: killed, as the system does where memory runs out; {AGAIN}\n".encode())
        if self._signal is not None and status in (RESUME_ME, -signal.SIGTERM):  # the latter before it could save
            return INTERRUPTED if self._signal == signal.SIGINT else RESUME_ME
        if status not in (0, RESUME_ME):
            _write(held)
        return status if status >= 0 else 128 - status


def verdict(text: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """One line for the messages of JAX's coordination with which a process was aborted.

    Args:
      text: the messages.
      arguments: of the command line.
      environment: its variables.
    """
    if "RegisterTask" in text:
        given = {name: last_value(arguments, name) or environment.get(key) for name, key in VARIABLES.items()}
        address = given["coordinator"] or "the coordinator that JAX found"
        number, seconds = given["num_processes"] or "", last_value(arguments, "join_seconds") or JOIN_SECONDS
        return (
            f"cluster: all {number} processes must meet at {address} within --join_seconds={seconds}, and some did not "
            "come; start the same command on every host, see that each can reach that port, or give more seconds"
        ).replace("  ", " ")
    silent = re.findall(r"stopped sending heartbeats\):\s*((?:\d+\s+)+)|[Tt]ask (\d+) heartbeat timeout", text)
    if lost := sorted({int(number) for groups in silent for group in groups for number in group.split()}):
        who = f"process {lost[0]}" if len(lost) == 1 else f"processes {', '.join(map(str, lost))}"
        return f"cluster: every process must stay, but {who} gave no sign of life for {HEARTBEAT_SECONDS} s; {AGAIN}"
    if "leader task" in text or "Socket closed" in text:
        return f"cluster: every process must stay, but process 0, which coordinates them, is gone; {AGAIN}"
    return f"cluster: every process must stay, but the contact with another one was lost; {AGAIN}"


def _write(text: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: no reason to stop training
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()
