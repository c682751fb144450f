"""The service SDK of Python and an Event Hubs client, unmodified: registry, twins, methods and
queries by REST, commands by AMQP, and the events devices sent.

Arguments: device, CA file, Event Hubs endpoint host:port. Connection strings come from the environment.
"""

import json
import os
import sys
import threading

import certifi

device, ca, endpoint = sys.argv[1:4]
certifi.where = lambda: ca  # the AMQP stack of the SDK trusts this and has no setting

from azure.eventhub import EventHubConsumerClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, QuerySpecification, Twin, TwinProperties

service = os.environ["SERVICE_CONNECTION_STRING"]


def say(what, value):
    print(json.dumps({what: value}), flush=True)


def registry(hub):
    made = hub.create_device_with_sas("made-by-python", "", "", "enabled")
    assert made.authentication.symmetric_key.primary_key, made
    made = hub.update_device_with_sas(
        "made-by-python",
        made.etag,
        made.authentication.symmetric_key.primary_key,
        made.authentication.symmetric_key.secondary_key,
        "disabled",
    )
    assert made.status == "disabled"
    hub.create_module_with_sas("made-by-python", "m", "", "", "")
    assert [module.module_id for module in hub.get_modules("made-by-python")] == ["m"]
    assert "made-by-python" in [each.device_id for each in hub.get_devices(100)]
    hub.delete_module("made-by-python", "m")
    hub.delete_device("made-by-python")
    try:
        hub.get_device("made-by-python")
        sys.exit("a device that was deleted")
    except Exception as error:
        say("registry", error.response.status_code)


def events(wanted):
    client = EventHubConsumerClient.from_connection_string(
        os.environ["EVENTS_CONNECTION_STRING"],
        consumer_group="$Default",
        custom_endpoint_address=f"sb://{endpoint}",
        connection_verify=ca,
        load_balancing_interval=1,
    )
    seen = []
    done = threading.Event()

    def on_event(_, event):
        if event and event.system_properties[b"iothub-connection-device-id"] == device.encode():
            seen.append((event.body_as_str(), event.properties[b"number"].decode()))
            if len(seen) >= wanted:
                done.set()

    reading = threading.Thread(
        target=lambda: client.receive(on_event=on_event, starting_position="-1"), daemon=True
    )
    reading.start()
    arrived = done.wait(60)
    client.close()
    say("events", [arrived, seen[0]])


hub = IoTHubRegistryManager.from_connection_string(service)
registry(hub)
twin = hub.update_twin(device, Twin(properties=TwinProperties(desired={"by": "python"})))
say("twin", [twin.properties.desired["by"], hub.get_twin(device).properties.reported["temp"]])
query = QuerySpecification(query=f"SELECT * FROM devices WHERE deviceId = '{device}'")
say("query", [item.device_id for item in hub.query_iot_hub(query, None, 10).items])
call = CloudToDeviceMethod(method_name="blink", payload={"by": "python"}, response_timeout_in_seconds=30)
answer = hub.invoke_device_method(device, call)
say("answer", [answer.status, answer.payload])
events(5)
hub.send_c2d_message(device, "from python", properties={"messageId": "1", "unit": "percent"})
say("sent", True)
os._exit(0)  # its threads do not end by themselves
