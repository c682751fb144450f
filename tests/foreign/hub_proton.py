"""A strict IoT-Hub-like hub on qpid-proton, driven by JSON lines; `hub.rs` describes them.

Everything AMQP is proton's: this file decides what is answered, and reports what was seen.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
import threading
import time
import urllib.parse
import uuid
from collections import deque

from proton import Condition, Delivery, Handler, Link, Message, SSLDomain, symbol, timestamp
from proton import int32, ubyte, ulong
from proton.reactor import ApplicationEvent, Container, EventInjector

SETTINGS = json.loads(sys.argv[1])
ADDRESS = re.compile(r"^/devices/([^/]+)/messages/(events|devicebound)$")
OUTCOMES = {
    "accepted": Delivery.ACCEPTED,
    "rejected": Delivery.REJECTED,
    "released": Delivery.RELEASED,
    "modified": Delivery.MODIFIED,
}
ANNOTATIONS = {"iothub-interface-id", "dt-subject"}
CBS_TYPE = "servicebus.windows.net:sastoken"
MESSAGE_BYTES_MAX = 1048576


def report(event, **fields):
    """One line for the test."""
    print(json.dumps({"event": event, **fields}), flush=True)


def fault(what):
    """The peer did what a strict hub does not take."""
    report("fault", what=what)


def text(value):
    """A field as the test compares it."""
    if isinstance(value, (bytes, memoryview)):
        value = bytes(value).decode()
    return None if value is None else str(value)


def symbolic(value):
    """As `text`; proton's symbol of nothing is the text None."""
    return None if value in (None, "None") else str(value)


def error(condition, description):
    """An error as the service forms it (wire sheet 6.1)."""
    info = {
        symbol("com.microsoft:tracking-id"): uuid.uuid4().hex,
        symbol("com.microsoft:is-filtered"): True,
    }
    return Condition(condition, description, info)


def token_end(token):
    """When a token ends, in seconds since 1970; an error if it is not one of this hub's."""
    scheme, _, rest = token.partition(" ")
    fields = dict(field.split("=", 1) for field in rest.split("&"))
    if scheme != "SharedAccessSignature" or not {"sr", "sig", "se"} <= set(fields):
        raise ValueError("malformed token")
    signed = f"{fields['sr']}\n{fields['se']}".encode()
    key = base64.b64decode(SETTINGS["policy_key"])
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    if urllib.parse.unquote(fields["sig"]) != signature:
        raise ValueError("invalid signature")
    if urllib.parse.unquote(fields["sr"]) != SETTINGS["host"] + "/devices":
        raise ValueError("wrong scope")
    return int(fields["se"])


class Peer:
    """What is kept of a connection."""

    def __init__(self, number):
        self.number = number
        self.token_end = 0
        self.replies = deque()
        self.reply_link = None


class Seat:
    """What is kept of a link."""

    def __init__(self, kind, device, peer):
        self.kind = kind
        self.device = device
        self.peer = peer
        self.gone = False
        self.received = 0
        self.flights = {}


class Hub(Handler):
    """All of it, in proton's one thread."""

    def __init__(self):
        super().__init__()
        self.limits = {}
        self.connections = 0
        self.links = {}
        self.answers = {}
        self.statuses = deque()
        self.queues = {}

    # The test's orders.

    def on_reactor_init(self, event):
        container = event.reactor
        domain = SSLDomain(SSLDomain.MODE_SERVER)
        domain.set_credentials(SETTINGS["cert"], SETTINGS["key"], None)
        domain.set_peer_authentication(SSLDomain.ANONYMOUS_PEER)
        acceptor = container.acceptor("127.0.0.1", 0)
        acceptor.set_ssl_domain(domain)
        injector = EventInjector()
        container.selectable(injector)
        threading.Thread(target=listen, args=(injector,), daemon=True).start()
        port = acceptor._selectable._delegate.getsockname()[1]
        report("listening", port=port)

    def on_order(self, event):
        order = event.subject
        getattr(self, "order_" + order["do"])(order)
        report("done", order=order["order"])

    def order_nothing(self, order):
        pass

    def order_limits(self, order):
        self.limits = order

    def order_answer(self, order):
        self.answers.setdefault(order["device"], deque()).extend(order["outcomes"])

    def order_token(self, order):
        self.statuses.extend(order["statuses"])

    def order_command(self, order):
        self.queues.setdefault(order["device"], deque()).append({"count": 0, **order})
        self.pump(order["device"])

    def order_close(self, order):
        link = self.links[(order["link"], order["device"])]
        what = {"link": link, "session": link.session, "connection": link.connection}
        end = what[order["what"]]
        if order.get("condition"):
            end.condition = error(order["condition"], order["description"])
        if order["what"] == "link":
            self.drop(link)
            link.close() if order.get("closed", True) else link.detach()
            return
        for other in list(self.links.values()):
            if order["what"] == "connection" or other.session == link.session:
                if other.connection == link.connection:
                    self.drop(other)
        end.close()

    # Connections and sessions.

    def on_connection_bound(self, event):
        transport = event.transport
        transport.sasl().allowed_mechs("ANONYMOUS")
        transport.require_auth(True)
        transport.max_frame_size = self.limits.get("max_frame", 65536)
        transport.channel_max = self.limits.get("channel_max", 8191)
        # Proton announces half of what it waits.
        transport.idle_timeout = self.limits.get("idle_ms", 240000) * 2 / 1000

    def on_connection_remote_open(self, event):
        connection, transport = event.connection, event.transport
        self.connections += 1
        connection.peer = Peer(self.connections)
        connection.container = "proton-hub"
        report(
            "open",
            connection=self.connections,
            container=connection.remote_container,
            max_frame=transport.remote_max_frame_size,
            channel_max=transport.remote_channel_max,
            idle_ms=round(transport.remote_idle_timeout * 1000),
        )
        if connection.remote_hostname != SETTINGS["host"]:
            fault(f"Open.hostname is {connection.remote_hostname}")
        connection.open()

    def on_session_remote_open(self, event):
        report("begin", connection=event.connection.peer.number)
        event.session.open()

    def on_session_remote_close(self, event):
        for link in list(self.links.values()):
            if link.session == event.session:
                self.drop(link)
        report("end", connection=event.connection.peer.number)
        event.session.close()

    def on_connection_remote_close(self, event):
        condition = event.connection.remote_condition
        report("close", connection=event.connection.peer.number, error=condition and str(condition))
        event.connection.close()

    def on_transport_error(self, event):
        condition = event.transport.condition
        report("transport_error", error=str(condition))
        # A socket that is closed is no fault of AMQP.
        if not re.search("connection aborted|unexpected eof", condition.description or ""):
            fault(str(condition))

    def on_transport_closed(self, event):
        peer = getattr(event.connection, "peer", None)
        for link in list(self.links.values()):
            if link.connection == event.connection:
                self.drop(link)
        report("gone", connection=peer and peer.number)

    # Links.

    def on_link_remote_open(self, event):
        link = event.link
        peer = link.connection.peer
        receiving = link.is_receiver
        address = (link.remote_target if receiving else link.remote_source).address
        kind, device = ("cbs-in" if receiving else "cbs-out"), None
        if address != "$cbs":
            match = ADDRESS.match(address or "")
            if not match or receiving != (match[2] == "events"):
                return self.refuse(link, "amqp:not-found", f"no such address {address}")
            kind, device = ("telemetry" if receiving else "commands"), match[1]
            if peer.token_end < time.time():
                return self.refuse(link, "amqp:unauthorized-access", "no token")
            if (kind, device) in self.links:
                fault(f"a second {kind} link of {device}")
        link.seat = Seat(kind, device, peer)
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode = link.remote_snd_settle_mode
        if kind == "commands":
            link.rcv_settle_mode = Link.RCV_SECOND
        elif receiving:
            link.max_message_size = MESSAGE_BYTES_MAX
        if kind == "cbs-out":
            peer.reply_link = link
        self.links[(kind, device)] = link
        link.open()
        report("attach", connection=peer.number, link=kind, device=device)
        if receiving:
            link.flow(100 if kind == "cbs-in" else self.limits.get("credit", 1000))
        else:
            self.pump(device)

    def refuse(self, link, condition, description):
        report("refused", condition=condition, description=description)
        link.seat = Seat("refused", None, link.connection.peer)
        link.seat.gone = True
        link.open()
        link.condition = error(condition, description)
        link.close()

    def on_link_remote_close(self, event):
        self.detached(event.link)
        event.link.close()

    def on_link_remote_detach(self, event):
        self.detached(event.link)
        event.link.detach()

    def detached(self, link):
        seat = link.seat
        by = "hub" if seat.gone else "peer"
        report("detach", connection=seat.peer.number, link=seat.kind, device=seat.device, by=by)
        self.drop(link)

    def drop(self, link):
        """Commands that were not settled are given out again."""
        seat = link.seat
        seat.gone = True
        for command in reversed(seat.flights.values()):
            self.queues[seat.device].appendleft(command)
        seat.flights = {}
        if self.links.get((seat.kind, seat.device)) == link:
            del self.links[(seat.kind, seat.device)]

    def on_link_flow(self, event):
        seat = getattr(event.link, "seat", None)
        if seat and seat.kind == "cbs-out":
            self.reply(seat.peer)
        elif seat and seat.kind == "commands":
            self.pump(seat.device)

    # Messages.

    def on_delivery(self, event):
        delivery, link = event.delivery, event.link
        if link.seat.gone:
            return
        if link.is_sender:
            self.outcome(link, delivery)
        elif delivery.aborted:
            fault("an aborted delivery")
        elif delivery.readable and not delivery.partial:
            raw = link.recv(delivery.pending)
            link.advance()
            message = Message()
            message.decode(raw)
            if delivery.settled:
                fault("a message sent settled")
            if link.seat.kind == "cbs-in":
                delivery.update(Delivery.ACCEPTED)
                delivery.settle()
                self.put_token(link, message)
            else:
                self.telemetry(link, delivery, message, raw)

    def put_token(self, link, message):
        peer, asked = link.seat.peer, message.properties or {}
        if asked.get("operation") != "put-token" or asked.get("type") != CBS_TYPE:
            fault(f"no put-token: {asked}")
        if not asked.get("name") or not isinstance(message.body, str):
            fault("a put-token without a name or a token")
        status, words = (self.statuses.popleft() if self.statuses else 200), "OK"
        try:
            end = token_end(message.body)
            if end < time.time():
                raise ValueError("expired")
        except (ValueError, KeyError) as refusal:
            status, words = 401, str(refusal)
        if status in (200, 202):
            peer.token_end = end
        else:
            words = words if words != "OK" else "refused as told"
        answer = Message(correlation_id=message.id)
        answer.properties = {"status-code": int32(status), "status-description": words}
        peer.replies.append(answer)
        report("token", connection=peer.number, name=asked.get("name"), status=status)
        link.flow(1)
        self.reply(peer)

    def reply(self, peer):
        link = peer.reply_link
        while peer.replies and link and link.credit > 0:
            send(link, peer.replies.popleft(), uuid.uuid4().hex[:4])

    def telemetry(self, link, delivery, message, raw):
        seat = link.seat
        if seat.peer.token_end < time.time():
            fault("a message under a token that has ended")
        annotations = {str(key): text(value) for key, value in (message.annotations or {}).items()}
        for key in set(annotations) - ANNOTATIONS:
            fault(f"the annotation {key}")
        for key, value in (message.properties or {}).items():
            if type(key) is not str or type(value) is not str:
                fault(f"the application property {key} is no string")
        answers = self.answers.get(seat.device)
        answer = answers.popleft() if answers else {"state": "accepted"}
        expiry = message.expiry_time
        report(
            "message",
            connection=seat.peer.number,
            device=seat.device,
            properties={
                "message-id": text(message.id),
                "user-id": text(message.user_id) or None,
                "to": text(message.address),
                "correlation-id": text(message.correlation_id),
                "content-type": symbolic(message.content_type),
                "content-encoding": symbolic(message.content_encoding),
                "expiry-ms": round(expiry * 1000) if expiry else None,
            },
            application={key: text(value) for key, value in (message.properties or {}).items()},
            annotations=annotations,
            body=base64.b64encode(bytes(message.body)).decode(),
            raw=base64.b64encode(raw).decode(),
            answer=answer["state"],
        )
        if answer["state"] != "none":
            if answer.get("condition"):
                delivery.local.condition = error(answer["condition"], answer["description"])
            if answer.get("failed"):
                delivery.local.failed = True
            delivery.update(OUTCOMES[answer["state"]])
            delivery.settle()
        if link.credit < 0:
            fault("a message beyond the credit")
        seat.received += 1
        step = min(100, self.limits.get("credit", 1000))
        if seat.received % step == 0:
            link.flow(step)

    # Commands.

    def pump(self, device):
        link, queue = self.links.get(("commands", device)), self.queues.get(device)
        while link and queue and link.credit > 0:
            command = queue.popleft()
            tag = uuid.uuid4().hex[:16]
            message = Message(id=command["id"], address=f"/devices/{device}/messages/devicebound")
            message.properties = command.get("application") or None
            message.annotations = {
                symbol("x-opt-lock-token"): tag,
                symbol("x-opt-sequence-number"): ulong(7),
                symbol("iothub-enqueuedtime"): timestamp(int(time.time() * 1000)),
                symbol("iothub-deliverycount"): ubyte(command["count"]),
            }
            message.inferred = True
            unreadable = command.get("unreadable")
            message.body = [1, 2] if unreadable else base64.b64decode(command["body"])
            link.seat.flights[tag] = command
            send(link, message, tag)
            report("sent", device=device, command=command["id"])

    def outcome(self, link, delivery):
        seat, state = link.seat, delivery.remote_state
        if not delivery.settled and not state:
            return
        if seat.kind == "cbs-out":
            return delivery.settle()
        command = seat.flights.pop(delivery.tag)
        names = {number: name for name, number in OUTCOMES.items()}
        name = names.get(state, str(state))
        report(
            "outcome",
            device=seat.device,
            command=command["id"],
            state=name,
            failed=name == "modified" and delivery.remote.failed,
            settled=delivery.settled,
        )
        delivery.settle()
        if name not in ("accepted", "rejected"):
            command["count"] += 1
            self.queues[seat.device].appendleft(command)
            self.pump(seat.device)


def send(link, message, tag):
    """Queues a message, unsettled."""
    link.delivery(tag)
    link.send(message.encode())
    link.advance()


def listen(injector):
    """Orders, from standard input; the end of it is the end."""
    for line in sys.stdin:
        injector.trigger(ApplicationEvent("order", subject=json.loads(line)))
    os._exit(0)


if __name__ == "__main__":
    Container(Hub()).run()
