-- One page of an index: the records behind its members, after a cursor.
--
-- KEYS: incarnation, index. ARGV: expected incarnation, score and id of the cursor (both empty:
-- from the start), most records, most members to look at, most bytes, now, format of a record.
--
-- Answers whether there is more, score and id of the last member looked at, the records (id, bytes,
-- id, bytes, …), and the members whose record is gone.

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end
local index, score, id = KEYS[2], ARGV[2], ARGV[3]
local limit, span, room = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now, format = tonumber(ARGV[7]), tonumber(ARGV[8])

local function follows(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x > y
    end
  end
  return #a > #b
end

-- The rank of the first member after the cursor. Members of one score are sorted, so the place among
-- them is found by halving: a thousand keys of one millisecond take ten steps.
local rank = 0
if id ~= '' then
  local low = redis.call('ZCOUNT', index, '-inf', '(' .. score)
  local high = low + redis.call('ZCOUNT', index, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if follows(redis.call('ZRANGE', index, middle, middle)[1], id) then
      high = middle
    else
      low = middle + 1
    end
  end
  rank = low
end

local size = redis.call('ZCARD', index)
local records, ghosts, looked, last = {}, {}, 0, { '', '' }
while rank < size and looked < span and #records < 2 * limit and room > 0 do
  local step = math.min(64, limit - #records / 2, span - looked)
  local members = redis.call('ZRANGE', index, rank, rank + step - 1, 'WITHSCORES')
  local names = {}
  for i = 1, #members, 2 do
    names[#names + 1] = PREFIX .. 'k:' .. members[i]
  end
  local values = redis.call('MGET', unpack(names))
  for i, bytes in ipairs(values) do
    local member = members[2 * i - 1]
    if not bytes or (readable(bytes, format) and gone(bytes, now)) then
      ghosts[#ghosts + 1] = member
    else
      -- One that is not readable goes along: who asked must hear of it.
      records[#records + 1] = member
      records[#records + 1] = bytes
      room = room - #bytes
    end
    last = { members[2 * i], member }
  end
  rank = rank + #names
  looked = looked + #names
end
return { 'ok', incarnation, rank < size and 1 or 0, last[1], last[2], records, ghosts }
