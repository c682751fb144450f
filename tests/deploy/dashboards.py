#!/usr/bin/env python3
"""Grafana's dashboards: their shape by Grafana's own types, their queries by a real Prometheus that
scrapes the demo. No Grafana is started: there is none in Debian.

  tests/deploy/dashboards.py BINARY        (tests/deploy/run installs what it needs)
"""
import json
import re
import sys
import tomllib
import unittest
import urllib.request
from pathlib import Path

import yaml

from check import DEPLOY, ROOT, Folder, eventually, free_port, get, run
from device import Device
from gateways import Process, Prometheus

GRAFANA = DEPLOY / "grafana"
TYPES = ROOT / "target/grafana-types"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
BINARY = ""


def filled(expression):
    """The expression with Grafana's variables replaced, as it would be for all instances."""
    known = {"$__rate_interval": "1m", "$__interval": "1m", "$instance": ".*"}
    for variable, value in known.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def queries(dashboard):
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


class Shape(Folder):
    def test_dashboards_are_what_grafanas_types_say(self):
        (self.folder / "node_modules").symlink_to(TYPES / "node_modules")
        for file in FILES:
            dashboard = json.loads(file.read_text())
            for annotation in dashboard["annotations"]["list"]:
                del annotation["expr"], annotation["titleFormat"]  # Prometheus' own, in no common type
            text = json.dumps(dashboard).replace('"mode": "absolute"', "mode: ThresholdsMode.Absolute")
            (self.folder / f"{file.stem}.ts").write_text(
                "import { Dashboard, ThresholdsMode } from '@grafana/schema';\n"
                f"export const dashboard: Dashboard = {text};\n")
        (self.folder / "tsconfig.json").write_text(json.dumps({
            "compilerOptions": {"strict": True, "noEmit": True, "skipLibCheck": True, "types": [],
                                "module": "esnext", "moduleResolution": "bundler", "target": "es2020"},
            "include": ["*.ts"]}))
        run(TYPES / "node_modules/.bin/tsc", "-p", self.folder)

    def test_panels_are_told_apart_fit_the_grid_and_say_what_they_show(self):
        self.assertEqual(len({json.loads(file.read_text())["uid"] for file in FILES}), len(FILES))
        for file in FILES:
            taken, panels = set(), json.loads(file.read_text())["panels"]
            self.assertEqual([panel["id"] for panel in panels], list(range(1, len(panels) + 1)))
            for panel in panels:
                at = panel["gridPos"]
                cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                         for y in range(at["y"], at["y"] + at["h"])}
                self.assertFalse(cells & taken, f"{file.name}: {panel['title']} covers another")
                self.assertLessEqual(at["x"] + at["w"], 24)
                self.assertTrue(panel["description"] and panel["fieldConfig"]["defaults"]["unit"])
                taken |= cells

    def test_provisioning_names_the_source_and_the_folder_of_the_dashboards(self):
        (source,) = yaml.safe_load(
            (GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
        (provider,) = yaml.safe_load(
            (GRAFANA / "provisioning/dashboards/iothub-gateway.yaml").read_text())["providers"]
        self.assertEqual((source["type"], source["access"]), ("prometheus", "proxy"))
        self.assertEqual(provider["type"], "file")
        for file in FILES:
            first = json.loads(file.read_text())["templating"]["list"][0]
            self.assertEqual((first["type"], first["current"]["value"]), ("datasource", source["uid"]))


class Data(Folder):
    def demo(self):
        """The demo under a Prometheus; once it is scraped, a device beside the simulated one
        connects and takes a command, and another one asks for its twin and answers a method."""
        folder, ports = self.folder / "demo", [free_port() for _ in range(4)]
        mqtt, admin, amqp, control = ports
        Process(self, "demo", BINARY, "demo", "--dir", folder, "--mqtt-port", mqtt, "--admin-port", admin,
                "--amqp-port", amqp, "--control-port", control, "--interval-ms", 200)
        eventually("the demo", lambda: "#3 " in (self.folder / "demo.log").read_text(), 30)
        prometheus = Prometheus(self, "prometheus", {"demo": admin})
        eventually("some scrapes", lambda: prometheus.query("count_over_time(up[1m]) > 3"), 30)
        samples = tomllib.loads((folder / "devices.toml").read_text())
        key = samples["psk_hex"]
        keys = self.folder / "keys"
        keys.touch(0o600)
        keys.write_text(f"thermo-1:{key}\n")
        Process(self, "thermo-1", BINARY, "load", "--host", "localhost", "--port", mqtt, "--devices", 1,
                "--client-id", "thermo-1", "--psk-file", keys, "--idle", "--subscribe", "--duration", "100s")
        eventually("its link", lambda: 'role="downlink",state="attached"} 1'
                   in get(f"http://127.0.0.1:{admin}/metrics"))
        address = f"http://127.0.0.1:{control}/devices/thermo-1/commands"
        urllib.request.urlopen(address, b"open the valve", timeout=5).close()
        Device(self, mqtt, "valve-9", samples["password"], folder / "ca.pem")
        method = f"http://127.0.0.1:{control}/devices/valve-9/methods/blink?connect=10s&response=10s"
        urllib.request.urlopen(method, b"{}", timeout=20).close()
        eventually("the method and the twin", lambda: prometheus.query(
            "rate(iothub_gateway_method_duration_seconds_count[1m]) > 0") and prometheus.query(
            "rate(iothub_gateway_twin_duration_seconds_count[1m]) > 0"))
        eventually("the command", lambda: prometheus.query(
            "rate(iothub_gateway_downlink_duration_seconds_count[1m]) > 0"))
        return prometheus

    def test_every_query_is_about_known_metrics_and_every_panel_has_data_in_the_demo(self):
        prometheus = self.demo()
        names = json.loads(get(f"http://{prometheus.address}/api/v1/label/__name__/values"))["data"]
        names = set(names) | {"ALERTS"}
        for file in FILES:
            for title, expression in queries(json.loads(file.read_text())):
                where = f"{file.name}: {title}: {expression}"
                used = set(re.findall(r"\b(?:instance\w*:)?(?:iothub_gateway|process)_[a-z0-9_:]+", expression))
                used -= {"iothub_gateway_"}
                self.assertLessEqual(used, names, where)
                found = [series["value"][1] for series in prometheus.query(filled(expression))]
                if title != "Start":
                    self.assertTrue(any(value != "NaN" for value in found), f"{where}: {found}")
        refused = prometheus.query("max_over_time(iothub_gateway_hub_refusals_total[10m]) > 0")
        self.assertIsNone(prometheus.fired().get("demo"), f"no alert in the demo; {refused}")


if __name__ == "__main__":
    BINARY = str(Path(sys.argv.pop(1)).resolve())
    unittest.main(verbosity=1)
