-- A commit: everything is looked at, and only then anything is written. Runs under two headers: one
-- that a full server refuses, one that it lets through.
--
-- KEYS: incarnation. ARGV: as named below, then WRITE for each write, then the events.

local ARGUMENTS = 13
local clock = ARGV[2]
local now, format, slack = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local log_max, audit_max = ARGV[5], ARGV[6]
local slot, entry, entry_ttl, replay = ARGV[7], ARGV[8], ARGV[9], ARGV[10] == '1'
local guarded, most = ARGV[11], tonumber(ARGV[12])
local count = tonumber(ARGV[13])
local WRITE = 9
local NEVER = 253402300799999 -- clock::Timestamp::MAX
-- Members of an index that one write may take out in passing.
local TRIM = 16

local refused, incarnation = fence(ARGV[1])
if refused then
  return refused
end

-- The idempotency slot: eight bytes of when it is forgotten, then the entry.
if slot ~= '' and not replay then
  local taken = redis.call('GET', slot)
  if taken and (#taken < 8 or struct.unpack('>I8', taken) > now) then
    return { 'replay', incarnation, string.sub(taken, 9) }
  end
end

local writes = {}
for i = 1, count do
  local at = ARGUMENTS + (i - 1) * WRITE
  writes[i] = {
    id = ARGV[at + 1],
    expects = ARGV[at + 2], -- empty: absent; else the eight bytes of the version
    bytes = ARGV[at + 3],
    ttl = ARGV[at + 4], -- empty: none
    owner = ARGV[at + 5],
    realm = ARGV[at + 6],
    created = ARGV[at + 7],
    living = ARGV[at + 8], -- empty: not living
    version = ARGV[at + 9],
  }
end

for _, write in ipairs(writes) do
  local found = redis.call('GETRANGE', PREFIX .. 'k:' .. write.id, 0, HEADER - 1)
  local version = ''
  if found ~= '' then
    if not readable(found, format) then
      return { 'unreadable', incarnation, write.id, found }
    end
    if not gone(found, now) then
      version = string.sub(found, 2, 9)
    end
  end
  if version ~= write.expects then
    return { 'conflict', incarnation }
  end
end

if guarded ~= '' then
  local index = PREFIX .. 'l:' .. guarded
  local living = redis.call('ZCOUNT', index, '(' .. clock, '+inf')
  for _, write in ipairs(writes) do
    if write.owner == guarded then
      local before = redis.call('ZSCORE', index, nick(write.id))
      if before and tonumber(before) > now then
        living = living - 1
      end
      if write.living ~= '' and tonumber(write.living) > now then
        living = living + 1
      end
    end
  end
  if living > most then
    return { 'full', incarnation }
  end
end

local settled, rows = members(incarnation)

-- From here on everything is written. A script is not rolled back, so what could fail (somebody
-- else's key in our place) comes first, and the records, which cannot, come last.
local position
if count > 0 then
  position = redis.call('INCRBY', PREFIX .. 'pos', count)
else
  position = tonumber(redis.call('GET', PREFIX .. 'pos') or '0')
end
for i, write in ipairs(writes) do
  local place = string.format('%.0f-0', position - count + i)
  redis.call('XADD', PREFIX .. 'log', 'MAXLEN', '~', log_max, place, 'k', write.id, 'v', write.version)
end
for i = ARGUMENTS + count * WRITE + 1, #ARGV do
  local place = string.format('%.0f-%.0f', position, i - (ARGUMENTS + count * WRITE + 1))
  redis.call('XADD', PREFIX .. 'a', 'MAXLEN', '~', audit_max, place, 'e', ARGV[i])
end

-- An index lives as long as the longest-lived record in it: GT never shortens a life, and takes a
-- key without an end for endless.
local grown = {}
local function enter(index, write)
  local fresh = redis.call('EXISTS', index) == 0
  if redis.call('ZADD', index, write.created, write.id) == 1 and not fresh then
    grown[#grown + 1] = index
  end
  if write.ttl == '' then
    redis.call('PERSIST', index)
  elseif fresh then
    redis.call('PEXPIRE', index, write.ttl)
  else
    redis.call('PEXPIRE', index, write.ttl, 'GT')
  end
end

-- The living keys of an owner, scored by when they cease to live. The last one says how long the
-- index itself is needed.
local function count_living(write)
  local index = PREFIX .. 'l:' .. write.owner
  if write.living == '' then
    redis.call('ZREM', index, nick(write.id))
  else
    redis.call('ZADD', index, write.living, nick(write.id))
  end
  local ended = string.format('%.0f', now - slack)
  local dead = redis.call('ZRANGE', index, '-inf', ended, 'BYSCORE', 'LIMIT', 0, TRIM)
  if #dead > 0 then
    redis.call('ZREM', index, unpack(dead))
  end
  local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]
  if last and tonumber(last) >= NEVER then
    redis.call('PERSIST', index)
  elseif last then
    redis.call('PEXPIRE', index, string.format('%.0f', tonumber(last) - now + slack))
  end
end

for _, write in ipairs(writes) do
  enter(PREFIX .. 'o:' .. write.owner, write)
  enter(PREFIX .. 'r:' .. write.realm, write)
  count_living(write)
end
for _, write in ipairs(writes) do
  local name = PREFIX .. 'k:' .. write.id
  if write.ttl == '' then
    redis.call('SET', name, write.bytes)
  else
    redis.call('SET', name, write.bytes, 'PX', write.ttl)
  end
end
if slot ~= '' then
  redis.call('SET', slot, entry, 'PX', entry_ttl)
end

-- Records go by their TTL and leave their members behind. Lists sweep what they meet; so that an
-- index which nobody lists does not grow for ever, each member that is added pays for a look at two
-- others.
for _, index in ipairs(grown) do
  for _, member in ipairs(redis.call('ZRANDMEMBER', index, 2)) do
    if redis.call('EXISTS', PREFIX .. 'k:' .. member) == 0 then
      redis.call('ZREM', index, member)
    end
  end
end

return { 'ok', incarnation, string.format('%.0f', position), settled, rows }
