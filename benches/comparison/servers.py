"""The servers compared: each starts on a fresh port with the same fleet, and can be stopped."""

import base64
import os
import shutil
import subprocess
import sys
import time

from .system import Failed, Process, free_port, http_text, listens, output, say, wait_until

HUB = "compare.azure-devices.net"
POLICY_KEY = base64.b64encode(b"compare-policy-key-0123456789abc").decode()
DEVICE_KEY = base64.b64encode(b"compare-device-key-0123456789abc").decode()


class Fleet:
    """Certificates, keys and rules of `load-0 … load-(n-1)`, in one folder."""

    def __init__(self, folder, devices):
        self.folder, self.devices = folder, devices
        os.makedirs(folder, exist_ok=True)
        self.psk_file = self.write("fleet.psk", "".join(
            f"load-{n}:{0xab:02x}{n:030x}\n" for n in range(devices)))
        self.sas_keys = self.write("device.key", DEVICE_KEY + "\n")
        self.write("hub-key", POLICY_KEY)
        self.write("rules-psk.toml", '[[psk_file]]\npath = "fleet.psk"\n')
        self.write("rules-plain.toml", "".join(
            f'[[device]]\nid = "load-{n}"\nsas = {{ primary_key = "{DEVICE_KEY}" }}\n'
            for n in range(min(devices, 2000))))
        self.certificates()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(text)
        return self.path(name)

    def certificates(self):
        """An authority and a certificate for localhost, by the openssl command."""
        ext = self.write("server.ext", "subjectAltName = DNS:localhost\n"
                                       "extendedKeyUsage = serverAuth\n")
        make = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        ca, key = self.path("ca.pem"), self.path("ca.key")
        for command in (
            make + ["-x509", "-days", "3650", "-subj", "/CN=compare", "-keyout", key, "-out", ca],
            make + ["-subj", "/CN=localhost", "-keyout", self.path("server.key"),
                    "-out", self.path("server.csr")],
            ["openssl", "x509", "-req", "-in", self.path("server.csr"), "-CA", ca, "-CAkey", key,
             "-CAcreateserial", "-days", "3650", "-extfile", ext, "-out", self.path("server.pem")],
        ):
            subprocess.run(command, check=True, capture_output=True)
        os.chmod(self.path("server.key"), 0o600)


class Gateway:
    """Gateway, and the emulator as its hub, over TLS as with the real one."""

    name = "gateway"
    kinds = ("plain", "psk")

    def __init__(self, binary, fleet, cpus, kind, devices, token=None, through=None):
        self.port, self.admin, self.control = free_port(), free_port(), free_port()
        amqps = free_port()
        server, aside = cpus
        emulator = fleet.write("emulator.toml", self.emulator_toml(amqps, fleet.devices))
        hub = through(amqps) if through else amqps
        config = fleet.write("gateway.toml", self.gateway_toml(hub, kind, devices, token))
        self.emulator = Process([binary, "emulator", "-c", emulator], fleet.path("emulator.log"),
                                aside)
        self.extra, self.process = [self.emulator], None
        try:
            wait_until("the emulator", 30, lambda: http_text(self.control, "/stats"))
            self.process = Process([binary, "run", "-c", config], fleet.path("gateway.log"), server)
            wait_until("the gateway", 60, self.ready)
        except Exception:
            self.stop()
            raise

    def ready(self):
        self.process.check()
        return http_text(self.admin, "/ready") is not None

    def emulator_toml(self, amqps, devices):
        return (f'[amqp]\nbind = "127.0.0.1:{amqps}"\n'
                'tls = { cert = "server.pem", key = "server.key" }\n'
                f'[control]\nbind = "127.0.0.1:{self.control}"\n[hub]\nhost = "{HUB}"\n'
                '[[policy]]\nname = "device"\nrights = ["DeviceConnect"]\n'
                f'primary_key = "{POLICY_KEY}"\n'
                f'[[device_range]]\nprefix = "load-"\ncount = {devices}\n'
                '[limits]\nledger_entries_max = 20000000\nledger_bytes_max = 1048576\n')

    def gateway_toml(self, amqps, kind, devices, token):
        ttl, at = token or ("1h", 0.85)
        accept, tls = ('["psk"]', "tls = {}\n") if kind == "psk" else ('["sas"]', "")
        return (f'[hub]\nhost = "{HUB}"\npolicy = "device"\nkey = "${{file:hub-key}}"\n'
                f'endpoint = "amqps://localhost:{amqps}"\nca = "ca.pem"\n'
                f'token_ttl = "{ttl}"\nrenew_at = {at}\nattach_rate = "100000/s"\n'
                f'[[listener]]\nname = "{kind}"\nbind = "127.0.0.1:{self.port}"\n'
                f'accept = {accept}\n{tls}'
                f'[rules]\nfiles = ["rules-{kind}.toml"]\n'
                f'[admin]\nbind = "127.0.0.1:{self.admin}"\n'
                # Sizes the pool of hub connections, as in a deployment for these devices.
                f'[limits]\nconnections = {devices + 100}\n'
                f'connections_per_source = {devices + 100}\n'
                '[shutdown]\nannounce = "0s"\nsettle = "1s"\nclose = "1s"\n'
                '[log]\nfilter = "warn"\n')

    def stop(self):
        for process in [self.process, *self.extra]:
            if process:
                process.stop()


class Mosquitto:
    """Mosquitto 2: acknowledges by itself, nothing stands behind it."""

    name = "mosquitto"
    kinds = ("plain", "psk")

    def __init__(self, binary, fleet, cpus, kind, devices, token=None):
        self.port = free_port()
        psk = (f"psk_file {fleet.psk_file}\npsk_hint compare\nuse_identity_as_username true\n"
               if kind == "psk" else "")
        config = fleet.write("mosquitto.conf", (
            f"listener {self.port} 127.0.0.1\n{psk}allow_anonymous true\npersistence false\n"
            "max_connections -1\nset_tcp_nodelay true\nlog_dest stderr\nlog_type error\n"
            + ("user root\n" if os.getuid() == 0 else "")))
        self.process = Process([shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", config],
                               fleet.path("mosquitto.log"), cpus[0])
        self.extra = []
        try:
            wait_until("mosquitto", 15, lambda: self.process.check() or listens(self.port))
        except Exception:
            self.stop()
            raise

    stop = Gateway.stop


class RabbitMq:
    """RabbitMQ with its MQTT plugin, and an AMQP 1.0 consumer that takes every message."""

    name = "rabbitmq"
    kinds = ("plain",)  # its MQTT plugin has no TLS-PSK

    def __init__(self, binary, fleet, cpus, kind, devices, token=None):
        self.port, amqp, dist, epmd = (free_port() for _ in range(4))
        home = fleet.path("rabbitmq")
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        plugins = fleet.write("rabbitmq/plugins", "[rabbitmq_mqtt,rabbitmq_amqp1_0].\n")
        config = fleet.write("rabbitmq/rabbitmq.conf", (
            f"listeners.tcp.1 = 127.0.0.1:{amqp}\nmqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "mqtt.allow_anonymous = true\nmqtt.default_user = guest\nmqtt.default_pass = guest\n"
            "mqtt.exchange = amq.topic\nlog.file.level = error\n"))
        env = {
            "HOME": home, "RABBITMQ_NODENAME": f"compare{dist}@localhost",
            "RABBITMQ_DIST_PORT": str(dist), "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_MNESIA_BASE": home,
            "RABBITMQ_LOG_BASE": home, "RABBITMQ_ENABLED_PLUGINS_FILE": plugins,
            "RABBITMQ_CONFIG_FILE": config, "RABBITMQ_PID_FILE": f"{home}/pid",
            # Erlang counts processors, not those it may use.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1" if cpus[0] is not None else "",
        }
        # Erlang's name server would otherwise start by itself and stay.
        names = Process(["epmd", "-port", epmd, "-address", "127.0.0.1"],
                        fleet.path("epmd.log"), cpus[1])
        self.process, self.extra = None, [names]
        try:
            wait_until("epmd", 10, lambda: names.check() or listens(epmd))
            self.script = Process(["/usr/lib/rabbitmq/bin/rabbitmq-server"],
                                  fleet.path("rabbitmq.log"), cpus[0], env)
            self.extra.insert(0, self.script)
            wait_until("rabbitmq", 90, lambda: self.script.check() or listens(self.port))
            self.process = Beam(int(open(f"{home}/pid").read()))
            consumer = Process([qpid(fleet), "-m", "comparison.consumer",
                                f"amqp://guest:guest@127.0.0.1:{amqp}"],
                               fleet.path("consumer.log"), cpus[1],
                               cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                               env={"PYTHONDONTWRITEBYTECODE": "1"})
            self.extra.insert(0, consumer)
            log = fleet.path("consumer.log")
            wait_until("the AMQP consumer", 30, lambda: consumer.check() or "attached" in open(
                log, errors="replace").read())
        except Exception:
            self.stop()
            raise

    def stop(self):
        for process in self.extra:
            process.stop()
        # The Erlang machine may outlive its script by a moment.
        if self.process:
            wait_until("the end of rabbitmq", 30, lambda: not os.path.exists(
                f"/proc/{self.process.pid}"))


class Beam:
    """The Erlang machine, a child of the script that was started."""

    cpu_s, resident_kib = Process.cpu_s, Process.resident_kib

    def __init__(self, pid):
        self.pid = pid

    def check(self):
        if not os.path.exists(f"/proc/{self.pid}"):
            raise Failed("rabbitmq ended")


class Bare:
    """`benches/bare.rs`: handshake, CONNACK, silence."""

    name = "bare handshake"
    kinds = ("psk",)

    def __init__(self, binary, fleet, cpus, kind, devices, token=None):
        self.port, self.extra = free_port(), []
        self.process = Process([bare_binary(binary), "serve", self.port, fleet.psk_file],
                               fleet.path("bare.log"), cpus[0])
        try:
            wait_until("the bare server", 15, lambda: self.process.check() or listens(self.port))
        except Exception:
            self.stop()
            raise

    stop = Gateway.stop


def bare_binary(_binary, memory={}):
    """Built on first use; IOTHUB_BARE_BIN names one that is there already."""
    if "path" not in memory:
        memory["path"] = os.environ.get("IOTHUB_BARE_BIN") or cargo_executable(
            ["bench", "--no-run", "--bench", "bare"], "bare")
    return memory["path"]


def cargo_executable(arguments, name):
    import json
    command = ["cargo", *arguments, "--locked", "--message-format=json-render-diagnostics"]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        raise Failed(f"{' '.join(command)} failed")
    for line in built.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message["target"]["name"] == name:
            return message["executable"]
    raise Failed(f"cargo built no {name}")


def qpid(fleet):
    """A Python that has Qpid Proton, in an environment of its own below target/."""
    python = os.path.join(os.path.dirname(fleet.folder), "venv", "bin", "python")
    if not output(python, "-c", "import proton; print(1)"):
        say("installing python-qpid-proton into target/compare/venv")
        venv = os.path.dirname(os.path.dirname(python))
        for command in ([sys.executable, "-m", "venv", venv],
                        [python, "-m", "pip", "install", "--quiet", "python-qpid-proton"]):
            if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
                raise Failed("python-qpid-proton cannot be installed")
    return python


def missing(server):
    """Why a peer cannot run here, None when it can. Installs its Debian package as root."""
    needs = {"mosquitto": ("mosquitto", "/usr/sbin/mosquitto"),
             "rabbitmq": ("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")}
    if server.name not in needs:
        return None
    package, path = needs[server.name]
    if os.path.exists(path):
        return None
    if os.getuid() == 0 and shutil.which("apt-get"):
        say(f"installing {package}")
        # Exit status 101: the package must not start its service.
        policy = "/usr/sbin/policy-rc.d"
        own = not os.path.exists(policy)
        if own:
            with open(policy, "w", opener=lambda p, f: os.open(p, f, 0o755)) as file:
                file.write("#!/bin/sh\nexit 101\n")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
                 "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        try:
            subprocess.run(["apt-get", "update", "-qq"], **quiet)
            subprocess.run(["apt-get", "install", "-y", "-qq", package], **quiet)
        finally:
            if own:
                os.remove(policy)
        time.sleep(1)
    return None if os.path.exists(path) else f"{server.name} left out: {package} is not installed"
