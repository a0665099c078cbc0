-- Deletes the row of a member that has given up its lease.
--
-- KEYS: incarnation. ARGV: expected incarnation, member.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
redis.call('HDEL', MEMBERS, ARGV[2])
return { 'ok', incarnation }
