-- Names of keys of this node, in no order.
--
-- KEYS: incarnation. ARGV: expected incarnation, cursor, pattern, how many to look at.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
local page = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', ARGV[4])
return { 'ok', incarnation, page[1], page[2] }
