// The service SDK of Node, unmodified: registry, twins, methods and queries by REST, commands and
// feedback by AMQP. The connection string comes from the environment.
'use strict';
const assert = require('assert');
const { Registry, Client } = require('azure-iothub');
const { Message } = require('azure-iot-common');

const say = (what, value) => console.log(JSON.stringify({ [what]: value }));
const fail = (error) => {
  say('failed', String((error && error.stack) || JSON.stringify(error)));
  process.exit(1);
};
process.on('unhandledRejection', fail);

async function registry() {
  const hub = Registry.fromConnectionString(process.env.SERVICE_CONNECTION_STRING);
  const made = (await hub.create({ deviceId: 'made-by-node' })).responseBody;
  assert.strictEqual(made.authentication.type, 'sas');
  assert.ok(made.authentication.symmetricKey.primaryKey);
  await assert.rejects(hub.create({ deviceId: 'made-by-node' }), { name: 'DeviceAlreadyExistsError' });
  made.status = 'disabled';
  assert.strictEqual((await hub.update(made)).responseBody.status, 'disabled');
  await hub.addModule({ deviceId: 'made-by-node', moduleId: 'm' });
  const modules = (await hub.getModulesOnDevice('made-by-node')).responseBody;
  assert.deepStrictEqual(modules.map((module) => module.moduleId), ['m']);
  const twin = (await hub.getTwin('made-by-node')).responseBody;
  const etag = twin.etag;
  await twin.update({ tags: { site: 'north' }, properties: { desired: { mode: 'eco' } } });
  await assert.rejects(hub.updateTwin('made-by-node', { tags: {} }, etag), { name: 'InvalidEtagError' });
  const found = await hub.createQuery("SELECT * FROM devices WHERE tags.site = 'north'", 10).nextAsTwin();
  assert.deepStrictEqual(found.result.map((twin) => twin.deviceId), ['made-by-node']);
  await hub.delete('made-by-node');
  await assert.rejects(hub.get('made-by-node'), { name: 'DeviceNotFoundError' });
  say('registry', true);
}

async function methods(client, device) {
  const answer = await client.invokeDeviceMethod(device, { methodName: 'blink', payload: { by: 'node' } });
  say('answer', answer.result);
  const nowhere = client.invokeDeviceMethod('silent', { methodName: 'blink', payload: 1 });
  await nowhere.then(
    () => fail('a device that is not there answered'),
    (error) => say('offline', JSON.parse(JSON.parse(error.responseBody).Message).errorCode),
  );
}

async function main() {
  const device = process.argv[2];
  await registry();
  const client = Client.fromConnectionString(process.env.SERVICE_CONNECTION_STRING);
  await client.open();
  await methods(client, device);
  const feedback = (await client.getFeedbackReceiver()).result;
  const reported = new Promise((resolve) => feedback.on('message', (message) => {
    const records = JSON.parse(message.getData().toString());
    feedback.complete(message, () => resolve(records));
  }));
  const command = new Message('from node');
  command.messageId = 'command-of-node';
  command.ack = 'full';
  await client.send(device, command);
  const records = await reported;
  say('feedback', records.map((record) => [record.originalMessageId, record.statusCode]));
  await client.close();
  process.exit(0);
}

main().catch(fail);
