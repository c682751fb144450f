#!/usr/bin/env python3
"""What watches the gateway, held against the real programs: rules by promtool, alerts by a Prometheus
that scrapes gateways with and without a fault, dashboards by its API, the alert manager by amtool.

  tests/deploy/monitoring.py BINARY        (tests/deploy/run installs what it needs)
"""
import sys
import unittest
from pathlib import Path

import yaml

from check import DEPLOY, run

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


if __name__ == "__main__":
    BINARY = str(Path(sys.argv.pop(1)).resolve())
    unittest.main(verbosity=1)
