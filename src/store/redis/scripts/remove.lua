-- Deletes the row of a member that was silent: only if it is silent still.
--
-- KEYS: incarnation. ARGV: expected incarnation, member, number of its last beat. Answers whether it did.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
local row = redis.call('HGET', MEMBERS, ARGV[2])
if row and numbers(row) == ARGV[3] then
  return { 'ok', incarnation, redis.call('HDEL', MEMBERS, ARGV[2]) }
end
return { 'ok', incarnation, 0 }
