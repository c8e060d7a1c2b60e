// Node's HTTP server, as lenient as it can be, on the port of its argument: writes a line of JSON
// with the fields of each request that it serves, before it answers.
'use strict';

const fs = require('fs');
const http = require('http');

const server = http.createServer({ insecureHTTPParser: true, requireHostHeader: false }, (request, response) => {
  const fields = [];
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    fields.push([request.rawHeaders[i], request.rawHeaders[i + 1]]);
  }
  fs.writeSync(1, JSON.stringify({ url: request.url, fields }) + '\n');
  request.resume();
  response.end('served\n');
});
server.keepAliveTimeout = 0;
server.headersTimeout = 0;
server.requestTimeout = 0;
server.listen(Number(process.argv[1]), '::');
