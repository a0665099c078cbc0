-- Makes a shard usable: writes an incarnation where there is none of this node's own. With the
-- settings of the store it does so only if they are as expected, and writes them where there are none.
--
-- KEYS: incarnation, and for the first shard the settings. ARGV: 16 random bytes, then name and value
-- of a setting.

local replid = primary()
if not replid then
  return { 'role' }
end
if KEYS[2] then
  local stored = redis.call('HGET', KEYS[2], ARGV[2])
  if stored and stored ~= ARGV[3] then
    return { 'setting', stored }
  end
end
local incarnation = redis.call('GET', KEYS[1])
if not own(incarnation, replid) then
  incarnation = replid .. ARGV[1]
  redis.call('SET', KEYS[1], incarnation)
end
if KEYS[2] then
  redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3])
end
return { 'ok', incarnation }
