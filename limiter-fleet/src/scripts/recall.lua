-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Calls on all hosts to give back parts of their leases.
--
-- KEYS[1]  the fleet (create.lua) KEYS[2]  the recalls (heartbeat.lua) ARGV     texts that name what is
-- to be given back
--
-- Each text goes to the channel limiter:recall at once. The hosts that do not hear it find it at
-- their next heartbeat. Only the last recalls are kept, because a recall that brings nothing is
-- repeated.
--
-- Returns the number of the last recall.

local KEPT = 1000

local number = 0
for i = 1, #ARGV do
  number = redis.call('HINCRBY', KEYS[1], 'recall', 1)
  redis.call('ZADD', KEYS[2], number, ARGV[i])
  redis.call('PUBLISH', 'limiter:recall', ARGV[i])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - KEPT)
return number
