-- The incarnation of a shard as it is now, whatever was expected. Where there is none of this node's
-- own, what stands for it is one that nobody wrote: so that a loss is seen before anything is written.
--
-- KEYS: incarnation.

local replid = primary()
if not replid then
  return { 'role' }
end
local incarnation = redis.call('GET', KEYS[1])
if not own(incarnation, replid) then
  incarnation = replid .. string.rep('\0', 16)
end
return { 'ok', incarnation }
