-- Audit events.
--
-- KEYS: incarnation, events. ARGV: expected incarnation, XRANGE or XREVRANGE, where it begins, where
-- it ends, most events.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
return { 'ok', incarnation, redis.call(ARGV[2], KEYS[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5]) }
