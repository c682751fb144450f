"""An AMQP 1.0 consumer that accepts everything published over MQTT. Needs Qpid Proton."""

import sys

from proton.handlers import MessagingHandler
from proton.reactor import Container


class Sink(MessagingHandler):
    def __init__(self, url):
        super().__init__(prefetch=1000, auto_accept=True)
        self.url = url

    def on_start(self, event):
        connection = event.container.connect(self.url, allowed_mechs="PLAIN")
        # MQTT's slashes are dots there: devices/load-1/… is devices.load-1.…
        event.container.create_receiver(connection, "/exchange/amq.topic/devices.#")

    def on_link_opened(self, event):
        print("attached", flush=True)

    def on_message(self, event):
        pass

    def on_transport_error(self, event):
        print(event.transport.condition, flush=True)


Container(Sink(sys.argv[1])).run()
