-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Records that a host is alive, and returns the news to it. Each host calls this once a second.
--
-- KEYS[1]  the fleet (create.lua)
-- KEYS[2]  the hosts, a hash: for the id of each host the time of its last heartbeat (ms), its
--          session, its machine, and its description: "1700000000000 S M {...}"
-- KEYS[3]  the recalls, a sorted set: the texts of the recalls, each with its number
-- ARGV     the id of the fleet, the id of the host, its session, its machine, its description, the
--          number of the last recall that it knows, and 1 if it wants the list of the hosts
--
-- A session is one run of a daemon. A daemon that starts again on the same machine replaces its own
-- session at once. A daemon on another machine has to wait until the session has been silent for
-- five seconds, because two hosts with one identity would share leases that only one of them may
-- use.
--
-- Returns the time (ms), the version of the registry, the number of the last recall, the recalls
-- that the host does not know (text and number by turns), and the list of the hosts (id and entry
-- by turns), if the host wants it. Fails with "NOFLEET", with "OTHERFLEET" and the id of that
-- fleet, or with "DUPLICATE".

local SILENCE = 5000

local fleet = redis.call('HMGET', KEYS[1], 'id', 'version', 'recall')
if not fleet[1] then
  return redis.error_reply('NOFLEET the engine has no fleet')
elseif fleet[1] ~= ARGV[1] then
  return redis.error_reply('OTHERFLEET ' .. fleet[1])
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local host, session, machine = ARGV[2], ARGV[3], ARGV[4]
local before = redis.call('HGET', KEYS[2], host)
if before then
  local seen, other, place = string.match(before, '^(%d+) (%S+) (%S+) ')
  if other ~= session and place ~= machine and now - tonumber(seen) < SILENCE then
    return redis.error_reply('DUPLICATE another machine uses the identity of this host')
  end
end
redis.call('HSET', KEYS[2], host, string.format('%.0f %s %s %s', now, session, machine, ARGV[5]))
local known = tonumber(ARGV[6])
local recalls = {}
if tonumber(fleet[3] or 0) > known then
  recalls = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[6], '+inf', 'WITHSCORES')
end
local hosts = {}
if ARGV[7] == '1' then
  hosts = redis.call('HGETALL', KEYS[2])
end
return { now, tonumber(fleet[2] or 0), tonumber(fleet[3] or 0), recalls, hosts }
