"""Processes, ports and what /proc says about them."""

import datetime
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """What went wrong, in a sentence for the person at the terminal."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, seconds, condition, every=0.05):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(every)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def http_text(port, path):
    """The body of a 200, None for anything else."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError):
        return None


def established(port):
    """Connections the server on this port holds."""
    wanted, count = f":{port:04X}", 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = open(table).read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            count += fields[1].endswith(wanted) and fields[3] == "01"
    return count


class Process:
    """A child on given processors, its output in a file; stopped by `stop`."""

    def __init__(self, command, log, cpu=None, env=None, cwd=None):
        pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
        self.name, self.log = os.path.basename(command[0]), log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                pinned + [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True,
            )
        # taskset replaces itself, so this is the server's own.
        self.pid = self.child.pid

    def check(self):
        if self.child.poll() is not None:
            tail = open(self.log, errors="replace").read()[-600:]
            raise Failed(f"{self.name} ended with {self.child.returncode}; {self.log}: {tail}")

    def cpu_s(self):
        """Processor time so far, seconds, user and system."""
        return cpu_s(self.pid)

    def resident_kib(self):
        return resident_kib(self.pid)

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                # The session is this child's own: nothing else is in it.
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()


def cpu_s(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_kib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise Failed(f"process {pid} has no resident memory")


def machine_busy():
    """Busy and total processor time of the machine, seconds."""
    times = [int(part) / TICK for part in open("/proc/stat").readline().split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def origin():
    """Date, commit and kind of machine, as every table carries them."""
    commit = output("git", "rev-parse", "--short", "HEAD") or "unknown"
    if output("git", "status", "--porcelain", "--", "src", "Cargo.lock"):
        commit += " with local changes"
    models = [line.split(":")[1].strip() for line in open("/proc/cpuinfo")
              if line.startswith("model name")]
    total = next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    machine = (f"{os.cpu_count()} × {models[0] if models else platform.machine()}, "
               f"{int(total) / 2**20:.0f} GiB, Linux {platform.release()}")
    return {"date": datetime.date.today().isoformat(), "commit": commit, "machine": machine}
