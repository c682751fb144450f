// The MQTT client of npm over a secure WebSocket: messages of several sizes, one command.
//
// Arguments: URL, device id and user name, protocol version (4 or 5), CA file. The password comes
// from the environment.
"use strict";
const fs = require("fs");
const mqtt = require("mqtt");

const [url, device, version, ca] = process.argv.slice(2);
const client = mqtt.connect(url, {
  clientId: device,
  username: device,
  password: process.env.PASSWORD,
  protocolVersion: Number(version),
  ca: fs.readFileSync(ca),
  reconnectPeriod: 0,
  connectTimeout: 20_000,
});
const fail = (error) => {
  console.error(error);
  process.exit(1);
};
client.on("error", fail);
client.on("message", (topic, body) => console.log("command", body.toString()));
// Its PUBACK is written after this event, and DISCONNECT must come after that.
client.on("packetsend", (packet) => {
  if (packet.cmd === "puback") setImmediate(leave);
});
const leave = () =>
  client.end(false, {}, () => {
    console.log("done");
    process.exit(0);
  });
client.on("connect", async () => {
  try {
    await client.subscribeAsync(`devices/${device}/messages/devicebound/#`, { qos: 1 });
    for (const size of [1, 125, 126, 5_000, 70_000, 200_000]) {
      const topic = `devices/${device}/messages/events/`;
      await client.publishAsync(topic, Buffer.alloc(size, 97), { qos: 1 });
    }
    console.log("sent");
  } catch (error) {
    fail(error);
  }
});
