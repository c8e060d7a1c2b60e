-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Asks all hosts to give back parts of their leases.
--
-- KEYS[1]  the fleet (create.lua)
-- KEYS[2]  the recalls (heartbeat.lua)
-- ARGV     the texts of the recalls, each of which names the leases to give back
--
-- Each text is published on the channel limiter:recall at once, preceded by its number and a space.
-- A host that misses it receives it with the answer to its next heartbeat. Only the last 1,000
-- recalls are kept. An older one is not needed, because a host that still lacks requests makes the
-- engine ask for another recall.
--
-- Returns the number of the last recall.

local KEPT = 1000

-- An engine that has lost its fleet must not get a part of one.
if redis.call('HEXISTS', KEYS[1], 'id') == 0 then
  for i = 1, #ARGV do
    redis.call('PUBLISH', 'limiter:recall', '0 ' .. ARGV[i])
  end
  return 0
end
local number = 0
for i = 1, #ARGV do
  number = redis.call('HINCRBY', KEYS[1], 'recall', 1)
  redis.call('ZADD', KEYS[2], number, ARGV[i])
  redis.call('PUBLISH', 'limiter:recall', string.format('%.0f ', number) .. ARGV[i])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - KEPT)
return number
