-- Sets the term of leases, where nobody can hold one, and begins a new incarnation: whoever knows the
-- old term must make the check again.
--
-- KEYS: incarnation. ARGV: expected incarnation, 16 random bytes, term in milliseconds. Answers how many
-- members are in the way.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
local _, rows = members(incarnation)
if #rows == 0 then
  incarnation = string.sub(incarnation, 1, REPLID) .. ARGV[2]
  redis.call('SET', PREFIX .. 'lease', ARGV[3])
  redis.call('SET', KEYS[1], incarnation)
end
return { 'ok', incarnation, #rows / 2 }
