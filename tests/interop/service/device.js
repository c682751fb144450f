// The device SDK of Node over AMQP, unmodified: telemetry, commands, methods, twins. What happens is a
// line of JSON each. The connection string comes from the environment.
'use strict';
const { Client, Message } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');

const say = (what, value) => console.log(JSON.stringify({ [what]: value }));
const fail = (error) => {
  say('failed', String((error && error.stack) || JSON.stringify(error)));
  process.exit(1);
};
process.on('unhandledRejection', fail);

async function main() {
  const client = Client.fromConnectionString(process.env.DEVICE_CONNECTION_STRING, Amqp);
  await client.open();
  client.on('error', fail);
  client.on('message', (command) => {
    const data = command.getData().toString();
    const finish = data === 'refuse' ? client.reject(command) : client.complete(command);
    Promise.resolve(finish).then(() => say('command', data), fail);
    if (data === 'stop') setTimeout(() => client.close(() => process.exit(0)), 300);
  });
  client.onDeviceMethod('blink', (request, response) => {
    say('method', request.payload);
    response.send(207, { seen: request.payload }, (error) => error && fail(error));
  });
  const twin = await client.getTwin();
  say('twin', twin.properties.desired.$version);
  // A listener is told first what was there before.
  twin.on('properties.desired', (delta) => delta.$version > 1 && say('desired', delta));
  await new Promise((resolve, reject) => {
    twin.properties.reported.update({ temp: 21, gone: null }, (e) => (e ? reject(e) : resolve()));
  });
  say('reported', true);
  for (let n = 0; n < 20; n++) {
    const message = new Message(`{"n":${n}}`);
    message.messageId = `node-${n}`;
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('number', String(n));
    await client.sendEvent(message);
  }
  say('sent', 20);
}

main().catch(fail);
