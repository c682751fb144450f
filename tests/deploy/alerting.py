#!/usr/bin/env python3
"""The way of an alert beside Prometheus: the alert manager's example, the rules in Kubernetes, and
what compose.yaml mounts where. The images compose.yaml names are not started.

  tests/deploy/alerting.py        (tests/deploy/run installs what it needs)
"""
import json
import os
import re
import unittest

import yaml

from check import DEPLOY, Folder, eventually, free_port, get, run
from gateways import Process

EXAMPLE = DEPLOY / "prometheus/alertmanager.yaml"
COMPOSE = DEPLOY / "container/compose.yaml"


class Alertmanager(Folder):
    def test_critical_alerts_reach_somebody_at_once_and_warnings_by_day(self):
        run("amtool", "check-config", EXAMPLE)
        for severity, receiver in [("critical", "on-call"), ("warning", "office"), ("other", "office")]:
            run("amtool", "config", "routes", "test", f"--config.file={EXAMPLE}",
                f"--verify.receivers={receiver}", f"severity={severity}")

    def test_of_what_follows_from_one_another_only_the_cause_is_told(self):
        address = f"127.0.0.1:{free_port()}"
        Process(self, "alertmanager", "prometheus-alertmanager", f"--config.file={EXAMPLE}",
                f"--storage.path={self.folder}", f"--web.listen-address={address}",
                "--cluster.listen-address=")
        url = f"http://{address}"
        eventually("Alertmanager", lambda: get(f"{url}/-/ready"))
        for name, instance in [("Down", "a"), ("PoisonLoop", "a"), ("PoisonLoop", "b"),
                               ("TokenRefused", "b"), ("NotReady", "b"), ("NotReady", "c")]:
            run("amtool", "alert", "add", f"--alertmanager.url={url}", f"IothubGateway{name}",
                f"instance={instance}", "severity=critical")

        def told():
            query = json.loads(get(f"{url}/api/v2/alerts?inhibited=false"))
            return {(a["labels"]["alertname"].removeprefix("IothubGateway"), a["labels"]["instance"])
                    for a in query}
        expected = {("Down", "a"), ("PoisonLoop", "b"), ("TokenRefused", "b"), ("NotReady", "c")}
        eventually("the causes", lambda: told() == expected)


class Kubernetes(Folder):
    def test_the_rules_there_are_the_rules_here(self):
        made = run(DEPLOY / "prometheus/prometheusrule")
        stands = DEPLOY / "kubernetes/components/monitoring/prometheusrule.yaml"
        self.assertEqual(stands.read_text(), made, "make it anew: deploy/prometheus/prometheusrule")
        rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
        kubectl = os.environ.get("KUBECTL", "kubectl")
        rendered = run(kubectl, "kustomize", DEPLOY / "kubernetes/overlays/three")
        kinds = {document["kind"]: document for document in yaml.safe_load_all(rendered)}
        self.assertEqual(kinds["PrometheusRule"]["spec"], rules)

    def test_the_scraped_job_has_the_name_the_alerts_look_for(self):
        kubectl = os.environ.get("KUBECTL", "kubectl")
        rendered = run(kubectl, "kustomize", DEPLOY / "kubernetes/overlays/three")
        documents = list(yaml.safe_load_all(rendered))
        (monitor,) = [d for d in documents if d["kind"] == "ServiceMonitor"]
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [d for d in documents if d["kind"] == "Service"
                      and wanted.items() <= d["metadata"]["labels"].items()]
        self.assertEqual(service["metadata"]["labels"][monitor["spec"]["jobLabel"]], "iothub-gateway")
        ports = {port["name"] for port in service["spec"]["ports"]}
        self.assertIn(monitor["spec"]["endpoints"][0]["port"], ports)


class Compose(Folder):
    SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]

    def mounts(self, service):
        for mount in self.SERVICES[service]["volumes"]:
            source, inside, *options = mount.split(":")
            if source.startswith("."):
                self.assertEqual(options, ["ro"], mount)
                yield (COMPOSE.parent / source).resolve(strict=True), inside

    def test_what_is_mounted_exists_and_images_and_ports_are_pinned(self):
        for name, service in self.SERVICES.items():
            self.assertRegex(service["image"], r":v?\d+\.\d+\.\d+$")
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            for port in service.get("ports", []):
                self.assertTrue(port == "1883:1883" or port.startswith("127.0.0.1:"), port)
            if "volumes" in service:
                self.assertTrue(list(self.mounts(name)), name)

    def test_prometheus_and_alertmanager_find_what_they_are_started_with(self):
        for name, check in [("prometheus", ["promtool", "check", "config"]),
                            ("alertmanager", ["amtool", "check-config"])]:
            (asked,) = [w.split("=")[1] for w in self.SERVICES[name]["command"] if "config.file" in w]
            folder = self.folder / name
            folder.mkdir()
            for source, inside in self.mounts(name):
                self.assertEqual(os.path.dirname(inside), os.path.dirname(asked))
                (folder / os.path.basename(inside)).write_text(source.read_text())
            run(*check, folder / os.path.basename(asked))

    def test_prometheus_differs_from_the_example_in_addresses_alone(self):
        def settings(file):
            text = re.sub(r"(127\.0\.0\.1|gateway|alertmanager):(\d+)", r"HOST:\2", file.read_text())
            return yaml.safe_load(text)
        self.assertEqual(settings(DEPLOY / "container/prometheus.yaml"),
                         settings(DEPLOY / "prometheus/prometheus.yaml"))
        text = (DEPLOY / "container/prometheus.yaml").read_text()
        for target in re.findall(r'targets: \["([a-z]+):', text):
            self.assertIn(target, self.SERVICES)

    def test_grafana_finds_source_and_dashboards_where_they_are_mounted(self):
        mounts = dict((inside, source) for source, inside in self.mounts("grafana"))
        provisioning = mounts["/etc/grafana/provisioning"]
        (provider,) = yaml.safe_load(
            (provisioning / "dashboards/iothub-gateway.yaml").read_text())["providers"]
        folder = mounts[provider["options"]["path"]]
        home = self.SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertTrue((folder / os.path.basename(home)).exists())
        self.assertEqual(os.path.dirname(home), provider["options"]["path"])
        (source,) = yaml.safe_load(
            (provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
        name, port = re.fullmatch(r"http://([a-z]+):(\d+)", source["url"]).groups()
        self.assertIn(f"127.0.0.1:{port}:{port}", self.SERVICES[name]["ports"])


if __name__ == "__main__":
    unittest.main(verbosity=1)
