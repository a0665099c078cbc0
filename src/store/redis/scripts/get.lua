-- Records.
--
-- KEYS: incarnation, then the records. ARGV: expected incarnation.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
return { 'ok', incarnation, redis.call('MGET', unpack(KEYS, 2)) }
