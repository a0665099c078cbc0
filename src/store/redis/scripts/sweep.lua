-- Takes members whose record is gone out of an index. What a list saw is looked at again.
--
-- KEYS: incarnation, index, and for an owner's index the living keys of that owner. ARGV: expected
-- incarnation, a time, format of a record, then the ids. A record that is still there must have been
-- gone at that time, which lies before now: to a replica whose clock is behind, it may be there yet.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
local now, format = tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV do
  local bytes = redis.call('GETRANGE', PREFIX .. 'k:' .. ARGV[i], 0, HEADER - 1)
  if bytes == '' or (readable(bytes, format) and gone(bytes, now)) then
    redis.call('ZREM', KEYS[2], ARGV[i])
    if KEYS[3] then
      redis.call('ZREM', KEYS[3], nick(ARGV[i]))
    end
  end
end
return { 'ok', incarnation }
