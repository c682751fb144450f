"""What the upstream costs: links, a hub far away, commands, and messages with nothing pinned."""

import asyncio
import http.client
import itertools
import json
import re
import threading
import time

from .runs import median, message, once, ratio
from .servers import Gateway, Mosquitto, missing
from .system import Failed, http_text, wait_until

# One way, seconds.
FAR = 0.03
COMMAND_SENDERS = 4
# Between looks at the metrics while processor time is counted, seconds: each look costs some.
SELDOM = 0.5


def unpinned(bench):
    """CPU per QoS 1 message over PSK with all processors for everybody: gateway and Mosquitto."""
    notes, servers = [], [Gateway]
    why = missing(Mosquitto)
    if why:
        notes.append(why)
    else:
        servers.append(Mosquitto)
    bench.cpus = (None, None)
    try:
        found = bench.turns({
            server.name: lambda server=server: once(
                bench, server, "psk", bench.options.devices, *bench.window())
            for server in servers})
    finally:
        bench.cpus = tuple(bench.options.cpus)
    rows = {name: message(reports) for name, reports in found.items()}
    return {"rows": rows, "devices": bench.options.devices, "notes": notes,
            "ratio": ratio(rows["gateway"], rows.get("mosquitto", {}), "us_per_message")}


def count(admin, name, *labels):
    """The sum of a family's values whose labels are these, e.g. `state="attached"`."""
    text = http_text(admin, "/metrics") or ""
    lines = re.findall(rf"(?m)^iothub_gateway_{name}(\{{.*\}})? (\S+)$", text)
    return sum(float(value) for found, value in lines
               if all(label in found for label in labels))


def attached(running):
    """Links of commands that are there."""
    return count(running.admin, "hub_links", 'role="downlink"', 'state="attached"')


def fault(running, name):
    """Injects a fault of the emulator on all connections."""
    hub = http.client.HTTPConnection("127.0.0.1", running.control)
    hub.request("POST", "/faults", json.dumps({"name": name}),
                {"Content-Type": "application/json"})
    answer = hub.getresponse()
    if answer.status >= 300:
        raise Failed(f"the fault {name}: {answer.status} {answer.read().decode()}")


def links(bench):
    """CPU per link attached anew after a cut: of telemetry, by a message of each device after it
    and one before; of commands, all at once."""
    devices = bench.options.links

    def messages():
        running = bench.start(Gateway, "psk", devices)
        spent = []

        def reading(sent):
            wait_until(f"{sent} messages", 120, lambda: count(
                running.admin, "messages_total", 'result="accepted"') >= sent, SELDOM)
            spent.append(running.process.cpu_s())

        def rounds():
            for sent in (1, 2, 3):
                reading(sent * devices)
                if sent == 2:
                    fault(running, "KillTcp")
        try:
            # Each device has its turn once in two seconds.
            bench.load(running, "psk", devices, "--rate", devices // 2, "--connect-rate",
                       bench.options.connect_rate, "--warmup", "1s", "--duration", "12s",
                       during=rounds)
        finally:
            running.stop()
        before, after = spent[1] - spent[0], spent[2] - spent[1]
        return 1e6 * (after - before) / devices

    def anew():
        running = bench.start(Gateway, "psk", devices)
        spent = []

        def cut():
            wait_until("all links", 120, lambda: attached(running) >= devices)
            before = running.process.cpu_s()
            fault(running, "KillTcp")
            wait_until("the cut", 5, lambda: attached(running) < devices)
            wait_until("all links again", 60, lambda: attached(running) >= devices, SELDOM)
            spent.append(running.process.cpu_s() - before)
        try:
            bench.load(running, "psk", devices, "--idle", "--subscribe", "--connect-rate",
                       bench.options.connect_rate, "--warmup", "1s", "--duration", "20s",
                       during=cut)
        finally:
            running.stop()
        return 1e6 * spent[0] / devices

    found = bench.turns({
        "telemetry": messages,
        "commands": anew,
    })
    return {"rows": {name: {"us_per_link": median(runs)} for name, runs in found.items()},
            "devices": devices}


class FarLine:
    """A TCP proxy whose every byte comes `FAR` seconds later, both ways; on a thread of its own."""

    def __init__(self, port):
        self.target, self.writers = port, set()
        self.loop = asyncio.new_event_loop()
        self.port = self.loop.run_until_complete(self.listen())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    async def listen(self):
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0, limit=1 << 20)
        return self.server.sockets[0].getsockname()[1]

    async def accept(self, reader, writer):
        there, onward = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 20)
        self.writers |= {writer, onward}
        await asyncio.gather(self.carry(reader, onward), self.carry(there, writer))

    async def carry(self, reader, writer):
        while data := await reader.read(1 << 16):
            self.loop.call_later(FAR, writer.write, data)
        self.loop.call_later(FAR, writer.close)

    def cut(self):
        """Ends all connections."""
        def close():
            for writer in self.writers:
                writer.transport.abort()
            self.writers.clear()
        self.loop.call_soon_threadsafe(close)

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def far(bench):
    """How long links take that are attached anew over a line of 30 ms each way, no attach_rate."""
    devices = bench.options.links

    def run():
        lines, took = [], []

        def through(port):
            lines.append(FarLine(port))
            return lines[0].port
        running = bench.start(Gateway, "psk", devices, through=through)

        def cut():
            wait_until("all links", 120, lambda: attached(running) >= devices)
            lines[0].cut()
            begun = time.monotonic()
            wait_until("the cut", 5, lambda: attached(running) < devices)
            wait_until("all links again", 60, lambda: attached(running) >= devices)
            took.append(time.monotonic() - begun)
        try:
            bench.load(running, "psk", devices, "--idle", "--subscribe", "--connect-rate",
                       bench.options.connect_rate, "--warmup", "1s", "--duration", "30s",
                       during=cut)
        finally:
            running.stop()
            lines[0].stop()
        return took[0]
    found = bench.turns({"far": run})
    return {"links": devices, "seconds": median(found["far"])}


def commands(bench):
    """CPU per command, hub → device → accepted, ÷ per message at as many a second."""
    devices, seconds = bench.options.devices, bench.options.seconds

    def sent_commands():
        running = bench.start(Gateway, "psk", devices)
        figures = {}

        def send():
            wait_until("the links", 60, lambda: attached(running) >= devices)
            figures.update(commanded(running, devices, seconds))
        try:
            bench.load(running, "psk", devices, "--idle", "--subscribe", "--warmup", "1s",
                       "--duration", f"{seconds + 8}s", during=send)
        finally:
            running.stop()
        return figures

    def pair():
        down = sent_commands()
        up = once(bench, Gateway, "psk", devices, *bench.window("--rate", int(down["per_s"])))
        return {"commands": down["us"], "messages": up["server"]["cpu_us_per_message"],
                "rate": int(down["per_s"])}

    found = bench.turns({"commands, then messages": pair})["commands, then messages"]
    rows = {name: {"us_per_message": median(run[name] for run in found)}
            for name in ("commands", "messages")}
    return {"rows": rows, "devices": devices, "rate": int(median(run["rate"] for run in found)),
            "ratio": median(run["commands"] / run["messages"] for run in found)}


def commanded(running, devices, seconds):
    """Sends commands to one device after the other as fast as the emulator takes them."""
    end, failures, turn = time.monotonic() + seconds, [], itertools.count()

    def sender():
        hub = http.client.HTTPConnection("127.0.0.1", running.control)
        while time.monotonic() < end:
            hub.request("POST", f"/devices/load-{next(turn) % devices}/commands", b"x" * 256)
            answer = hub.getresponse()
            answer.read()
            if answer.status >= 300 and answer.status != 403:  # 403: 50 wait for that device
                failures.append(answer.status)
                return
    done = 'direction="downlink"', 'result="accepted"'
    before, cpu = count(running.admin, "messages_total", *done), running.process.cpu_s()
    senders = [threading.Thread(target=sender) for _ in range(COMMAND_SENDERS)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()
    if failures:
        raise Failed(f"the emulator answered a command with {failures[0]}")
    time.sleep(1)  # what is under way
    accepted = count(running.admin, "messages_total", *done) - before
    return {"us": 1e6 * (running.process.cpu_s() - cpu) / accepted, "per_s": accepted / seconds}
