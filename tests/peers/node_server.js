// Node's HTTP server, as lenient as it can be, on the port of its argument: writes a line of JSON
// with the fields of each request that it serves, before it answers.
'use strict';

const fs = require('fs');
const http = require('http');

const options = {
  insecureHTTPParser: true,
  requireHostHeader: false,
  // Heads and bodies that never end are given up.
  headersTimeout: 3000,
  requestTimeout: 3000,
  connectionsCheckingInterval: 500,
  keepAliveTimeout: 3000,
};

const server = http.createServer(options, (request, response) => {
  const fields = [];
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    fields.push([request.rawHeaders[i], request.rawHeaders[i + 1]]);
  }
  fs.writeSync(1, JSON.stringify({ url: request.url, fields }) + '\n');
  request.resume();
  response.end('served\n');
});
server.listen(Number(process.argv[1]), '::');
