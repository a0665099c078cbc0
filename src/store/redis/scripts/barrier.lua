-- Writes something of no meaning, so that a WAIT behind it speaks of everything before.
--
-- KEYS: incarnation. ARGV: expected incarnation.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
redis.call('INCRBY', PREFIX .. 'barrier', 1)
return standing(incarnation)
