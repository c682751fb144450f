"""The official device SDK, unmodified, through the gateway: 100 messages, its twin, one command, a
change of desired properties and a method.

Arguments: hub host, device id, CA file; "websockets" for those. The device key comes from the environment. The SDK's port
is 8883, or 443 over WebSocket; its gateway host is localhost.
"""

import os
import sys
import threading

from azure.iot.device import IoTHubDeviceClient, Message, MethodResponse

hub, device, ca = sys.argv[1:4]
with open(ca, encoding="ascii") as file:
    trusted = file.read()

client = IoTHubDeviceClient.create_from_connection_string(
    f"HostName={hub};DeviceId={device};SharedAccessKey={os.environ['DEVICE_KEY']}"
    ";GatewayHostName=localhost",
    server_verification_cert=trusted,
    websockets="websockets" in sys.argv[4:],
)
arrived = threading.Event()


def on_command(command):
    print("command", command.data.decode(), command.custom_properties.get("unit"), flush=True)
    arrived.set()


client.connect()
client.on_message_received = on_command
for number in range(100):
    message = Message(f'{{"n":{number}}}')
    message.content_type = "application/json"
    message.content_encoding = "utf-8"
    message.message_id = f"sdk-{number}"
    message.custom_properties["number"] = str(number)
    message.custom_properties["text"] = "a b&c=d/ä"
    client.send_message(message)
print("sent", flush=True)
drops = 0


def on_state():
    global drops
    drops += 0 if client.connected else 1


client.on_connection_state_change = on_state
called = threading.Event()


def on_method(request):
    answer = {"name": request.name, "got": request.payload}
    client.send_method_response(MethodResponse(request.request_id, 202, answer))
    called.set()


def on_desired(patch):
    print("desired", patch["interval"], patch["$version"], flush=True)


client.on_method_request_received = on_method
client.on_twin_desired_properties_patch_received = on_desired
twin = client.get_twin()
client.patch_twin_reported_properties({"a": twin["desired"]["interval"]})
print("twin", twin["desired"]["interval"], flush=True)
if not (arrived.wait(30) and called.wait(30)):
    sys.exit("no command or no method within 30 s")
kept = drops == 0
client.shutdown()
print("done", kept, flush=True)
