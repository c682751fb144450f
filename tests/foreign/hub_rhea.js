// A strict IoT-Hub-like hub on rhea, driven by JSON lines; `hub.rs` describes them.
//
// Everything AMQP is rhea's: this file decides what is answered, and reports what was seen. rhea
// does not hold its peer to the limits it announces, so that is done here.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const readline = require('readline');
const rhea = require('rhea');

const SETTINGS = JSON.parse(process.argv[2]);
const ADDRESS = /^\/devices\/([^/]+)\/messages\/(events|devicebound)$/;
const ANNOTATIONS = ['iothub-interface-id', 'dt-subject'];
const CBS_TYPE = 'servicebus.windows.net:sastoken';
const MESSAGE_BYTES_MAX = 1048576;
const types = rhea.types;

let limits = {};
let connections = 0;
const links = new Map(); // "kind device" to link
const answers = {}; // by device
const statuses = [];
const queues = {}; // commands by device

/** One line for the test. */
function report(event, fields) {
    fs.writeSync(1, JSON.stringify({ event, ...fields }) + '\n');
}

/** The peer did what a strict hub does not take. */
function fault(what) {
    report('fault', { what: String(what) });
}

// rhea prints what it minds and goes on.
console.error = console.warn = (...words) => fault(words.join(' '));

const listening = {
    transport: 'tls',
    host: '127.0.0.1',
    port: 0,
    cert: fs.readFileSync(SETTINGS.cert),
    key: fs.readFileSync(SETTINGS.key),
    container_id: 'rhea-hub',
    max_frame_size: 65536,
    channel_max: 8191,
    idle_time_out: 240000,
    receiver_options: { autoaccept: false, credit_window: 0 },
    sender_options: { autosettle: false, treat_modified_as_released: false },
};

/** When a token ends, in seconds since 1970; an error if it is not one of this hub's. */
function tokenEnd(token) {
    const [scheme, rest] = token.split(' ');
    const fields = {};
    for (const field of (rest || '').split('&')) {
        const at = field.indexOf('=');
        fields[field.slice(0, at)] = field.slice(at + 1);
    }
    if (scheme !== 'SharedAccessSignature' || !fields.sr || !fields.sig || !fields.se) {
        throw Error('malformed token');
    }
    const mac = crypto.createHmac('sha256', Buffer.from(SETTINGS.policy_key, 'base64'));
    const signature = mac.update(`${fields.sr}\n${fields.se}`).digest('base64');
    if (decodeURIComponent(fields.sig) !== signature) throw Error('invalid signature');
    if (decodeURIComponent(fields.sr) !== SETTINGS.host + '/devices') throw Error('wrong scope');
    return Number(fields.se);
}

const creditOf = ({ credit }) => (credit === undefined ? 1000 : credit);
const now = () => Date.now() / 1000;
const seatKey = (kind, device) => `${kind} ${device}`;

// The test's orders.

const orders = {
    nothing() {},
    limits(order) {
        limits = order;
        listening.max_frame_size = order.max_frame || 65536;
        listening.channel_max = order.channel_max === undefined ? 8191 : order.channel_max;
        listening.idle_time_out = order.idle_ms || 240000;
    },
    answer(order) {
        (answers[order.device] ||= []).push(...order.outcomes);
    },
    token(order) {
        statuses.push(...order.statuses);
    },
    command(order) {
        (queues[order.device] ||= []).push({ count: 0, ...order });
        pump(order.device);
    },
    close(order) {
        const link = links.get(seatKey(order.link, order.device));
        const { condition, description } = order;
        const error = condition ? { condition, description } : undefined;
        if (order.what === 'link') {
            drop(link);
            if (order.closed === false) {
                link.local.detach.error = error;
                link.detach();
            } else {
                link.close(error);
            }
            return;
        }
        const whole = order.what === 'connection';
        for (const other of [...links.values()]) {
            if (whole ? other.connection === link.connection : other.session === link.session) {
                drop(other);
            }
        }
        (whole ? link.connection : link.session).close(error);
    },
};

// Connections and sessions.

rhea.on('connection_open', ({ connection }) => {
    const open = connection.remote.open;
    connections += 1;
    connection.peer = { number: connections, tokenEnd: 0, replies: [] };
    connection.announced = { ...limits };
    report('open', {
        connection: connections,
        container: open.container_id,
        max_frame: open.max_frame_size,
        channel_max: open.channel_max,
        idle_ms: open.idle_time_out,
    });
    if (open.hostname !== SETTINGS.host) fault(`Open.hostname is ${open.hostname}`);
});

/** Ends a connection whose peer broke what was announced (AMQP 2.7.1, 2.7.2). */
function broken(connection, what) {
    fault(what);
    connection.close({ condition: 'amqp:connection:framing-error', description: what });
}

rhea.on('session_open', ({ connection, session }) => {
    report('begin', { connection: connection.peer.number });
    const { channel_max: channelMax, handle_max: handleMax } = connection.announced;
    if (session.remote.channel > channelMax) {
        broken(connection, `channel ${session.remote.channel} above channel-max`);
    }
    if (handleMax !== undefined) session.local.begin.handle_max = handleMax;
});

function dropAll(belongs) {
    for (const link of [...links.values()]) {
        if (belongs(link)) drop(link);
    }
}

rhea.on('session_close', ({ connection, session }) => {
    dropAll((link) => link.session === session);
    report('end', { connection: connection.peer.number });
});

rhea.on('connection_close', ({ connection, error }) => {
    report('close', { connection: connection.peer.number, error: error && error.condition });
    dropAll((link) => link.connection === connection);
    connection.socket.once('close', () => report('gone', { connection: connection.peer.number }));
});

rhea.on('disconnected', ({ connection }) => {
    dropAll((link) => link.connection === connection);
    report('gone', { connection: connection.peer && connection.peer.number });
});

for (const name of ['error', 'protocol_error']) {
    rhea.on(name, (error) => fault(`${name}: ${error && (error.stack || error)}`));
}

// Links.

function refuse(link, condition, description) {
    report('refused', { condition, description });
    link.local.attach.source = link.local.attach.target = undefined;
    link.close({ condition, description });
}

function opened(link, receiving) {
    const { connection } = link;
    const { peer, announced } = connection;
    const attach = link.remote.attach;
    link.seat = { kind: 'refused', device: null, peer, gone: true };
    if (attach.handle > announced.handle_max) {
        return broken(connection, `handle ${attach.handle} above handle-max`);
    }
    const address = ((receiving ? attach.target : attach.source) || {}).address;
    let kind = receiving ? 'cbs-in' : 'cbs-out';
    let device = null;
    if (address !== '$cbs') {
        const match = ADDRESS.exec(address || '');
        if (!match || receiving !== (match[2] === 'events')) {
            return refuse(link, 'amqp:not-found', `no such address ${address}`);
        }
        kind = receiving ? 'telemetry' : 'commands';
        device = match[1];
        if (peer.tokenEnd < now()) return refuse(link, 'amqp:unauthorized-access', 'no token');
        if (links.has(seatKey(kind, device))) fault(`a second ${kind} link of ${device}`);
    }
    link.seat = { kind, device, peer, gone: false, received: 0, flights: new Map() };
    // Addresses alone: rhea reads every empty list into one array, which a copy would change.
    if (attach.source) link.set_source({ address: attach.source.address });
    if (attach.target) link.set_target({ address: attach.target.address });
    link.local.attach.snd_settle_mode = attach.snd_settle_mode;
    if (kind === 'commands') link.local.attach.rcv_settle_mode = 1;
    else link.local.attach.max_message_size = MESSAGE_BYTES_MAX;
    if (kind === 'telemetry') link.local.attach.properties = attach.properties;
    if (kind === 'cbs-out') peer.replyLink = link;
    links.set(seatKey(kind, device), link);
    report('attach', { connection: peer.number, link: kind, device });
    if (receiving) link.flow(kind === 'cbs-in' ? 100 : creditOf(limits));
    else pump(device);
}

rhea.on('receiver_open', ({ receiver }) => opened(receiver, true));
rhea.on('sender_open', ({ sender }) => opened(sender, false));

function detached(link) {
    const { peer, kind, device, gone } = link.seat;
    report('detach', { connection: peer.number, link: kind, device, by: gone ? 'hub' : 'peer' });
    drop(link);
}

// rhea tells outcomes that came before a detach after it, in a later turn.
rhea.on('receiver_close', ({ receiver }) => setImmediate(detached, receiver));
rhea.on('sender_close', ({ sender }) => setImmediate(detached, sender));

/** Commands that were not settled are given out again. */
function drop(link) {
    const { seat } = link;
    seat.gone = true;
    if (seat.flights && seat.flights.size) queues[seat.device].unshift(...seat.flights.values());
    seat.flights = new Map();
    const key = seatKey(seat.kind, seat.device);
    if (links.get(key) === link) links.delete(key);
}

rhea.on('sendable', ({ sender }) => {
    if (!sender.seat || sender.seat.gone) return;
    if (sender.seat.kind === 'cbs-out') reply(sender.seat.peer);
    else pump(sender.seat.device);
});

// Messages.

// What rhea decodes last is what it dispatches next.
let raw;
const decode = rhea.message.decode;
rhea.message.decode = (bytes) => {
    raw = Buffer.from(bytes);
    return decode(bytes);
};

rhea.on('message', ({ receiver, message, delivery }) => {
    const { seat } = receiver;
    if (seat.gone) return;
    if (delivery.remote_settled) fault('a message sent settled');
    if (seat.kind === 'cbs-in') {
        delivery.accept();
        putToken(receiver, message);
    } else {
        telemetry(receiver, delivery, message);
    }
});

function putToken(receiver, message) {
    const { peer } = receiver.seat;
    const asked = message.application_properties || {};
    if (asked.operation !== 'put-token' || asked.type !== CBS_TYPE) {
        fault(`no put-token: ${JSON.stringify(asked)}`);
    }
    if (!asked.name || typeof message.body !== 'string') {
        fault('a put-token without a name or a token');
    }
    let status = statuses.length ? statuses.shift() : 200;
    let words = status === 200 || status === 202 ? 'OK' : 'refused as told';
    let end = 0;
    try {
        end = tokenEnd(message.body);
        if (end < now()) throw Error('expired');
    } catch (error) {
        status = 401;
        words = error.message;
    }
    if (status === 200 || status === 202) peer.tokenEnd = end;
    peer.replies.push({
        correlation_id: message.message_id,
        application_properties: {
            'status-code': types.wrap_int(status),
            'status-description': words,
        },
        body: null,
    });
    report('token', { connection: peer.number, name: asked.name, status });
    receiver.flow(1);
    reply(peer);
}

function reply(peer) {
    const link = peer.replyLink;
    while (peer.replies.length && link && link.sendable() && idle(link)) {
        link.send(peer.replies.shift(), crypto.randomBytes(4));
        setImmediate(() => reply(peer));
    }
}

/** rhea counts credit down when a message leaves, in a later turn: one at a time. */
function idle(link) {
    return link.session.outgoing.next_pending_delivery === link.session.outgoing.next_delivery_id;
}

const shown = (value) => (value === undefined || value === null ? null : String(value));

function telemetry(receiver, delivery, message) {
    const { seat } = receiver;
    if (seat.peer.tokenEnd < now()) fault('a message under a token that has ended');
    const annotations = message.message_annotations || {};
    for (const key of Object.keys(annotations)) {
        if (!ANNOTATIONS.includes(key)) fault(`the annotation ${key}`);
    }
    const application = message.application_properties || {};
    for (const [key, value] of Object.entries(application)) {
        if (typeof value !== 'string') fault(`the application property ${key} is no string`);
    }
    if (!message.body || message.body.typecode !== 0x75 || message.body.multiple) {
        fault('the body is not one data section');
    }
    const answer = (answers[seat.device] || []).shift() || { state: 'accepted' };
    const expiry = message.absolute_expiry_time;
    report('message', {
        connection: seat.peer.number,
        device: seat.device,
        properties: {
            'message-id': shown(message.message_id),
            'user-id': shown(message.user_id),
            to: shown(message.to),
            'correlation-id': shown(message.correlation_id),
            'content-type': shown(message.content_type),
            'content-encoding': shown(message.content_encoding),
            'expiry-ms': expiry ? Number(expiry) : null,
        },
        application,
        annotations,
        body: Buffer.from(message.body.content).toString('base64'),
        raw: raw.toString('base64'),
        answer: answer.state,
    });
    settle(delivery, answer);
    seat.received += 1;
    const step = Math.min(100, creditOf(limits));
    if (seat.received % step === 0) receiver.flow(step);
}

function settle(delivery, answer) {
    const { state, condition, description } = answer;
    if (state === 'accepted') delivery.accept();
    else if (state === 'rejected') delivery.reject(condition && { condition, description });
    else if (state === 'released') delivery.release();
    else if (state === 'modified') delivery.modified({ delivery_failed: Boolean(answer.failed) });
}

// Commands.

function pump(device) {
    const link = links.get(seatKey('commands', device));
    const queue = queues[device];
    while (link && queue && queue.length && link.sendable() && idle(link)) {
        const command = queue.shift();
        const tag = crypto.randomBytes(16);
        const body = command.unreadable
            ? rhea.message.sequence_section([1, 2])
            : rhea.message.data_section(Buffer.from(command.body, 'base64'));
        const delivery = link.send({
            message_id: command.id,
            to: `/devices/${device}/messages/devicebound`,
            application_properties: command.application,
            message_annotations: {
                'x-opt-lock-token': tag.toString('hex'),
                'x-opt-sequence-number': types.wrap_ulong(7),
                'iothub-enqueuedtime': types.wrap_timestamp(Date.now()),
                'iothub-deliverycount': types.wrap_ubyte(command.count),
            },
            body,
        }, tag);
        link.seat.flights.set(delivery, command);
        report('sent', { device, command: command.id });
        setImmediate(() => pump(device));
    }
}

for (const state of ['accepted', 'rejected', 'released', 'modified']) {
    rhea.on(state, ({ sender, delivery }) => {
        const { seat } = sender;
        if (seat.kind === 'cbs-out') return delivery.update(true);
        const command = seat.flights.get(delivery);
        if (!command) return;
        seat.flights.delete(delivery);
        report('outcome', {
            device: seat.device,
            command: command.id,
            state,
            failed: Boolean(delivery.remote_state.delivery_failed),
            settled: delivery.remote_settled,
        });
        delivery.update(true);
        if (state === 'released' || state === 'modified') {
            command.count += 1;
            queues[seat.device].unshift(command);
        }
        setImmediate(() => pump(seat.device));
    });
}

const server = rhea.listen(listening);
server.on('listening', () => report('listening', { port: server.address().port }));
server.on('tlsClientError', () => {});

const input = readline.createInterface({ input: process.stdin });
input.on('line', (line) => {
    const order = JSON.parse(line);
    orders[order.do](order);
    report('done', { order: order.order });
});
input.on('close', () => process.exit(0));
