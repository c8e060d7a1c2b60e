-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Extends the leases of one host on the quotas of some scopes, or takes back the parts that the
-- host no longer needs. The scopes share a bucket, so all keys are in one slot of a cluster.
--
-- KEYS[1]    the state of the bucket, a hash: the incarnation of the server that wrote it
--            ("server"), and the time until which nothing is granted ("learning", ms)
-- KEYS[2..]  the account of each scope for the day, a hash:
--              n  the generation, which each reset of the scope raises
--              g  the sum of all leases
--              u  the sum of all requests that the hosts have reported
--              a  the number of hosts
--              r  the time of the last recall (ms), and w the wait after it (ms)
--              h:HOST  for each host its lease, its requests and its last number: "10:4:17"
-- ARGV[1]    the incarnation of the server to which the host is connected
-- ARGV[2]    the id of the host
-- ARGV[3]    the number of this call, which is higher than that of each earlier call of the host
-- ARGV[4]    the day (days since 1970-01-01, UTC)
-- ARGV[5..]  for each scope five numbers: the generation, the quota, the lease that the host knows,
--            the requests that the host has admitted, and the lease that the host wants. If the
--            last number is -1, the host gives back everything beyond the lease that it knows.
--
-- A lease is a total. Therefore a call that is late or repeated, or whose reply was lost, changes
-- nothing twice, and a host restores a lease that this server has forgotten.
--
-- Returns for each scope: the lease (or the number of the last call, if this one is not later), the
-- free part of the quota (negative if the leases exceed the quota), the status, the time after
-- which another call may get more (ms), the recall that the other hosts should follow (0 none, 1
-- most of the requests that they do not use, 2 nearly all of them), and the requests that all hosts
-- have reported. Fails with "OTHERSERVER" if another server has written the state of the bucket.

local GRANTED, LEASED_OUT, USED_UP, LEARNING = 0, 1, 2, 3
local SUPERSEDED, OLD_GENERATION, OTHER_DAY = 4, 5, 6
-- The wait after the first recall, and after many that brought nothing (ms).
local FIRST_WAIT, LAST_WAIT = 200, 60000
local DAY_S = 86400
local ARGUMENTS = 5

local call, floor, max, min = redis.call, math.floor, math.max, math.min

local state = call('HMGET', KEYS[1], 'server', 'learning')
if state[1] ~= ARGV[1] then
  return redis.error_reply('OTHERSERVER ' .. (state[1] or 'none'))
end
local clock = call('TIME')
local seconds = tonumber(clock[1])
local now = seconds * 1000 + floor(tonumber(clock[2]) / 1000)
local learning = max(tonumber(state[2] or 0) - now, 0)
-- The prefix distinguishes the field of a host from the other fields, whose names have one letter.
local host, number, day = 'h:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local today = floor(seconds / DAY_S)

-- Returns the status of a request for more, the grant, and the kind of the recall.
local function grant(account, quota, wanted)
  if day ~= today and day ~= today + 1 then
    return OTHER_DAY, 0, 0
  elseif learning > 0 then
    return LEARNING, 0, 0
  end
  -- Before a day begins, at most a tenth of its quota is leased.
  local most = day > today and floor(quota / 10) or quota
  local free = most - account.granted
  -- A grant is at most half of the host's equal share of the free quota, so that something is left
  -- for the other hosts. The unused parts of all leases together are at most a twentieth of the
  -- quota (but one request for each host), because a host that crashes loses its unused part.
  local share = max(floor(free / (2 * account.hosts)), 1)
  local hold = max(floor(quota / (20 * account.hosts)), 1) - (account.lease - account.used)
  local given = max(min(wanted, share, hold, free), 0)
  local left = free - given
  if day > today then
    return left > 0 and GRANTED or LEASED_OUT, given, 0
  elseif left <= 0 and given < wanted and (hold > given or account.lease <= account.used) then
    return account.reported >= quota and USED_UP or LEASED_OUT, given, 2
  elseif left * 10 < quota and free * 10 >= quota then
    return GRANTED, given, 1
  end
  return GRANTED, given, 0
end

local replies = {}
for i = 2, #KEYS do
  local at = 4 + (i - 2) * ARGUMENTS
  local generation, quota = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local known, used, wanted = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local fields = call('HMGET', KEYS[i], 'n', 'g', 'u', 'a', 'r', 'w', host)
  local present = tonumber(fields[1] or -1)
  if present > generation then
    replies[i - 1] = { 0, 0, OLD_GENERATION, 0, 0, 0 }
  else
    if present >= 0 and present < generation then
      call('DEL', KEYS[i])
      fields, present = {}, -1
    end
    local account = {
      granted = tonumber(fields[2] or 0),
      reported = tonumber(fields[3] or 0),
      hosts = tonumber(fields[4] or 0),
      lease = 0,
      used = 0,
    }
    -- After a failover, the clock may be behind that of the earlier server.
    local recalled, wait = min(tonumber(fields[5] or 0), now), tonumber(fields[6] or FIRST_WAIT)
    local before_r, before_w = recalled, wait
    local last = -1
    if fields[7] then
      local lease, before, number = string.match(fields[7], '(%d+):(%d+):(%d+)')
      account.lease, account.used, last = tonumber(lease), tonumber(before), tonumber(number)
    else
      account.hosts = account.hosts + 1
    end
    local status, recall = SUPERSEDED, 0
    if number > last then
      status = GRANTED
      if known > account.lease then
        account.granted = account.granted + known - account.lease
        account.lease = known
      end
      if used > account.used then
        account.reported = account.reported + used - account.used
        account.used = used
      end
      if wanted < 0 then
        local kept = max(known, account.used)
        if account.lease > kept then
          account.granted = account.granted - (account.lease - kept)
          account.lease = kept
          recalled, wait = 0, FIRST_WAIT
        end
      elseif wanted > account.lease then
        local given
        status, given, recall = grant(account, quota, wanted - account.lease)
        account.lease = account.lease + given
        account.granted = account.granted + given
        if account.granted < quota then
          recalled, wait = 0, FIRST_WAIT
        end
      end
      if recall == 2 and now < recalled + wait then
        recall = 0
      elseif recall == 2 then
        if recalled > 0 then
          wait = min(2 * wait, LAST_WAIT)
        end
        recalled = now
      end
      -- A host that has no lease and reports no use gets no entry, because each host with an entry
      -- makes the shares of the others smaller. A new account is always written, because its
      -- generation is needed to refuse calls of older generations.
      local is_nothing = present >= 0 and last < 0 and wanted < 0 and account.lease == 0
        and account.used == 0
      -- Lua writes numbers of up to 14 digits exactly. The number of the call may have more.
      local entry = account.lease .. ':' .. account.used .. ':' .. ARGV[3]
      if is_nothing then
        -- Nothing is written.
      elseif present < 0 then
        call('HSET', KEYS[i], 'n', generation, 'g', account.granted, 'u', account.reported, 'a',
          account.hosts, host, entry)
        -- The account is kept until two days after the end of its day.
        call('EXPIREAT', KEYS[i], (day + 3) * DAY_S)
      elseif last < 0 then
        call('HSET', KEYS[i], 'g', account.granted, 'u', account.reported, 'a', account.hosts, host,
          entry)
      else
        call('HSET', KEYS[i], 'g', account.granted, 'u', account.reported, host, entry)
      end
      if recalled ~= before_r or wait ~= before_w then
        call('HSET', KEYS[i], 'r', recalled, 'w', wait)
      end
    end
    local wait_for = learning
    if recall == 2 then
      -- The leases that the other hosts give back are here soon.
      wait_for = FIRST_WAIT
    elseif status == LEASED_OUT then
      wait_for = max(recalled + wait - now, 0)
    end
    local lease = status == SUPERSEDED and last or account.lease
    replies[i - 1] = {
      lease, quota - account.granted, status, wait_for, recall, account.reported,
    }
  end
end
return replies
