-- Makes the shard usable: writes an incarnation where there is none of this node's own.
--
-- ARGV: 16 random bytes.

local replid = primary()
if not replid then
  return { 'role' }
end
local incarnation = redis.call('GET', KEYS[1])
if not own(incarnation, replid) then
  incarnation = replid .. ARGV[1]
  redis.call('SET', KEYS[1], incarnation)
end
return { 'ok', incarnation }
