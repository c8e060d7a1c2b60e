-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Changes objects of the registry, which are scopes and keys.
--
-- KEYS[1]  the fleet (create.lua)
-- KEYS[2]  the objects, a hash: for the name of each object its revision and its value: "3 {...}"
-- KEYS[3]  the versions, a sorted set: the names of the objects, each with the version of the
--          registry in which it last changed
-- ARGV[1]  the id of the fleet
-- ARGV[2..] for each object: its name, the revision on which the change is based, the new revision,
--          and the new value. The base -1 means that a host restores the object. In that case, the
--          higher revision wins.
--
-- A change that is based on another revision than the present one is refused, so that no host
-- undoes a change that it does not know. The other changes of the call that are based on a revision
-- are then refused too.
--
-- Returns the version of the registry, and then for each object 1 or 0 (changed or refused), and
-- the revision and value that the object has now. Fails with "NOFLEET", or with "OTHERFLEET" and
-- the id of that fleet.

local fleet = redis.call('HMGET', KEYS[1], 'id', 'version')
if not fleet[1] then
  return redis.error_reply('NOFLEET the engine has no fleet')
elseif fleet[1] ~= ARGV[1] then
  return redis.error_reply('OTHERFLEET ' .. fleet[1])
end
local function revision_of(name)
  local before = redis.call('HGET', KEYS[2], name)
  return before and tonumber(string.match(before, '^%d+')) or 0, before
end

local conflicts = false
for i = 2, #ARGV, 4 do
  local base = tonumber(ARGV[i + 1])
  conflicts = conflicts or (base >= 0 and base ~= revision_of(ARGV[i]))
end
local version = tonumber(fleet[2] or 0)
local replies = { version }
for i = 2, #ARGV, 4 do
  local name, value = ARGV[i], ARGV[i + 3]
  local base, revision = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local present, before = revision_of(name)
  local wins = not conflicts
  if base < 0 then
    wins = revision > present
  end
  if wins then
    before = ARGV[i + 2] .. ' ' .. value
    version = redis.call('HINCRBY', KEYS[1], 'version', 1)
    redis.call('HSET', KEYS[2], name, before)
    redis.call('ZADD', KEYS[3], version, name)
  end
  replies[#replies + 1] = wins and 1 or 0
  replies[#replies + 1] = before or '0 '
end
if version > replies[1] then
  replies[1] = version
  redis.call('PUBLISH', 'limiter:changes', version)
end
return replies
