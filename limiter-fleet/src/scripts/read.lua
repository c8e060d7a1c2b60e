-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Reads the objects of the registry that have changed after a version.
--
-- KEYS     the fleet, the objects and the versions (change.lua)
-- ARGV     the id of the fleet, the version, and the largest number of objects
--
-- Returns the version of the registry, the version up to which the objects are complete, and then
-- for each object its name, and its revision and value. Fails with "NOFLEET", or with "OTHERFLEET"
-- and the id of that fleet.

local fleet = redis.call('HMGET', KEYS[1], 'id', 'version')
if not fleet[1] then
  return redis.error_reply('NOFLEET the engine has no fleet')
elseif fleet[1] ~= ARGV[1] then
  return redis.error_reply('OTHERFLEET ' .. fleet[1])
end
local version = tonumber(fleet[2] or 0)
local most = tonumber(ARGV[3])
local found = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0,
  most)
local upto = version
if #found >= 2 * most then
  upto = tonumber(found[#found])
end
local replies = { version, upto }
for i = 1, #found, 2 do
  replies[#replies + 1] = found[i]
  replies[#replies + 1] = redis.call('HGET', KEYS[2], found[i]) or '0 '
end
return replies
