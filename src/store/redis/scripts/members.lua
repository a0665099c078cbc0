-- The members of a shard as they are.
--
-- KEYS: incarnation. ARGV: expected incarnation.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
return standing(incarnation)
