// Node's HTTP server, configured to be as lenient as possible. Its argument is the port. Before
// each response, it writes a line of JSON with the fields of the request.
'use strict';

const fs = require('fs');
const http = require('http');

const options = {
  insecureHTTPParser: true,
  requireHostHeader: false,
  // The server closes a connection on which the head or the body of a request does not end.
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
