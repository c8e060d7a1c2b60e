-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Records the server as the current server of some buckets. If another server was recorded before,
-- this one may lack the last writes of that one. It then grants nothing for a while, during which
-- the hosts report their leases (lease.lua).
--
-- KEYS[1..]  the states of the buckets, all in one slot
-- ARGV[1]    the name of the server to which the host is connected
-- ARGV[2]    the time for which nothing is granted (ms)
-- ARGV[3]    1 if nothing is granted even if this server is recorded already
--
-- The hosts are told on the channel limiter:claims, because a host that needs nothing would not
-- report its leases otherwise.
--
-- Returns the number of buckets for which nothing is granted from now on.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local ends = now + tonumber(ARGV[2])
local claimed = 0
for i = 1, #KEYS do
  local state = redis.call('HMGET', KEYS[i], 'server', 'learning')
  local is_learning = tonumber(state[2] or 0) > now
  if state[1] ~= ARGV[1] or (ARGV[3] == '1' and not is_learning) then
    redis.call('HSET', KEYS[i], 'server', ARGV[1], 'learning', string.format('%.0f', ends))
    claimed = claimed + 1
  end
end
if claimed > 0 and ends > now then
  redis.call('PUBLISH', 'limiter:claims', ARGV[1])
end
return claimed
