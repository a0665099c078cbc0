-- The fence in front of every script: only the node that is the primary answers, and only in an
-- incarnation of the shard that is this node's own.
--
-- KEYS[1] is the shard's incarnation: the replid (40 characters) of the node that wrote it, then 16
-- random bytes. Every other key of the shard has the same hash tag, so it lies on the same node;
-- those whose names a script makes itself are made from KEYS[1].
--
-- What all scripts heed: a number that may exceed 2^53 stays a string; a number becomes a string by
-- '%.0f' (tostring writes 1e+15); strings are ordered byte by byte, never by '<', which asks the
-- server's locale.

local REPLID = 40
local PREFIX = string.sub(KEYS[1], 1, -6) -- without 'epoch'

-- The replid of this node, if it is a primary.
local function primary()
  local info = redis.call('INFO', 'replication')
  if not string.find(info, 'role:master', 1, true) then
    return nil
  end
  return string.match(info, 'master_replid:(%w+)')
end

-- Whether `incarnation` was written by the node called `replid`.
local function own(incarnation, replid)
  return incarnation and string.sub(incarnation, 1, REPLID) == replid
end

-- What to answer instead of doing anything, or nil and the incarnation.
local function fence(expected)
  local replid = primary()
  if not replid then
    return { 'role' }
  end
  local incarnation = redis.call('GET', KEYS[1])
  if not own(incarnation, replid) or expected ~= incarnation then
    return { 'epoch' }
  end
  return nil, incarnation
end

-- The header of a record (src/key/codec.rs): format, version, gone_at.
local HEADER = 17

local function readable(bytes, format)
  return #bytes >= HEADER and string.byte(bytes, 1) == format
end

-- Whether a readable record is past its time.
local function gone(bytes, now)
  local gone_at = struct.unpack('>I8', bytes, 10)
  return gone_at ~= 0 and gone_at <= now
end

-- How an id is called among the living keys of one owner: its last 11 digits, which are 65 random
-- bits. Half as long as the id, and only ever counted.
local function nick(id)
  return string.sub(id, -11)
end
