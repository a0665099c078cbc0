-- Makes a shard usable: writes an incarnation where there is none of this node's own. It does so only if
-- the term of leases, how many replicas confirm a change, and in the first shard the settings of the store,
-- are as expected; it writes them where there are none. Answers the term.
--
-- How many replicas confirm may be another number than before once nobody lives who goes by that: no member
-- is left but those that the caller knows to be silent. These go, and there is a new incarnation, so that
-- whoever lives on after all has to make the check again.
--
-- KEYS: incarnation, and for the first shard the settings. ARGV: 16 random bytes, the term that is
-- expected (empty: any), the term in a new shard, how many replicas confirm, how many members are known to
-- be silent, id and row of each of these, then name and value of a setting.

local replid = primary()
if not replid then
  return { 'role' }
end
local silent = tonumber(ARGV[5])
local name, value = ARGV[6 + 2 * silent], ARGV[7 + 2 * silent]
if KEYS[2] then
  local stored = redis.call('HGET', KEYS[2], name)
  if stored and stored ~= value then
    return { 'setting', stored }
  end
end
local term = redis.call('GET', PREFIX .. 'lease')
if term and ARGV[2] ~= '' and term ~= ARGV[2] then
  return { 'lease', term }
end
local confirm = redis.call('GET', PREFIX .. 'confirm')
local another = confirm and confirm ~= ARGV[4]
if another then
  local found = redis.call('HGETALL', MEMBERS)
  local rows = {}
  for at = 6, 5 + 2 * silent, 2 do
    rows[ARGV[at]] = ARGV[at + 1]
  end
  for at = 1, #found, 2 do
    if rows[found[at]] ~= found[at + 1] then
      return { 'confirm', confirm, found, term or ARGV[3] }
    end
  end
  redis.call('DEL', MEMBERS)
end
if confirm ~= ARGV[4] then
  redis.call('SET', PREFIX .. 'confirm', ARGV[4])
end
if not term then
  term = ARGV[3]
  redis.call('SET', PREFIX .. 'lease', term)
end
local incarnation = redis.call('GET', KEYS[1])
if another or not own(incarnation, replid) then
  incarnation = replid .. ARGV[1]
  redis.call('SET', KEYS[1], incarnation)
end
if KEYS[2] then
  redis.call('HSETNX', KEYS[2], name, value)
end
return { 'ok', incarnation, term }
