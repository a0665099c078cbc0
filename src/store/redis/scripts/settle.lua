-- Notes that no lease of an earlier incarnation can still run. The note names its incarnation, so that
-- it means nothing in a later one.
--
-- KEYS: incarnation. ARGV: expected incarnation.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
redis.call('SET', PREFIX .. 'settled', incarnation)
return { 'ok', incarnation }
