-- Makes a shard usable: writes an incarnation where there is none of this node's own. It does so only if
-- the term of leases, and in the first shard the settings of the store, are as expected; it writes them
-- where there are none. Answers the term.
--
-- KEYS: incarnation, and for the first shard the settings. ARGV: 16 random bytes, the term that is
-- expected (empty: any), the term in a new shard, then name and value of a setting.

local replid = primary()
if not replid then
  return { 'role' }
end
if KEYS[2] then
  local stored = redis.call('HGET', KEYS[2], ARGV[4])
  if stored and stored ~= ARGV[5] then
    return { 'setting', stored }
  end
end
local term = redis.call('GET', PREFIX .. 'lease')
if term and ARGV[2] ~= '' and term ~= ARGV[2] then
  return { 'lease', term }
end
if not term then
  term = ARGV[3]
  redis.call('SET', PREFIX .. 'lease', term)
end
local incarnation = redis.call('GET', KEYS[1])
if not own(incarnation, replid) then
  incarnation = replid .. ARGV[1]
  redis.call('SET', KEYS[1], incarnation)
end
if KEYS[2] then
  redis.call('HSETNX', KEYS[2], ARGV[4], ARGV[5])
end
return { 'ok', incarnation, term }
