#!/usr/bin/env python3
"""Everything in deploy/ that a machine without a cluster, a container engine or a running systemd can
check: images are built and started, units verified and rated, overlays rendered and held against
Kubernetes' schema, the package built and installed into a folder.

  tests/deploy/check.py BINARY        (as root; tests/run installs what it needs)
"""
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BINARY = ""
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("IOTHUB_")}


def run(*command, **options):
    options = {"cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT,
               "env": ENVIRONMENT, "timeout": 300, **options}
    done = subprocess.run([str(word) for word in command], **options)
    if done.returncode:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def free_port():
    """Below the ports connections get by themselves: nobody else takes it before it is bound."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def eventually(what, ask, seconds=15):
    end = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
            if answer:
                return answer
        except OSError as error:
            answer = error
        if time.monotonic() > end:
            raise AssertionError(f"{what}: {answer}")
        time.sleep(0.1)


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


class Folder(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        if "KEEP" not in os.environ:  # to look at what was written
            self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def start(self, *command, **options):
        log = open(self.folder / "log", "ab")
        child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, **options)
        log.close()

        def stop():
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.addCleanup(stop)
        return child


class Container(Folder):
    """The images, unpacked and started with their own entry point, user and file system."""

    def unpack(self, name):
        with tarfile.open(self.folder / f"{name}.tar") as archive:
            blobs = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
        index = json.loads(blobs["index.json"])

        def blob(descriptor):
            return blobs["blobs/" + descriptor["digest"].replace(":", "/")]
        manifest = json.loads(blob(index["manifests"][0]))
        settings = json.loads(blob(manifest["config"]))["config"]
        root = self.folder / name
        root.mkdir()
        for number, layer in enumerate(manifest["layers"]):
            packed = self.folder / f"{name}-{number}"
            packed.write_bytes(blob(layer))
            run("tar", "-xf", packed, "-C", root)
        return root, settings

    def test_images_start_as_another_user_without_a_shell(self):
        said = run(DEPLOY / "container/build", "--binary", BINARY, "--out", self.folder)
        sizes = [float(size) for size in re.findall(r"([0-9.]+) MB", said)]
        self.assertEqual(len(sizes), 2, said)
        self.assertTrue(all(size < 15 for size in sizes), said)
        print(said, end="")
        gateway, settings = self.unpack("iothub-gateway")
        self.assertEqual(settings["User"], "65532:65532")
        self.assertFalse((gateway / "bin/sh").exists())
        entry = settings["Entrypoint"]
        inside = [shutil.which("chroot"), "--userspec=65532:65532", gateway, *entry]
        self.assertIn("iothub-gateway", run(*inside, "--version"))
        done = subprocess.run([str(w) for w in inside + settings["Cmd"]], text=True, timeout=30,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 66, "without a configuration it says so")
        self.assertIn("/etc/iothub-gateway/gateway.toml", done.stdout)

        emulator, settings = self.unpack("iothub-emulator")
        self.assertIn("5680/tcp", settings["ExposedPorts"])
        inside = [shutil.which("chroot"), "--userspec=65532:65532", emulator, *settings["Entrypoint"]]
        names = dict(pair.split("=", 1) for pair in settings["Env"])
        self.start(*inside, env=names)
        eventually("the emulator's health", lambda: get("http://127.0.0.1:5680/healthz") == "ok\n")
        self.assertIn("connection string HostName=localhost;SharedAccessKeyName=device;",
                      (self.folder / "log").read_text())

    def test_the_bill_of_materials_names_every_crate_and_system_library(self):
        document = json.loads(run(DEPLOY / "container/sbom", "--binary", BINARY, stderr=None))
        names = {component["name"] for component in document["components"]}
        self.assertEqual(document["specVersion"], "1.5")
        self.assertLessEqual({"rustls", "openssl", "tokio", "libssl3"}, names)
        self.assertNotIn("proptest", names, "a test's crate is in no image")
        unlicensed = [c["name"] for c in document["components"]
                      if "cargo" in c["purl"] and "licenses" not in c]
        self.assertEqual(unlicensed, [])


class Systemd(Folder):
    UNITS = sorted((DEPLOY / "systemd").glob("*.service")) + [DEPLOY / "systemd/iothub-gateway.socket"]

    def test_units_are_sound_and_closed(self):
        (self.folder / "iothub-gateway").symlink_to(Path(BINARY).resolve())
        for unit in self.UNITS:
            text = unit.read_text().replace("/usr/bin/iothub-gateway", f"{self.folder}/iothub-gateway")
            text = re.sub(r"(?m)^Documentation=.*\n", "", text)
            (self.folder / unit.name).write_text(text)
        said = run("systemd-analyze", "verify", *sorted(self.folder.glob("*.s*t")),
                   *sorted(self.folder.glob("*.service")))
        self.assertEqual(said.strip(), "")
        for unit in self.UNITS[:2]:
            said = run("systemd-analyze", "security", "--offline=true", "--threshold=15", unit)
            print(unit.name, said.strip().splitlines()[-1].split(": ")[1])

    def test_a_socket_of_systemd_is_taken(self):
        hub, mqtt, admin, control = (free_port() for _ in range(4))
        key = "ZGV2ZWxvcG1lbnQtb25seS1rZXktMDEyMzQ1Njc4OTA="
        (self.folder / "emulator.toml").write_text(f"""
[amqp]
plain_bind = "127.0.0.1:{hub}"
[control]
bind = "127.0.0.1:{control}"
[hub]
host = "h.azure-devices.net"
[[policy]]
name = "device"
rights = ["DeviceConnect"]
primary_key = "{key}"
[[device]]
id = "thermo-1"
""")
        (self.folder / "gateway.toml").write_text(f"""
[hub]
host = "h.azure-devices.net"
policy = "device"
key = "{key}"
endpoint = "amqp://127.0.0.1:{hub}"
[[listener]]
name = "devices"
bind = "127.0.0.1:{mqtt}"
tls = {{}}
[rules]
files = ["rules.toml"]
[admin]
bind = "127.0.0.1:{admin}"
[shutdown]
announce = "0s"
""")
        (self.folder / "rules.toml").write_text("""
[[device]]
id = "thermo-1"
psk = { identity = "thermo-1", key = "hex:00112233445566778899aabbccddeeff" }
""")
        (self.folder / "rules.toml").chmod(0o600)
        self.start(BINARY, "emulator", "-c", self.folder / "emulator.toml")
        notify = self.folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(str(notify))
            supervisor.settimeout(20)
            gateway = self.start(
                "systemd-socket-activate", "-l", f"127.0.0.1:{mqtt}", "--fdname=devices",
                "-E", f"NOTIFY_SOCKET={notify}", "-E", "WATCHDOG_USEC=400000",
                BINARY, "run", "-c", self.folder / "gateway.toml")
            # It starts the service at the first connection, which waits in the queue.
            first = eventually("the socket", lambda: socket.create_connection(("127.0.0.1", mqtt)))
            self.addCleanup(first.close)
            words = [supervisor.recv(1000).decode() for _ in range(3)]
        self.assertIn("READY=1", words[0])
        self.assertIn("WATCHDOG=1", "".join(words[1:]))
        eventually("ready", lambda: '"ready":true' in get(f"http://127.0.0.1:{admin}/ready"))
        log = (self.folder / "log").read_text()
        self.assertIn(f"127.0.0.1:{mqtt}", log)
        self.assertNotIn("it is closed", log)
        self.assertIsNone(gateway.poll())

    def test_the_package_holds_units_examples_and_what_it_depends_on(self):
        run(DEPLOY / "systemd/deb", "--binary", BINARY, "--out", self.folder)
        package = next(self.folder.glob("*.deb"))
        run("dpkg-deb", "-x", package, self.folder / "root")
        share = self.folder / "root/usr/share"
        pages = {page.name for page in (share / "man/man1").iterdir()}
        self.assertLessEqual({"iothub-gateway.1.gz", "iothub-gateway-emulator.1.gz"}, pages)
        for shell in ("bash-completion/completions/iothub-gateway",
                      "zsh/vendor-completions/_iothub-gateway",
                      "fish/vendor_completions.d/iothub-gateway.fish"):
            self.assertGreater((share / shell).stat().st_size, 1000, shell)
        for name in ["usr/bin/iothub-gateway", "lib/systemd/system/iothub-gateway.service",
                     "etc/iothub-gateway/gateway.toml",
                     "usr/share/doc/iothub-gateway/examples/rules.toml"]:
            self.assertTrue((self.folder / "root" / name).exists(), name)
        depends = run("dpkg-deb", "-f", package, "Depends")
        self.assertIn("libssl3", depends)
        mode = (self.folder / "root/etc/iothub-gateway/rules.toml").stat().st_mode & 0o777
        self.assertEqual(mode, 0o640)


class Kubernetes(Folder):
    OVERLAYS = sorted(p.name for p in (DEPLOY / "kubernetes/overlays").iterdir())

    def rendered(self, overlay):
        kubectl = os.environ.get("KUBECTL", "kubectl")
        return run(kubectl, "kustomize", DEPLOY / "kubernetes/overlays" / overlay)

    def test_every_overlay_renders_and_fits_the_schema(self):
        self.assertEqual(self.OVERLAYS, ["certificates", "emulator", "single", "three"])
        validate = Path(sys.executable).parent / "kubernetes-validate"
        for overlay in self.OVERLAYS:
            text = self.rendered(overlay)
            # prometheus-operator's kinds are in no schema of Kubernetes itself.
            documents = [d for d in text.split("\n---\n") if "monitoring.coreos.com" not in d]
            (self.folder / overlay).write_text("\n---\n".join(documents))
            run(validate, "--strict", self.folder / overlay)

    def test_a_pod_has_no_privilege_and_a_hub_outage_does_not_restart_it(self):
        for overlay in self.OVERLAYS:
            text = self.rendered(overlay)
            pod = next(d for d in text.split("\n---\n") if "\nkind: Deployment" in d)
            for line in ["readOnlyRootFilesystem: true", "allowPrivilegeEscalation: false",
                         "runAsUser: 65532", "runAsNonRoot: true", "type: RuntimeDefault",
                         "maxUnavailable: 0", "automountServiceAccountToken: false"]:
                self.assertIn(line, pod, overlay)
            liveness = pod[pod.index("livenessProbe"):][:120]
            self.assertIn("path: /live", liveness)
            readiness = pod[pod.index("readinessProbe"):][:160]
            self.assertIn("path: /ready", readiness)

    def test_with_certificates_probes_scrape_and_the_api_use_tls(self):
        documents = self.rendered("certificates").split("\n---\n")
        pod = next(d for d in documents if "\nkind: Deployment" in d)
        self.assertEqual(pod.count("scheme: HTTPS"), 3, "every probe")
        monitor = next(d for d in documents if "\nkind: ServiceMonitor" in d)
        for line in ["scheme: https", "serverName: iothub-gateway-admin.iothub-gateway.svc"]:
            self.assertIn(line, monitor)
        self.assertIn("name: iothub-gateway-admin\n", "\n".join(documents))
        # What the environment adds to the base is a configuration that can be served.
        pair = [self.folder / name for name in ("tls.crt", "tls.key")]
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "90", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost",
            "-out", pair[0], "-keyout", pair[1])
        shutil.copy(pair[0], self.folder / "ca.crt")
        self.configuration()
        names = re.findall(r"name: (IOTHUB_GATEWAY__\w+)\n\s+value: /run/secrets/tls/(\S+)", pod)
        self.assertEqual(len(names), 5)
        added = {name: str(self.folder / file) for name, file in names}
        said = run(BINARY, "check", "-c", self.folder / "gateway.toml",
                   env={**ENVIRONMENT, **added})
        self.assertIn("admin.tls.cert", said)

    def configuration(self):
        hub = self.folder / "connection-string"
        hub.write_text("HostName=h.azure-devices.net;SharedAccessKeyName=device;"
                       "SharedAccessKey=ZGV2ZWxvcG1lbnQtb25seS1rZXktMDEyMzQ1Njc4OTA=")
        hub.chmod(0o600)
        for name in ["gateway.toml", "rules.toml"]:
            text = (DEPLOY / "kubernetes/base" / name).read_text()
            text = text.replace("/run/secrets/hub", str(self.folder))
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600)

    def test_the_grace_period_is_what_the_configuration_needs(self):
        self.configuration()
        said = run(BINARY, "check", "-c", self.folder / "gateway.toml")
        longest = int(re.search(r"a stop takes at most (\d+) s", said)[1])
        granted = int(re.search(r"terminationGracePeriodSeconds: (\d+)", self.rendered("single"))[1])
        self.assertLessEqual(longest, granted)
        self.assertLess(granted - longest, 30, "not much more than it needs")


if __name__ == "__main__":
    BINARY = str(Path(sys.argv.pop(1)).resolve())
    unittest.main(verbosity=1)
