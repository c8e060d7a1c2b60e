-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Divides the rates of some scopes among the hosts, according to their demands. The scopes share a
-- bucket, so all keys are in one slot of a cluster. All numbers of requests are per second.
--
-- KEYS[1..]  the rate of each scope, a hash:
--              d  the sum of the demands
--              s  the sum of the shares
--              o  1 while the rate is divided, and n the number of this division
--              x  the last time at which the demands exceeded the rate (ms)
--              c  the time of the last search for silent hosts (ms)
--              a  the time of the last announcement (ms)
--              h:HOST  for each host its demand, its share, the number of the division to which the
--                      share belongs, and the time of its last call (ms): "400 320.5 3 1700000000000"
-- ARGV[1]    the id of the host
-- ARGV[2]    the time for which a rate stays divided after the demands have last exceeded it (ms)
-- ARGV[3..]  for each scope its name, its rate, and the demand of the host
--
-- A rate is divided from the time at which the demands exceed it. It stays divided for a while, so
-- that a client that pauses again and again does not get the whole rate of each host every time.
--
-- The sum of the shares is at most the rate, except that each host with demand gets at least a
-- thousandth of it: a host whose share grows gets what the other hosts have given up in their last
-- calls. A host whose demand is 0 is forgotten, and so is one that has been silent for two seconds.
--
-- When the demands exceed half of a rate, the name of the scope is announced on the channel
-- limiter:rates, so that hosts with little demand report it, too.
--
-- Returns for each scope the share of the host as text, or "-1" if the rate is not divided or the
-- demand of the host is 0.

local SILENCE, CHECK, ANNOUNCEMENT = 2000, 1000, 1000
-- A share within this part of the exact one is not lowered, and grows only into free parts of the
-- rate, so that the noise of the demands does not leave parts of the rate unused.
local CLOSE = 0.05
-- The texts of numbers are rounded to less than this part of the rate.
local ROUNDING = 0.000001
-- The smallest share, as a part of the rate.
local LEAST = 0.001
local ARGUMENTS = 3

local call, floor, max, min = redis.call, math.floor, math.max, math.min

local clock = call('TIME')
local now = tonumber(clock[1]) * 1000 + floor(tonumber(clock[2]) / 1000)
local host, divided_for = 'h:' .. ARGV[1], tonumber(ARGV[2])

-- Returns the demand of a host, its share, the number of the division and the time.
local function read(entry)
  local demand, share, division, time = string.match(entry, '^(%S+) (%S+) (%S+) (%S+)$')
  return tonumber(demand), tonumber(share), tonumber(division), tonumber(time)
end

-- Returns the sums of the demands and shares of the other hosts, and forgets those that are silent.
local function others(key, present)
  local demands, shares = 0, 0
  local fields = call('HGETALL', key)
  for i = 1, #fields, 2 do
    local field = fields[i]
    if string.sub(field, 1, 2) == 'h:' and field ~= host then
      local demand, share, division, time = read(fields[i + 1])
      if now - time > SILENCE then
        call('HDEL', key, field)
      else
        demands = demands + demand
        shares = shares + (division == present and share or 0)
      end
    end
  end
  return demands, shares
end

-- Returns the new share of the host, given the sums over the other hosts and its present share.
local function divide(rate, demand, demands, shares, own)
  local exact = rate * demand / (demands + demand)
  local free = rate - shares
  local is_free = own <= free + ROUNDING * rate
  if own > 0 and is_free and math.abs(exact - own) <= CLOSE * own then
    return own + max(free - own, 0) * exact / rate
  end
  return max(min(exact, free), LEAST * rate)
end

local replies = {}
for i = 1, #KEYS do
  local key, at = KEYS[i], 3 + (i - 1) * ARGUMENTS
  local name, rate, demand = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local fields = call('HMGET', key, 'd', 's', 'o', 'n', 'c', 'a', 'x', host)
  local demands, shares = tonumber(fields[1] or 0), tonumber(fields[2] or 0)
  local divided, present = fields[3] == '1', tonumber(fields[4] or 0)
  -- After a failover, the clock may be behind that of the earlier server.
  local checked = min(tonumber(fields[5] or 0), now)
  local announced = min(tonumber(fields[6] or 0), now)
  local exceeded = min(tonumber(fields[7] or 0), now)
  local own = 0
  if fields[8] then
    local before, share, division = read(fields[8])
    own = division == present and share or 0
    demands, shares = max(demands - before, 0), max(shares - own, 0)
  end
  if now - checked >= CHECK then
    demands, shares = others(key, present)
    checked = now
  end
  if demands + demand > rate then
    exceeded = now
  end
  local was_divided = divided
  divided = now - exceeded < divided_for
  if divided and not was_divided then
    present, shares, own = present + 1, 0, 0
  end
  local share = 0
  if divided and demand > 0 then
    share = divide(rate, demand, demands, shares, own)
  end
  if demand > 0 then
    call('HSET', key, host, string.format('%.9g %.9g %.0f %.0f', demand, share, present, now))
  else
    call('HDEL', key, host)
  end
  if 2 * (demands + demand) > rate and now - announced >= ANNOUNCEMENT then
    call('PUBLISH', 'limiter:rates', name)
    announced = now
  end
  call('HSET', key, 'd', string.format('%.9g', demands + demand), 's',
    string.format('%.9g', shares + share), 'o', divided and 1 or 0, 'n', present, 'c',
    string.format('%.0f', checked), 'a', string.format('%.0f', announced), 'x',
    string.format('%.0f', exceeded))
  call('EXPIREAT', key, tonumber(clock[1]) + floor(divided_for / 1000) + 1)
  replies[i] = divided and demand > 0 and string.format('%.9g', share) or '-1'
end
return replies
