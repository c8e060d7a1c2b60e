// Shared code of the JavaScript clients. The arguments and the output are those of common.py.
'use strict';

const [url, key, count, mode, workers, seconds] = process.argv.slice(2);
const upload = mode === 'post3m';

exports.url = url;
exports.method = upload ? 'POST' : 'GET';
exports.body = upload ? Buffer.alloc(3_000_000, 'x') : undefined;
exports.headers = { 'X-Api-Key': key };
exports.milliseconds = seconds * 1000;

// Calls `ask` for each request, with `workers` calls at a time. `ask` returns a promise of {status,
// headers, body}.
exports.run = async (ask) => {
  let left = Number(count);
  const work = async () => {
    while (left > 0) {
      left -= 1;
      let line;
      try {
        line = await ask();
      } catch (error) {
        const { name, message, code, cause } = error;
        line = { error: [name, message, code, cause?.code].filter(Boolean).join(': ') };
      }
      process.stdout.write(JSON.stringify(line) + '\n');
    }
  };
  await Promise.all(Array.from({ length: Number(workers) }, work));
};
