-- Entries of the log after a position.
--
-- KEYS: incarnation, position, log. ARGV: expected incarnation, position, most entries.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
local entries = {}
if ARGV[3] ~= '0' then
  entries = redis.call('XRANGE', KEYS[3], '(' .. ARGV[2] .. '-0', '+', 'COUNT', ARGV[3])
end
return { 'ok', incarnation, redis.call('GET', KEYS[2]) or '0', entries }
