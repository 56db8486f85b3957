// The provider's process: listens where the issuer's URL says. SIGHUP reads the signing keys again, SIGTERM ends it.

import { createServer } from 'node:http';

import { makeProvider } from './provider.mjs';
import { issuer } from './settings.mjs';

// A URL can contain an ID token as a hint. 64 KiB is the limit of the gateway and the hub's proxy as well.
const MAX_HEADER_BYTES = 128 * 1024;

let handle = makeProvider().callback();

const server = createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
  // URLs that the provider makes use the issuer's host, whatever the Host header says.
  request.headers.host = issuer.host;
  handle(request, response);
});
server.listen(issuer.port || 80, () => console.log(`listening as ${issuer.origin}`));

process.on('SIGHUP', () => {
  try {
    handle = makeProvider().callback();
    console.log('read the signing keys');
  } catch (error) {
    console.error(`kept the signing keys: the new ones can't be used: ${error.message}`);
  }
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
