-- The members of a shard: in the hash `m`, by their id in hex, the number of their last beat and the
-- position of the last log entry that they have applied, as `<beat>:<applied>`.
--
-- A row outlives its incarnation, and its position does not say of which one it is. It need not: what was
-- applied was in the log before, so where a row was kept, the position in `pos` is at least its own, and
-- new entries come behind both.

local MEMBERS = PREFIX .. 'm'

-- The two numbers of a row as text, or nil.
local function numbers(row)
  return string.match(row, '^(%d+):(%d+)$')
end

-- Who is a member, and whether no lease of an earlier incarnation can still run.
local function members(incarnation)
  local settled = redis.call('GET', PREFIX .. 'settled') == incarnation
  return settled and 1 or 0, redis.call('HGETALL', MEMBERS)
end

-- How the shard is.
local function standing(incarnation)
  local settled, rows = members(incarnation)
  return { 'ok', incarnation, redis.call('GET', PREFIX .. 'pos') or '0', settled, rows }
end
