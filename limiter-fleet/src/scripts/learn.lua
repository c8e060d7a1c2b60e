-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Makes a server the one whose name the states of some buckets have. A server that has another name
-- than the last one may lack the last writes of that one. Therefore nothing is granted for a while,
-- in which the hosts report their leases (lease.lua, "known").
--
-- KEYS[1..]  the states of buckets in one slot
-- ARGV[1]    the name of the server to which the host is connected
-- ARGV[2]    the duration of that time (ms)
--
-- Returns the time in ms until which grants are withheld in the last of these buckets.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local ends = now + tonumber(ARGV[2])
for i = 1, #KEYS do
  local state = redis.call('HMGET', KEYS[i], 'server', 'learning')
  if state[1] == ARGV[1] then
    ends = tonumber(state[2] or 0)
  else
    ends = now + tonumber(ARGV[2])
    redis.call('HSET', KEYS[i], 'server', ARGV[1], 'learning', string.format('%.0f', ends))
  end
end
return ends
