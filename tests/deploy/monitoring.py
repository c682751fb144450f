#!/usr/bin/env python3
"""What watches the gateway, held against the real programs: rules by promtool, alerts by a Prometheus
that scrapes gateways with and without a fault, dashboards by its API, the alert manager by amtool.

  tests/deploy/monitoring.py BINARY        (tests/deploy/run installs what it needs)
"""
import http.server
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
import unittest
from pathlib import Path

import yaml

from check import DEPLOY, ROOT, Folder, eventually, run
from gateways import Emulator, Gateway, Prometheus, Repeat

RULES = DEPLOY / "prometheus/rules.yaml"
BINARY = ""


def rules():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


class Rules(unittest.TestCase):
    def test_prometheus_takes_them_and_their_own_tests_hold(self):
        run("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yaml")
        run("promtool", "check", "rules", "--lint-fatal", RULES)
        run("promtool", "test", "rules", DEPLOY / "prometheus/rules_test.yaml")

    def test_each_alert_has_a_test_of_its_silence_and_of_its_firing(self):
        tests = yaml.safe_load((DEPLOY / "prometheus/rules_test.yaml").read_text())["tests"]
        tested = {}
        for test in tests:
            name = test["name"].split(":")[0]
            for check in test["promql_expr_test"]:
                fires = any(f'"{name}"' in s["labels"] for s in check["exp_samples"])
                tested.setdefault(name, set()).add(fires)
        self.assertEqual(tested, {name: {False, True} for name in ALERTS})

    def test_each_alert_says_how_grave_it_is_and_where_to_read_on(self):
        for name, rule in ALERTS.items():
            self.assertIn(rule["labels"]["severity"], {"critical", "warning"}, name)
            self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook_url"}, name)
            section = f"deploy/RUNBOOK.md#{name.lower()}"
            self.assertEqual(rule["annotations"]["runbook_url"], section)

    def test_each_cause_of_the_hubs_refusals_is_in_one_alert(self):
        text = (ROOT / "README.md").read_text().split("## When the hub refuses")[1]
        causes = re.findall(r"(?m)^\| `([a-z_]+)` \|", text.split("\n## ")[0])
        self.assertGreater(len(causes), 20)
        patterns = [re.search(r'hub_refusing\{cause=~"([^"]+)"', rule["expr"]) for rule in ALERTS.values()]
        words = [word for pattern in patterns if pattern for word in pattern[1].split("|")]
        self.assertEqual(sorted(words), sorted(causes))

    def test_refusals_leave_out_the_ends_at_which_nobody_was_refused(self):
        text = (ROOT / "config/README.md").read_text().split("## Reasons")[1]
        ends = re.findall(r"(?m)^\| `([a-z_]+)` \| [a-z, ]+ \| end \|", text)
        (record,) = [r for r in rules() if r.get("record") == "instance_reason:iothub_gateway_refusals:rate5m"]
        left_out = re.search(r'reason!~"([^"]+)"', record["expr"])[1].split("|")
        self.assertEqual(sorted(left_out), sorted([*ends, "drain"]))


class Alerts(Folder):
    """One Prometheus, and a gateway for each fault. Which alerts fire on each is known: those named
    first have to, those named second may."""

    # What a fault brings with it, besides: a hub that refuses all is a hub nobody is ready with.
    FIRES = {
        "clean": ({}, {}),
        "down": ({"Down"}, {}),
        "restarting": ({"Restarting"}, {"Down", "NotReady"}),
        "panicked": ({"Panicked"}, {}),
        "limit": ({"LimitNear"}, {}),
        "files": ({"FilesNearLimit"}, {}),
        "log": ({"LogLost"}, {}),
        "reload": ({"ReloadFailed"}, {}),
        "certificate-10d": ({"CertificateEndsSoon"}, {}),
        "certificate-1d": ({"CertificateEndsSoon", "CertificateEnds"}, {}),
        "no-hub": ({"NotReady", "HubUnreachable", "HubConnectionNotOpen"}, {}),
        "wrong-key": ({"NotReady", "TokenRefused", "TokenNotRenewed"}, {}),
        "no-renewal": ({"TokenRefused", "TokenNotRenewed", "TokenEndsSoon"}, {}),
        "quota": ({"HubOverloaded"}, {"NotReady", "UplinkStalled"}),
        "ghosts": ({"DeviceUnknownAtHub"}, {}),
        "half": ({"HubConnectionNotOpen", "HubUnreachable"}, {}),
        "cut": ({"HubConnectionsLost"}, {"NotReady", "HubConnectionNotOpen", "HubOverloaded"}),
        "no-credit": ({"UplinkStalled", "HubOverloaded"}, {"NotReady"}),
        "slow": ({"UplinkSlow"}, {"HubOverloaded"}),
        "rejected": ({"MessagesRejected"}, {}),
        "strangers": ({"DevicesRefused", "AllDevicesRefused"}, {}),
        "gone": ({"DevicesGone"}, {}),
        "poison": ({"PoisonLoop"}, {"DevicesRefused"}),
    }

    def test_each_alert_fires_by_its_fault_alone_and_none_without_one(self):
        begun = time.monotonic()
        self.shared = Emulator(self, BINARY, "shared")
        self.gateways = {}
        self.later = []
        for name in self.FIRES:
            getattr(self, "begin_" + name.split("-")[0], self.begin_plain)(name)
        targets = {name: gateway.admin for name, gateway in self.gateways.items()}
        targets["panicked"] = self.proxy(targets["panicked"])
        for name in self.FIRES:
            if name not in ("no-hub", "wrong-key", "strangers"):
                self.gateways[name].ready()
        prometheus = Prometheus(self, "prometheus", targets)
        nothing = Prometheus(self, "nothing", {})
        eventually("a few scrapes of the state without a fault", lambda: len(
            prometheus.query("count_over_time(up[1m]) > 8")) == len(targets), 30)
        for fault in self.later:
            fault()
        missing = {name: set(must) for name, (must, _) in self.FIRES.items() if must}
        until, clean_until = time.monotonic() + 100, begun + 75
        while missing and time.monotonic() < until or time.monotonic() < clean_until:
            fired = prometheus.fired()
            for name in [name for name in missing if missing[name] <= fired.get(name, set())]:
                self.show(missing[name], self.gateways[name], prometheus)
                print(f"{name}: {sorted(missing.pop(name))} after {time.monotonic() - begun:.0f} s")
            time.sleep(0.5)
        fired = prometheus.fired()
        more = {name: fired.get(name, set()) - set(must) - set(may)
                for name, (must, may) in self.FIRES.items()}
        short = {name: must - fired.get(name, set()) for name, must in missing.items()}
        self.assertEqual(short, {}, f"a fault that alerts did not see; beside: {more}")
        self.assertEqual({name: names for name, names in more.items() if names}, {},
                         "fired beside what its fault brings about")
        self.assertEqual(nothing.firing(), {"": {"Absent"}})
        self.show({"Absent"}, self.gateways["clean"], nothing)
        self.show({}, self.gateways["clean"], prometheus)  # the commands it begins with
        shown = set().union(*(set(must) for must, _ in self.FIRES.values()), {"Absent"})
        self.assertEqual({"IothubGateway" + name for name in shown}, set(ALERTS))

    def show(self, alerts, gateway, prometheus):
        """Runs what the runbook says shows the matter, while it is the matter."""
        (self.folder / "bin").mkdir(exist_ok=True)
        program = self.folder / "bin/iothub-gateway"
        if not program.exists():
            program.symlink_to(BINARY)
        text = (DEPLOY / "RUNBOOK.md").read_text()
        parts = [text.split(f"\n### IothubGateway{alert}\n")[1] for alert in alerts] or [text]
        for part in parts:
            commands = part.split("```sh\n")[1].split("```")[0]
            commands = commands.replace("127.0.0.1:9464", f"127.0.0.1:{gateway.admin}")
            commands = commands.replace("127.0.0.1:9090", prometheus.address)
            path = f"{program.parent}:{os.environ['PATH']}"
            for command in commands.splitlines():
                said = run("bash", "-o", "pipefail", "-c", command, cwd=gateway.folder,
                           env={**os.environ, "PATH": path}, timeout=20)
                self.assertTrue(said.strip(), f"{alerts}: {command}")

    def gateway(self, name, at=None, **sections):
        at = at or self.shared
        self.gateways[name] = Gateway(self, BINARY, name, getattr(at, "amqp", at), **sections)
        return self.gateways[name]

    def with_hub(self, name, **sections):
        hub = Emulator(self, BINARY, name)
        return hub, self.gateway(name, hub, **sections).start()

    def begin_plain(self, name):
        self.gateway(name).start()

    def begin_clean(self, name):
        gateway = self.gateway(name).start().ready()
        gateway.devices("--devices", 5, "--rate", 10)

    def begin_down(self, name):
        gateway = self.gateway(name).start()
        self.later.append(lambda: gateway.process.stop(signal.SIGKILL))

    def begin_restarting(self, name):
        gateway = self.gateway(name).start()

        def fault():
            for _ in range(3):
                gateway.process.stop(signal.SIGKILL)
                gateway.start().ready()
                time.sleep(2)  # scrapes see each of them
        self.later.append(lambda: self.aside(fault))

    def begin_limit(self, name):
        gateway = self.gateway(name, limits="connections = 10").start().ready()
        self.later.append(lambda: gateway.devices("--devices", 10, "--idle"))

    def begin_files(self, name):
        gateway = self.gateway(name, limits="connections = 40", files=64).start().ready()
        self.later.append(lambda: gateway.devices("--devices", 30, "--idle"))

    def begin_log(self, name):
        """A reader that reads nothing, and a log that says what is in every ClientHello."""
        kept, unread = os.pipe()
        self.addCleanup(os.close, kept)
        gateway = self.gateway(name, log='filter = "info,rustls=trace"', stderr=unread,
                               tls='{ cert = "server.pem", key = "server.key" }')
        self.certificate(gateway, 100)
        gateway.start().ready()
        os.close(unread)
        hello = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        hello.maximum_version = ssl.TLSVersion.TLSv1_2
        hello.set_ciphers("AES128-SHA:@SECLEVEL=0")  # nothing in common, so that it costs little
        hello.set_alpn_protocols(["x" * 250] * 12)

        def talk():
            for _ in range(80):
                with socket.create_connection(("127.0.0.1", gateway.mqtt)) as plain:
                    try:
                        hello.wrap_socket(plain, server_hostname="gateway").close()
                    except OSError:
                        pass  # it is refused
        self.later.extend([lambda: self.aside(talk)] * 8)

    def begin_reload(self, name):
        gateway = self.gateway(name).start()
        self.later.append(lambda: gateway.write("rules.toml", "[[device]]\nid = 7\n"))

    def begin_certificate(self, name):
        gateway = self.gateway(name, tls='{ cert = "server.pem", key = "server.key" }')
        self.certificate(gateway, name.split("-")[1].rstrip("d"))
        gateway.start()

    def certificate(self, gateway, days):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", "/CN=gateway", "-days", days, "-out", gateway.folder / "server.pem",
            "-keyout", gateway.folder / "server.key")
        (gateway.folder / "server.key").chmod(0o600)

    def begin_no(self, name):
        getattr(self, "begin_" + name.replace("-", "_"))(name)

    def begin_no_hub(self, name):
        self.gateway(name, at=1).start()

    def begin_wrong(self, name):
        self.gateway(name, hub='key = "YW5vdGhlci1rZXktdGhhbi10aGUtaHViJ3Mtb3du"').start()

    def begin_no_renewal(self, name):
        hub, _ = self.with_hub(name, hub='token_ttl = "330s"\nrenew_at = 0.05')
        self.later.append(lambda: hub.fault("CbsStatus", value="500"))

    def begin_quota(self, name):
        hub, gateway = self.with_hub(name)
        gateway.ready().devices("--devices", 5, "--rate", 10)
        self.later.append(lambda: hub.fault("InvokeMaxMessageQuota"))

    def begin_ghosts(self, name):
        gateway = self.gateway(name)
        gateway.write("rules.toml", '[[psk_file]]\npath = "ghosts.psk"\n')
        gateway.start().ready()
        self.later.append(lambda: gateway.devices(
            "--devices", 1, "--client-id", "ghost-{n}", keys="ghosts.psk"))

    def begin_half(self, name):
        hub, _ = self.with_hub(name)

        def fault():
            hub.fault("RefuseConnections")
            hub.fault("KillTcp", connection=1)
        self.later.append(fault)

    def begin_cut(self, name):
        hub, _ = self.with_hub(name)
        self.later.append(lambda: Repeat(self, 1.5, lambda: hub.fault("KillTcp")))

    def begin_no_credit(self, name):
        hub, gateway = self.with_hub(name)
        gateway.ready().devices("--devices", 5, "--rate", 10)
        self.later.append(lambda: hub.fault("CreditZero"))

    def begin_slow(self, name):
        hub, gateway = self.with_hub(name)
        gateway.ready().devices("--devices", 5, "--rate", 20)
        self.later.append(lambda: Repeat(
            self, 4, lambda: hub.fault("OutcomeReleased", duration="2s")))

    def begin_rejected(self, name):
        hub, gateway = self.with_hub(name)
        gateway.ready().devices("--devices", 1, "--rate", 2)
        self.later.append(lambda: hub.fault(
            "OutcomeRejected", value="amqp:link:message-size-exceeded", duration="1s"))

    def begin_strangers(self, name):
        gateway = self.gateway(name).start()
        self.later.append(lambda: Repeat(self, 0.1, lambda: gateway.devices(
            "--devices", 5, "--client-id", "ghost-{n}", keys="ghosts.psk", duration="1s").wait()))

    def begin_gone(self, name):
        gateway = self.gateway(name).start().ready()
        devices = gateway.devices("--devices", 30, "--idle")
        self.later.append(devices.stop)

    def begin_poison(self, name):
        gateway = self.gateway(name).start().ready()
        self.later.append(lambda: Repeat(self, 0.1, lambda: gateway.devices(
            "--devices", 1, "--topic", "devices/another/messages/events/", duration="1s").wait()))

    def aside(self, action):
        thread = threading.Thread(target=action)
        thread.start()
        self.addCleanup(thread.join)

    def proxy(self, port):
        """No fault makes the gateway panic: its own /metrics with that one number altered."""
        gateway, panics = self.gateways["panicked"], [0]
        self.later.append(lambda: panics.append(1))

        class Altered(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = "iothub_gateway_panics_total "
                text = gateway.get("metrics").replace(f"{name}0", f"{name}{panics[-1]}")
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Altered)
        threading.Thread(target=server.serve_forever).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server.server_address[1]


if __name__ == "__main__":
    BINARY = str(Path(sys.argv.pop(1)).resolve())
    unittest.main(verbosity=1)
