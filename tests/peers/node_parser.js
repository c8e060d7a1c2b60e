// Reports which requests Node's HTTP server (llhttp) sees in streams of bytes.
//
// It reads one stream per line, in hexadecimal, and writes a line of JSON for each stream. For the
// strict and the lenient parser, the line lists the requests in order. Each entry has the fields of
// the request and the number of bytes that the parser had received when it reported the request.
'use strict';

const http = require('http');
const readline = require('readline');
const { Duplex } = require('stream');

const LONGEST = 1 << 20;

class Connection extends Duplex {
  _read() {}
  _write(bytes, encoding, done) { done(); }
  _final(done) { done(); }
}

class Peer {
  constructor(insecureHTTPParser) {
    this.server = http.createServer({
      insecureHTTPParser,
      maxHeaderSize: LONGEST,
      requireHostHeader: false,
    });
    this.server.maxHeadersCount = 0;
    this.server.on('clientError', (error, connection) => connection.destroy());
    const note = (request) => {
      const fields = [];
      for (let i = 0; i < request.rawHeaders.length; i += 2) {
        fields.push([request.rawHeaders[i], request.rawHeaders[i + 1]]);
      }
      this.seen.push({ end: this.given, fields });
    };
    const answer = (request, response) => {
      note(request);
      request.resume();
      response.end();
    };
    for (const event of ['request', 'checkContinue', 'checkExpectation']) {
      this.server.on(event, answer);
    }
    this.server.on('connect', (request, connection) => {
      note(request);
      connection.destroy();
    });
  }

  requests(stream) {
    this.seen = [];
    this.given = 0;
    const connection = new Connection();
    connection.on('error', () => {});
    this.server.emit('connection', connection);
    // A head ends with a line feed (or with a CR for the lenient parser). A request that the parser
    // reports at that point has therefore just ended.
    let from = 0;
    for (let at = 0; at < stream.length && !connection.destroyed; at += 1) {
      if (stream[at] === 0x0a || stream[at] === 0x0d || at + 1 === stream.length) {
        this.given = at + 1;
        connection.emit('data', stream.subarray(from, at + 1));
        from = at + 1;
      }
    }
    connection.destroy();
    return this.seen;
  }
}

const strict = new Peer(false);
const lenient = new Peer(true);

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const stream = Buffer.from(line, 'hex');
  const answer = { node: strict.requests(stream), 'node, lenient': lenient.requests(stream) };
  process.stdout.write(JSON.stringify(answer) + '\n');
});
