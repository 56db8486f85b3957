// The provider's process: listens where the issuer's URL says. SIGHUP reads the signing keys again, SIGTERM ends it.

import { createServer } from 'node:http';

import { makeProvider } from './provider.mjs';
import { issuer } from './settings.mjs';

// A whole ID token can come as a hint in a URL; 64 KiB of one are allowed elsewhere, too.
const MAX_HEADER_BYTES = 128 * 1024;

let handle = makeProvider().callback();

const server = createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
  // URLs that the provider makes are the issuer's, whatever the client calls this host.
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
