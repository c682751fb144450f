"""The measurements. Every run has a fresh server; repetitions take turns; figures are medians."""

import json
import statistics
import subprocess
import time

from .servers import HUB, Bare, Gateway, Mosquitto, RabbitMq, missing
from .system import Failed, established, machine_busy, say, wait_until


class Bench:
    """What all measurements share: the binary, the fleet, the command line."""

    def __init__(self, binary, fleet, options):
        self.binary, self.fleet, self.options = binary, fleet, options
        self.cpus = tuple(options.cpus)

    def start(self, server, kind, devices, **more):
        return server(self.binary, self.fleet, self.cpus, kind, devices, **more)

    def load(self, server, kind, devices, *arguments, during=None):
        """Runs the load generator against a running server, and `during` meanwhile; its report
        as a dict. Devices that were refused or lost are a failure."""
        report = self.fleet.path("report.json")
        command = ["taskset", "-c", str(self.cpus[1])] if self.cpus[1] is not None else []
        command += [self.binary, "load", "--host", "127.0.0.1", "--port", server.port,
                    "--devices", devices, "--payload", 256, "--pid", server.process.pid,
                    "--quiet", "--json", report, *self.credentials(server, kind), *arguments]
        with open(self.fleet.path("load.log"), "w+") as log:
            ran = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
            try:
                if during:
                    during()
                ran.wait()
            finally:
                if ran.poll() is None:
                    ran.kill()
                    ran.wait()
            server.process.check()
            log.seek(0)
            if ran.returncode not in (0, 1):
                raise Failed(f"load ended with {ran.returncode}: {log.read().strip()[-600:]}")
        found = json.load(open(report))
        if found["failed"] or found["lost"]:
            reasons = {**found["failures"], **found["losses"]}
            raise Failed(f"{server.name}: {found['failed']} devices failed, {found['lost']} lost: "
                         f"{reasons}")
        return found

    def credentials(self, server, kind):
        if kind == "psk":
            return ["--psk-file", self.fleet.psk_file, "--tls", self.options.tls]
        if server.name == "gateway":
            return ["--sas-key-file", self.fleet.sas_keys, "--hub", HUB]
        return []

    def window(self, *more, warmup=0, seconds=0):
        """Arguments of a measured part; the longer of what is asked for and the options."""
        warmup, seconds = max(warmup, self.options.warmup), max(seconds, self.options.seconds)
        return ["--warmup", f"{warmup}s", "--duration", f"{seconds}s", *more]

    def turns(self, runs):
        """Runs each of `runs` (name → function) once a repetition, A B C A B C; name → list."""
        found = {name: [] for name in runs}
        for turn in range(self.options.repeat):
            for name, run in runs.items():
                say(f"  {turn + 1} of {self.options.repeat}: {name}")
                found[name].append(run())
        return found


def median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def once(bench, server, kind, devices, *arguments, **more):
    """Starts, loads, stops."""
    running = bench.start(server, kind, devices, **more)
    try:
        return bench.load(running, kind, devices, *arguments)
    finally:
        running.stop()


def message(reports):
    return {
        "us_per_message": median(r["server"]["cpu_us_per_message"] for r in reports),
        "messages_per_s": median(r["messages_per_second"] for r in reports),
        "p50_ms": median(r["latency"]["p50_ms"] for r in reports),
        "p99_ms": median(r["latency"]["p99_ms"] for r in reports),
    }


def peers(bench):
    """CPU per QoS 1 message: gateway, Mosquitto, RabbitMQ, plain TCP and TLS-PSK."""
    notes, runs = [], {}
    servers = []
    for server in (Gateway, Mosquitto, RabbitMq):
        if bench.options.only and server.name not in bench.options.only:
            continue
        why = missing(server)
        if why:
            notes.append(why)
        else:
            servers.append(server)
    for kind in ("plain", "psk"):
        for server in servers:
            if kind in server.kinds:
                runs[f"{server.name} {kind}"] = attempt(
                    server, lambda server=server, kind=kind: once(
                        bench, server, kind, bench.options.devices, *bench.window()), notes)
    if any(server is RabbitMq for server in servers):
        notes.append("rabbitmq psk: its MQTT plugin has no TLS-PSK")
    found = {name: [r for r in reports if r] for name, reports in bench.turns(runs).items()}
    return {"rows": {name: message(reports) for name, reports in found.items() if reports},
            "devices": bench.options.devices, "notes": sorted(set(notes))}


def attempt(server, run, notes):
    """A peer that fails leaves a line; when the gateway fails, everything ends."""
    def guarded():
        try:
            return run()
        except (Failed, OSError) as failed:
            notes.append(f"{server.name} left out: {failed}")
            return None
    return run if server is Gateway else guarded


def scale(bench):
    """CPU per message with few and with many devices, the same messages a second in all."""
    few, many = bench.options.few, bench.options.many
    rate = ["--rate", bench.options.scale_rate]
    # Time for every device's first message, which attaches its link: not what is measured.
    warmup = 2 + 3 * many // (2 * bench.options.scale_rate)
    found = bench.turns({
        str(devices): lambda devices=devices: once(
            bench, Gateway, "psk", devices, *bench.window(*rate, warmup=warmup))
        for devices in (few, many)})
    rows = {name: message(reports) for name, reports in found.items()}
    return {"rows": rows, "rate": bench.options.scale_rate,
            "ratio": ratio(rows[str(many)], rows[str(few)], "us_per_message")}


def ratio(ours, theirs, key):
    return ours[key] / theirs[key] if ours.get(key) and theirs.get(key) else None


def idle(bench):
    """Memory of a connected device without and with links, and what holding many costs."""
    many = bench.options.many
    hold = ["--connect-rate", bench.options.connect_rate, "--keep-alive", 60]
    # Two keep-alive periods, so that every device's PINGREQs are in it.
    still = bench.window(*hold, seconds=bench.options.idle_seconds)
    each_once = max(many // 20, 1)
    runs = {
        "gateway, no links": lambda: once(
            bench, Gateway, "psk", many, "--idle", *still),
        # Everybody subscribes, and sends a message within 20 seconds: both links are there.
        "gateway, both links": lambda: once(
            bench, Gateway, "psk", many, "--subscribe", "--rate", each_once, "--warmup", "25s",
            "--duration", "5s", *hold),
    }
    notes = []
    why = missing(Mosquitto)
    if why:
        notes.append(why)
    else:
        runs["mosquitto"] = attempt(Mosquitto, lambda: once(
            bench, Mosquitto, "psk", many, "--idle", *still), notes)
    rows = {}
    for name, reports in bench.turns(runs).items():
        servers = [r["server"] for r in reports if r]
        if not servers:
            continue
        rows[name] = {
            "kib_per_device": median(s["resident_kib_per_device_after"] for s in servers),
            "cpu_percent": median(s["cpu_percent"] for s in servers)
            if "both" not in name else None,
        }
    return {"rows": rows, "devices": many, "notes": notes}


def storm(bench):
    """All devices connect at once: CPU per connect, against OpenSSL's handshake alone."""
    many = bench.options.many
    runs, notes = {}, []
    for server in (Gateway, Bare, Mosquitto):
        why = missing(server)
        if why:
            notes.append(why)
            continue
        runs[server.name] = attempt(server, lambda server=server: once(
            bench, server, "psk", many, "--storm", "--idle", "--duration", "1s"), notes)
    rows = {}
    for name, reports in bench.turns(runs).items():
        reports = [r for r in reports if r]
        if reports:
            rows[name] = {
                "us_per_connect": median(r["server"]["cpu_us_per_connect"] for r in reports),
                "connects_per_s": median(r["connects_per_second"] for r in reports),
                "p99_ms": median(r["connect"]["p99_ms"] for r in reports),
                "refused_or_lost": max(r["failed"] + r["lost"] for r in reports),
            }
    against = ratio(rows["gateway"], rows.get(Bare.name, {}), "us_per_connect")
    return {"rows": rows, "devices": many, "ratio": against, "notes": notes}


def renewal(bench):
    """Latency while the token is renewed every 4 seconds, and while it is not renewed at all."""
    def run(token):
        rate = ["--rate", bench.options.rate]
        return lambda: once(bench, Gateway, "psk", bench.options.devices, *bench.window(*rate),
                            token=token)
    found = bench.turns({"no renewal": run(("1h", 0.85)), "every 4 s": run(("5s", 0.8))})
    rows = {name: message(reports) for name, reports in found.items()}
    return {"rows": rows, "rate": bench.options.rate,
            "ratio": ratio(rows["every 4 s"], rows["no renewal"], "p99_ms")}


def ceiling(bench):
    """The most messages a second when gateway, emulator and load share all processors."""
    bench.cpus = (None, None)
    rows = {}
    try:
        for kind in ("plain", "psk"):
            for window in (1, 8, 32):
                name = f"{kind}, window {window}"
                found = bench.turns({name: lambda kind=kind, window=window: shares(
                    bench, kind, window)})
                rows[name] = {key: median(run[key] for run in found[name])
                              for key in found[name][0]}
    finally:
        bench.cpus = tuple(bench.options.cpus)
    best = max(rows, key=lambda name: rows[name]["messages_per_s"])
    return {"rows": rows, "best": best, "devices": bench.options.devices}


def shares(bench, kind, window):
    """One run, and who used the processors; percent of one core each."""
    running = bench.start(Gateway, kind, bench.options.devices)
    readings = []

    def reading():
        readings.append((machine_busy(), running.process.cpu_s(), running.emulator.cpu_s(),
                         time.monotonic()))

    def middle():
        wait_until("the devices", 120,
                   lambda: established(running.port) >= bench.options.devices)
        time.sleep(bench.options.warmup + 1)
        reading()
        time.sleep(max(bench.options.seconds - 2, 1))
        reading()

    try:
        found = bench.load(running, kind, bench.options.devices, *bench.window(
            "--window", window), during=middle)
    finally:
        running.stop()
    before, after = readings
    busy, total = (after[0][at] - before[0][at] for at in (0, 1))
    passed = after[3] - before[3]
    rate, own = found["messages_per_second"], found["own_cpu_us_per_message"]
    return {
        "messages_per_s": rate, "p99_ms": found["latency"]["p99_ms"],
        "machine_percent": 100 * busy / total if total else None,
        "gateway_percent": 100 * (after[1] - before[1]) / passed,
        "emulator_percent": 100 * (after[2] - before[2]) / passed,
        "load_percent": own * rate / 1e4 if own else None,
    }
