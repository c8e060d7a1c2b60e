-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Creates a fleet on an engine that has none.
--
-- KEYS[1]  the fleet, a hash: its id ("id"), the version of the format ("format"), the check value
--          of the secret with which keys are hashed ("check"), the version of the registry
--          ("version"), and the number of the last recall ("recall")
-- ARGV     the id, the version of the format, and the check value
--
-- Returns 1. Fails with "EXISTS" if there is a fleet already.

if redis.call('HEXISTS', KEYS[1], 'id') == 1 then
  return redis.error_reply('EXISTS there is a fleet already')
end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'format', ARGV[2], 'check', ARGV[3], 'version', 0)
return 1
