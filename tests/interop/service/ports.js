// Preloaded into Node: the SDKs know fixed ports only, as firewalls and name servers would have them;
// connections to these go to where the hub under test listens.
'use strict';
const tls = require('tls');

const moved = { 443: Number(process.env.HTTPS_PORT), 5671: Number(process.env.AMQPS_PORT) };
const connect = tls.connect;
tls.connect = function (options, ...rest) {
  if (options && moved[options.port]) options = { ...options, port: moved[options.port] };
  return connect.call(this, options, ...rest);
};
