// Node's http.Agent with keepAlive.
'use strict';

const http = require('node:http');
const common = require('./common.js');

const agent = new http.Agent({ keepAlive: true });

const ask = () => new Promise((resolve, reject) => {
  const { method, headers, milliseconds } = common;
  const length = common.body ? { 'Content-Length': common.body.length } : {};
  const request = http.request(common.url, { agent, method, headers: { ...headers, ...length } });
  request.setTimeout(milliseconds, () => request.destroy(new Error('timed out')));
  request.on('error', reject);
  request.on('response', (response) => {
    const parts = [];
    response.on('data', (part) => parts.push(part));
    response.on('error', reject);
    response.on('end', () => resolve({
      status: response.statusCode,
      headers: Object.entries(response.headers),
      body: Buffer.concat(parts).toString(),
    }));
  });
  request.end(common.body);
});

common.run(ask).then(() => agent.destroy());
