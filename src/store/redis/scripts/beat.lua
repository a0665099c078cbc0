-- A sign of life of a member. Written also when nothing in it is new: a WAIT behind it then speaks of
-- this beat, and not of an older one.
--
-- KEYS: incarnation. ARGV: expected incarnation, member, number of the beat, position applied.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
local beat, applied = tonumber(ARGV[3]), tonumber(ARGV[4])
local row = redis.call('HGET', MEMBERS, ARGV[2])
if row then
  local last_beat, last_applied = numbers(row)
  if not last_beat then
    -- Who asked finds it among the rows.
    return standing(incarnation)
  end
  -- A beat that came late takes nothing back.
  beat, applied = math.max(beat, tonumber(last_beat)), math.max(applied, tonumber(last_applied))
end
redis.call('HSET', MEMBERS, ARGV[2], string.format('%.0f:%.0f', beat, applied))
return standing(incarnation)
