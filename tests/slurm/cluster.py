"""A real SLURM of one node, brought up for the tests: munge, slurmctld and slurmd on loopback, four fake GPUs.

Debian's packages slurm-wlm and munge are all it takes. Nothing of it survives `stop`, and a machine that has a
SLURM of its own is left alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin"  # where daemons lie, which is not on every user's path
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CONF = Path("/etc/slurm")  # the one place where srun inside a job finds it: the plugin drops SLURM_CONF there
MARK = "# Written by tests/slurm, removed after them.\n"
GPUS = 4

# CPUs and memory are invented (config_overrides), so that a job of the paper's size can be allocated here.
SLURM_CONF = """
ClusterName=grace
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MinJobAge=3600
KillWait=5
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 RealMemory=600000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def unavailable() -> str | None:
    """Why no SLURM can be brought up here, or None."""
    if os.geteuid() != 0:
        return "needs root: slurmd starts jobs, and fake GPUs are made with mknod"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    for name in ("slurm.conf", "gres.conf"):
        if (CONF / name).exists() and not (CONF / name).read_text().startswith(MARK):
            return f"{CONF / name} belongs to a SLURM of this machine"
    return None


class Cluster:
    """`start` returns when the node is idle; `stop` may be called at any time and any number of times."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="grace-slurm-"))  # short: a socket's path has 107 characters
        self.daemons: list[subprocess.Popen] = []
        self.ours = False  # whether the files in CONF are this cluster's
        self.lock = open(Path(tempfile.gettempdir()) / "grace-slurm-tests.lock", "w")  # noqa: SIM115 -- held until `stop`

    def start(self) -> None:
        """Bring it up.

        Raises:
            BlockingIOError: other tests on this machine hold the cluster.
            RuntimeError: a daemon did not come up; its log is quoted.
        """
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.ours = True
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        for number in range(GPUS):
            os.mknod(self.folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))

        host = socket.gethostname().split(".")[0]
        ctld, slurmd = _free_ports(2)
        conf = SLURM_CONF.format(host=host, folder=self.folder, ctld=ctld, slurmd=slurmd, gpus=GPUS)
        CONF.mkdir(exist_ok=True)
        (CONF / "slurm.conf").write_text(MARK + conf.lstrip())
        (CONF / "gres.conf").write_text(f"{MARK}Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")

        paths = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        munged = [f"--{name}{'-file' if name != 'socket' else ''}={path}" for name, path in paths.items()]
        self._run("munged", "--foreground", "--force", f"--key-file={key}", *munged)
        self._wait(paths["socket"].exists, "munged made no socket")
        self._run("slurmctld", "-D")
        self._run("slurmd", "-D")
        self._wait(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"), "the node did not become idle")

    def _run(self, *command: str) -> None:
        name, *rest = command
        program = shutil.which(name, path=PATH)
        assert program is not None, name  # `unavailable` has looked
        with open(self.folder / f"{name}.out", "w") as out:
            # A session of its own: Ctrl-C reaches the tests, which stop the daemons in order.
            self.daemons.append(
                subprocess.Popen(
                    [program, *rest], stdout=out, stderr=out, start_new_session=True, preexec_fn=_die_with_parent
                )
            )

    def _wait(self, ready, complaint: str, seconds: float = 30) -> None:
        deadline = time.time() + seconds
        while not ready():
            if time.time() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                logs = [path for path in sorted(self.folder.iterdir()) if path.suffix in (".log", ".out")]
                raise RuntimeError("\n".join([complaint, *(f"{p.name}: {p.read_text()[-2000:]}" for p in logs)]))
            time.sleep(0.1)

    @staticmethod
    def ask(*command: str) -> str:
        """Standard output of a SLURM command; "" if it fails."""
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout

    def jobs(self) -> list[dict[str, str]]:
        """What SLURM knows of every job since the start: `scontrol show job`, a dictionary each."""
        lines = self.ask("scontrol", "--details", "--oneliner", "show", "job").splitlines()
        found = [re.findall(r"(\S+?)=(.*?)(?= +\S+?=|$)", line) for line in lines if "JobId=" in line]
        return [{name: value.strip() for name, value in pairs} for pairs in found]

    def stop(self) -> None:
        if len(self.daemons) == 3 and all(daemon.poll() is None for daemon in self.daemons):
            ids = self.ask("squeue", "--noheader", "--format=%A").split()
            if ids:
                subprocess.run(["scancel", "--signal=KILL", "--full", *ids], capture_output=True, timeout=30)
                subprocess.run(["scancel", *ids], capture_output=True, timeout=30)
                deadline = time.time() + 20
                while self.ask("squeue", "--noheader", "--format=%A").split() and time.time() < deadline:
                    time.sleep(0.2)
        for daemon in reversed(self.daemons):
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()
        if self.ours:
            for name in ("slurm.conf", "gres.conf"):
                (CONF / name).unlink(missing_ok=True)
        self.ours = False
        self.lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _die_with_parent() -> None:
    """Have the kernel end this process when the tests' process is gone, by kill -9 too."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
