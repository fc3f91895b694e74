-- admit: one event -> an incident of its own, or one more event of an open one; once per (source, id). The caller acknowledges
-- the entry of the intake afterwards: the same entry again has the same answer, and no second effect
-- KEYS: 1 activations 2 seen 3 wf 4 wf:events 5 wf:keys 6 model 7 index 8 ids 9 model index 10 counts 11 transitions
--       12 seen of the event before ; a key for each group ; wf, wf:events, wf:keys of each incident that it may join, in turn
-- ARGV: 1 entry 2 incident 3 identity 4 model 5 environment 6 correlation 7 raw 8 now 9 ttl ms 10 events max 11 bytes max
--       12 waits for the event before (1) 13 group ttl ms 14 how many groups ; the incidents that it may join, in turn
local GROUPS = tonumber(ARGV[14])
local function remember(kind, incident) redis.call('SET', KEYS[2], kind .. '|' .. incident .. '|' .. ARGV[1], 'PX', ARGV[9]) end
local seen = redis.call('GET', KEYS[2])
if seen then
  local kind, incident, entry = string.match(seen, '^(.-)|(.-)|(.*)$')
  if entry == ARGV[1] then return {kind, incident} end -- the same entry again: its first reply, or its acknowledgement, was lost
  return {'duplicate', incident}
end
if ARGV[12] == '1' and redis.call('EXISTS', KEYS[12]) == 0 then return {'LATER'} end -- order holds within a model

-- Whom it may join: its model's own open incident, then those of its groups, as the caller must have named them
local field = 'open:' .. ARGV[5] -- drift of a staging model says nothing about production's
local own = redis.call('HGET', KEYS[6], field) or ''
local found, may, listed = {'MOVED', own}, {}, {}
for i = 1, GROUPS do found[i + 2] = redis.call('GET', KEYS[12 + i]) or '' end
for i = 2, #found do
  if found[i] ~= '' and not listed[found[i]] then listed[found[i]] = true; may[#may + 1] = found[i] end
end
if table.concat(may, ' ') ~= table.concat(ARGV, ' ', 15) then return found end
-- A group goes on in the incident in which its last event went on, but its first, which opened one and stays with it
local function place_of(i) return 'group:' .. string.match(KEYS[12 + i], '[^:]*$') end
local moved = false
for i = 1, GROUPS do
  for n, incident in ipairs(may) do
    local after = found[i + 2] == incident and redis.call('HGET', KEYS[12 + GROUPS + 3 * (n - 1) + 1], place_of(i)) or '0'
    if not tonumber(after) then moved = true; found[i + 2] = after; redis.call('SET', KEYS[12 + i], after, 'KEEPTTL'); break end
  end
end
if moved then return found end
local t = redis.call('TIME'); local ms = t[1] * 1000 + math.floor(t[2] / 1000)
for i, incident in ipairs(may) do
  local at = 12 + GROUPS + 3 * (i - 1)
  local h = redis.call('HMGET', KEYS[at + 1], 'done', 'bytes', 'joinable', 'model')
  local bytes = tonumber(h[2] or 0) + #ARGV[7]
  if h[1] == '0' and h[4] and (incident == own or h[3] == '1') and redis.call('LLEN', KEYS[at + 2]) < tonumber(ARGV[10]) and bytes <= tonumber(ARGV[11]) then
    local place = redis.call('RPUSH', KEYS[at + 2], ARGV[7])
    for g = 1, GROUPS do
      if found[g + 2] == incident then redis.call('HSET', KEYS[at + 1], place_of(g), place) end
    end
    redis.call('RPUSH', KEYS[at + 3], h[4] == ARGV[4] and ARGV[3] or ARGV[3] .. '|' .. ARGV[4])
    redis.call('HSET', KEYS[at + 1], 'bytes', bytes)
    if h[4] ~= ARGV[4] then redis.call('ZADD', KEYS[9], 'NX', ms, incident) end
    redis.call('XADD', KEYS[1], '*', 'incident', incident, 'model', h[4], 'why', 'event')
    remember('joined', incident)
    return {'joined', incident}
  end
end

local other = redis.call('HGET', KEYS[3], 'identity')
if other == ARGV[3] then -- the incident outlived the memory of its event
  remember('duplicate', ARGV[2])
  return {'duplicate', ARGV[2]}
end
if other then return {'COLLISION'} end
redis.call('HSET', KEYS[3], 'identity', ARGV[3], 'model', ARGV[4], 'environment', ARGV[5], 'correlation', ARGV[6],
  'state', 'received', 'version', 0, 'fence', 0, 'doc', '{}', 'done', 0, 'run', 0, 'lease', 0, 'crashes', 0, 'wake', 0,
  'bytes', #ARGV[7], 'joinable', 1, 'opened', ARGV[8], 'updated', ms)
redis.call('RPUSH', KEYS[4], ARGV[7]); redis.call('RPUSH', KEYS[5], ARGV[3])
redis.call('ZADD', KEYS[7], ms, ARGV[2]); redis.call('ZADD', KEYS[8], 0, ARGV[2]); redis.call('ZADD', KEYS[9], ms, ARGV[2])
redis.call('HINCRBY', KEYS[10], 'received', 1)
redis.call('HSET', KEYS[6], field, ARGV[2])
for i = 1, GROUPS do redis.call('SET', KEYS[12 + i], ARGV[2], 'PX', ARGV[13]) end -- none that is there could be joined
redis.call('XADD', KEYS[11], 'MAXLEN', '~', 100000, '*', 'incident', ARGV[2], 'model', ARGV[4], 'version', 0, 'from', '', 'state', 'received', 'fence', 0)
redis.call('XADD', KEYS[1], '*', 'incident', ARGV[2], 'model', ARGV[4], 'why', 'opened')
remember('opened', ARGV[2])
return {'opened', ARGV[2]}
