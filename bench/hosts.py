"""Two hosts on one machine: network namespaces with names of their own, and a link of a chosen bandwidth between them.

    python bench/hosts.py --mbit 1000 -- python -m fastconv train mnist --data DIR      a rank on each host, Open MPI
    python bench/hosts.py --cut 20 -- python -m fastconv train mnist --data DIR         the link goes down after 20 s

What runs there sees a host name (UTS namespace), an address and a link of its own; files, processors and memory are the
machine's. Open MPI starts the second rank through a script of three lines in place of ssh and sends through TCP alone,
as between machines. The bandwidth is limited by `tc … tbf` at both ends, the delay added by `tc … netem` where the
kernel has it. Needs root, iproute2, util-linux and Open MPI.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastconv.files import replace_text

NETWORK = "10.77.0"
BURST = 1 << 14  # bytes that tbf lets through at once after a pause
RETRIES = 5  # of what nobody acknowledges, until a connection is given up: some 10 s, as 15 are a quarter of an hour
IN_HOST = 'hostname "$0"; exec "$@"'
AGENT = """#!/bin/sh
host=$1; shift
exec ip netns exec "$host" unshare --uts sh -c 'hostname "$0"; exec sh -c "$1"' "$host" "$*"
"""
TOOLS = ("ip", "tc", "unshare", "mpiexec.openmpi")


def missing() -> str:
    """Why there can be no hosts here, in words that go on "needs"; "" where there can."""
    if os.geteuid():
        return "root"
    return ", ".join(tool for tool in TOOLS if not shutil.which(tool))


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


class Hosts(NamedTuple):
    """Two that are up; `delayed`: whether the link has the delay that was asked for."""

    names: tuple[str, str]
    agent: Path
    delayed: bool

    def mpiexec(self, command: Sequence[str], *options: str) -> list[str]:
        """The command line that starts a rank on each."""
        first, second = self.names
        subnet = f"{NETWORK}.0/24"
        settings: dict[str, object] = {
            "plm_rsh_agent": self.agent, "pml": "ob1", "btl": "tcp,self", "btl_tcp_if_include": subnet,
            "oob_tcp_if_include": subnet, "oob_tcp_keepalive_time": 15, "oob_tcp_keepalive_intvl": 3,
            "oob_tcp_keepalive_probes": 3,
        }  # fmt: skip
        chosen = [part for name, value in settings.items() for part in ("--mca", name, str(value))]
        return [
            "ip", "netns", "exec", first, "unshare", "--uts", "sh", "-c", IN_HOST, first,
            "mpiexec.openmpi", "--allow-run-as-root", "--bind-to", "none", "-H", f"{first}:1,{second}:1", "-n", "2",
            "-x", "MPI4PY_MPIABI=openmpi", *chosen, *options, *command,
        ]  # fmt: skip

    def cut(self) -> None:
        """Take the link down."""
        run("ip", "-n", self.names[1], "link", "set", "wire", "down")


def shape(host: str, mbit: float, delay: float) -> bool:
    """Limit what a host sends; whether it is delayed as well, in seconds."""
    parent, delayed = ["root"], False
    if delay:
        with contextlib.suppress(OSError):  # a kernel without netem
            run("tc", "-n", host, "qdisc", "add", "dev", "wire", "root", "handle", "1:", "netem", "delay",
                f"{1e6 * delay:.0f}us", "limit", 100000)  # fmt: skip
            parent, delayed = ["parent", "1:1"], True
    if mbit:
        run("tc", "-n", host, "qdisc", "add", "dev", "wire", *parent, "tbf", "rate", f"{mbit:g}mbit", "burst", BURST,
            "latency", "200ms")  # fmt: skip
    return delayed


def end(host: str) -> None:
    """End what still runs on a host: a launcher's half that the cut link keeps from knowing."""
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout
    for pid in map(int, pids.split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def hosts(mbit: float = 0, delay: float = 0) -> Iterator[Hosts]:
    """Bring two hosts up, and take them away in the end; OSError, with the command, where one fails.

    mbit, delay   10**6 bits a second each way, 0: no limit; seconds one way
    """
    names = (f"fastconv-{os.getpid()}-a", f"fastconv-{os.getpid()}-b")
    with contextlib.ExitStack() as stack:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # they go away then too
        stack.callback(signal.signal, signal.SIGTERM, before)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in names:
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            stack.callback(end, name)
        run("ip", "-n", names[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", names[1])
        delays = []
        for i, name in enumerate(names, 1):
            run("ip", "-n", name, "addr", "add", f"{NETWORK}.{i}/24", "dev", "wire")
            for device in ("lo", "wire"):
                run("ip", "-n", name, "link", "set", device, "up")
            run("ip", "netns", "exec", name, "sh", "-c", f"echo {RETRIES} > /proc/sys/net/ipv4/tcp_retries2")
            delays.append(shape(name, mbit, delay))
        agent = folder / "agent"
        replace_text(agent, AGENT)
        agent.chmod(0o755)
        yield Hosts(names, agent, all(delays))


def main() -> int:
    parser = argparse.ArgumentParser(description="run a command as two ranks on two hosts in network namespaces")
    parser.add_argument("--mbit", type=float, default=0, metavar="N", help="10**6 bits a second each way (no limit)")
    parser.add_argument("--delay", type=float, default=0, metavar="MS", help="milliseconds one way, by netem (0)")
    parser.add_argument("--cut", type=float, metavar="SECONDS", help="take the link down after so long")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    if need := missing():
        print(f"hosts: needs {need}", file=sys.stderr)
        return 1
    environment = [part for name in os.environ if name.startswith("FASTCONV_") for part in ("-x", name)]
    with hosts(args.mbit, args.delay / 1e3) as pair:
        if args.delay and not pair.delayed:
            print("hosts: this kernel has no netem: no delay", file=sys.stderr)
        timer = threading.Timer(args.cut, pair.cut) if args.cut is not None else None
        try:
            if timer:
                timer.start()
            return subprocess.run(pair.mpiexec(args.command, *environment), check=False).returncode
        finally:
            if timer:
                timer.cancel()


if __name__ == "__main__":
    sys.exit(main())
