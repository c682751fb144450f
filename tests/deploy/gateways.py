"""Gateways, emulators and devices as processes, and a Prometheus that scrapes them: what the tests
of alerts and dashboards are made of."""
import json
import re
import resource
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

from check import DEPLOY, ENVIRONMENT, eventually, free_port, get, run

KEY = "ZGV2ZWxvcG1lbnQtb25seS1rZXktMDEyMzQ1Njc4OTA="
DEVICES = 60
# A minute of the rules is a second of the test, in `for`, ranges and offsets; thresholds stay.
SCALE = 60


def scaled(text):
    """The rules with every duration divided by SCALE."""
    seconds = {"s": 1, "m": 60, "h": 3600}

    def shorter(found):
        length = int(found[2]) * seconds[found[3]]
        assert length % SCALE == 0, f"{found[0]} cannot be scaled"
        return f"{found[1]}{length // SCALE}s"
    return re.sub(r"(\bfor: |\[|\boffset )(\d+)([smh])\b", shorter, text)


class Process:
    """A child that ends with the test, and its output in a file."""

    def __init__(self, test, name, *command, **options):
        self.log = test.folder / f"{name}.log"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen([str(word) for word in command], env=ENVIRONMENT,
                                          **{"stdout": log, "stderr": log, **options})
        test.addCleanup(self.stop)

    def wait(self):
        self.child.wait(60)

    def stop(self, how=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(how)
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Emulator:
    def __init__(self, test, binary, name):
        self.amqp, self.control = free_port(), free_port()
        file = test.folder / f"{name}-hub.toml"
        file.write_text(f"""
[amqp]
plain_bind = "127.0.0.1:{self.amqp}"
[control]
bind = "127.0.0.1:{self.control}"
[hub]
host = "h.azure-devices.net"
[[policy]]
name = "device"
rights = ["DeviceConnect"]
primary_key = "{KEY}"
[[device_range]]
prefix = "load-"
count = {DEVICES}
""")
        self.process = Process(test, f"{name}-hub", binary, "emulator", "-c", file)
        eventually(f"{name}: its hub", lambda: get(f"http://127.0.0.1:{self.control}/stats"))

    def fault(self, name, **more):
        body = json.dumps({"name": name, **more}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.control}/faults", body,
                                         {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=5).close()


class Gateway:
    """One gateway with its devices' keys. Sections of the configuration are given as text."""

    def __init__(self, test, binary, name, port, **sections):
        self.test, self.binary, self.name = test, binary, name
        self.files = sections.pop("files", None)
        self.stderr = sections.pop("stderr", None)
        self.mqtt, self.admin = free_port(), free_port()
        self.folder = test.folder / name
        self.folder.mkdir()
        self.write("fleet.psk", run(binary, "psk", "generate", "--prefix", "load-",
                                    "--count", DEVICES, stderr=None))
        self.write("ghosts.psk", run(binary, "psk", "generate", "--prefix", "ghost-",
                                     "--count", DEVICES, stderr=None))
        self.write("rules.toml", '[[psk_file]]\npath = "fleet.psk"\n')
        text = {
            "hub": f'host = "h.azure-devices.net"\npolicy = "device"\nkey = "{KEY}"\n'
                   f'endpoint = "amqp://127.0.0.1:{port}"\n',
            "rules": 'files = ["rules.toml"]\n',
            "admin": f'bind = "127.0.0.1:{self.admin}"\n',
            "shutdown": 'announce = "0s"\nsettle = "300ms"\nclose = "1s"\n',
            "limits": "", "log": "",
        }
        tls = sections.pop("tls", "{}")
        for section, more in sections.items():
            text[section] = "".join(line + "\n" for line in text[section].splitlines()
                                    if line.split(" = ")[0] not in more) + more + "\n"
        self.write("gateway.toml", "".join(f"[{s}]\n{body}" for s, body in text.items()) + f"""
[[listener]]
name = "devices"
bind = "127.0.0.1:{self.mqtt}"
tls = {tls}
""")
        self.process = None

    def write(self, name, text):
        fresh = self.folder / f"{name}.new"
        fresh.touch(0o600)
        fresh.write_text(text)
        fresh.rename(self.folder / name)

    def start(self):
        options = {}
        if self.files:
            limits = (self.files, self.files)
            options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        if self.stderr:
            options["stderr"] = self.stderr
        self.process = Process(self.test, self.name, self.binary, "run", "-c",
                               self.folder / "gateway.toml", **options)
        return self

    def ready(self):
        eventually(f"{self.name} is ready", lambda: '"ready":true' in self.get("ready"), 30)
        return self

    def get(self, path):
        return get(f"http://127.0.0.1:{self.admin}/{path}")

    def devices(self, *more, keys="fleet.psk", duration="170s"):
        """Starts devices; they stay as long as the test."""
        Gateway.count = getattr(Gateway, "count", 0) + 1
        return Process(self.test, f"{self.name}-devices-{Gateway.count}", self.binary, "load",
                       "--host", "127.0.0.1", "--port", self.mqtt,
                       "--psk-file", self.folder / keys, "--quiet", "--duration", duration, *more)


class Prometheus:
    """Scrapes every second, under the rules as `scaled` makes them."""

    def __init__(self, test, name, targets):
        folder = test.folder / name
        folder.mkdir()
        (folder / "rules.yaml").write_text(scaled((DEPLOY / "prometheus/rules.yaml").read_text()))
        example = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
        example["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        del example["alerting"]
        (job,) = example["scrape_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"], "labels": {"scenario": scenario}}
                                 for scenario, port in targets.items()]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(example))
        self.address = f"127.0.0.1:{free_port()}"
        self.process = Process(test, name, "prometheus", f"--config.file={folder}/prometheus.yaml",
                               f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.address}",
                               "--log.level=warn")
        eventually("Prometheus", lambda: get(f"http://{self.address}/-/ready"), 30)

    def query(self, expression):
        asked = urllib.parse.urlencode({"query": expression})
        answer = json.loads(get(f"http://{self.address}/api/v1/query?{asked}"))
        return answer["data"]["result"]

    def firing(self):
        """Now: alerts by scenario."""
        return self.alerts('ALERTS{alertstate="firing"}')

    def fired(self):
        """Ever: alerts by scenario."""
        return self.alerts('count_over_time(ALERTS{alertstate="firing"}[1h])')

    def alerts(self, expression):
        found = {}
        for series in self.query(expression):
            labels = series["metric"]
            name = labels["alertname"].removeprefix("IothubGateway")
            found.setdefault(labels.get("scenario", ""), set()).add(name)
        return found


class Repeat:
    """Does something again and again until the test ends."""

    def __init__(self, test, pause, action):
        self.end = threading.Event()

        def loop():
            while not self.end.wait(pause):
                action()
        self.thread = threading.Thread(target=loop)
        self.thread.start()
        test.addCleanup(self.thread.join)
        test.addCleanup(self.end.set)
