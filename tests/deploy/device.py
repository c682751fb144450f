"""A device for tests: MQTT 3.1.1 over TLS with a password. It asks for its twin and answers methods."""

import socket
import ssl
import threading

CONNECT, PUBLISH, SUBSCRIBE = 0x10, 0x30, 0x82


def text(value):
    return len(value).to_bytes(2, "big") + value.encode()


def packet(first, body):
    size, length = len(body), b""
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([first]) + length + body


class Device:
    """Connects at once and serves on a thread until the test's end."""

    def __init__(self, test, port, name, password, ca):
        context = ssl.create_default_context(cafile=ca)
        tcp = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.tls = context.wrap_socket(tcp, server_hostname="localhost")
        test.addCleanup(self.tls.close)
        self.tls.sendall(packet(CONNECT, text("MQTT") + bytes([4, 0xC2, 0, 60])
                                + text(name) + text(name) + text(password)))
        filters = "$iothub/methods/POST/#", "$iothub/twin/res/#"
        self.tls.sendall(packet(SUBSCRIBE, b"\x00\x01" + b"".join(
            text(filter) + b"\x00" for filter in filters)))
        self.tls.sendall(packet(PUBLISH, text("$iothub/twin/GET/?$rid=1")))
        self.tls.settimeout(None)
        threading.Thread(target=self.serve, daemon=True).start()

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.tls.recv(count - len(data))
            if not more:
                raise ConnectionError("the gateway hung up")
            data += more
        return data

    def next(self):
        """Packet type and body of the next packet."""
        first, length, shift = self.take(1)[0], 0, 0
        while True:
            digit = self.take(1)[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                return first, self.take(length)

    def serve(self):
        try:
            while True:
                first, body = self.next()
                if first & 0xF0 != PUBLISH:
                    continue
                topic = body[2:2 + int.from_bytes(body[:2], "big")].decode()
                if topic.startswith("$iothub/methods/POST/"):
                    answer = f"$iothub/methods/res/200/?{topic.partition('?')[2]}"
                    self.tls.sendall(packet(PUBLISH, text(answer) + b"{}"))
        except (OSError, ValueError):
            pass  # the test is over
