// Node's built-in fetch, which is undici with its pool.
'use strict';

const common = require('./common.js');

const ask = async () => {
  const { method, headers, body } = common;
  const signal = AbortSignal.timeout(common.milliseconds);
  const response = await fetch(common.url, { method, headers, body, signal });
  return { status: response.status, headers: [...response.headers], body: await response.text() };
};

common.run(ask);
