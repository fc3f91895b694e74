-- admit: one entry of the intake -> an incident, or one more event of the model's open incident; once per (source, id)
-- KEYS: 1 intake 2 activations 3 seen 4 wf 5 wf:events 6 wf:keys 7 model 8 index 9 ids 10 model index 11 counts 12 transitions
--       13 open wf 14 open wf:events 15 open wf:keys
-- ARGV: group, entry, incident, identity, model, environment, correlation, raw, now, ttl ms, open incident ('' none),
--       events max, bytes max
local function settle() redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]); redis.call('XDEL', KEYS[1], ARGV[2]) end
local function remember(kind, incident) redis.call('SET', KEYS[3], kind .. '|' .. incident .. '|' .. ARGV[2], 'PX', ARGV[10]) end
local seen = redis.call('GET', KEYS[3])
if seen then
  local kind, incident, entry = string.match(seen, '^(.-)|(.-)|(.*)$')
  settle()
  if entry == ARGV[2] then return {kind, incident} end -- the same call again: its first reply was lost
  return {'duplicate', incident}
end
local field = 'open:' .. ARGV[6] -- drift of a staging model says nothing about production's
local open = redis.call('HGET', KEYS[7], field) or ''
if open ~= ARGV[11] then return {'MOVED', open} end
if open ~= '' then
  local h = redis.call('HMGET', KEYS[13], 'done', 'bytes')
  local bytes = tonumber(h[2] or 0) + #ARGV[8]
  if h[1] == '0' and redis.call('LLEN', KEYS[14]) < tonumber(ARGV[12]) and bytes <= tonumber(ARGV[13]) then
    redis.call('RPUSH', KEYS[14], ARGV[8]); redis.call('RPUSH', KEYS[15], ARGV[4])
    redis.call('HSET', KEYS[13], 'bytes', bytes)
    redis.call('XADD', KEYS[2], '*', 'incident', open, 'model', ARGV[5], 'why', 'event')
    remember('joined', open); settle()
    return {'joined', open}
  end
end
local other = redis.call('HGET', KEYS[4], 'identity')
if other == ARGV[4] then -- the incident outlived the memory of its event
  remember('duplicate', ARGV[3]); settle()
  return {'duplicate', ARGV[3]}
end
if other then return {'COLLISION', ARGV[3]} end
local t = redis.call('TIME'); local ms = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[4], 'identity', ARGV[4], 'model', ARGV[5], 'environment', ARGV[6], 'correlation', ARGV[7],
  'state', 'received', 'version', 0, 'fence', 0, 'doc', '{}', 'done', 0, 'run', 0, 'lease', 0, 'crashes', 0, 'wake', 0,
  'bytes', #ARGV[8], 'opened', ARGV[9], 'updated', ms)
redis.call('RPUSH', KEYS[5], ARGV[8]); redis.call('RPUSH', KEYS[6], ARGV[4])
redis.call('ZADD', KEYS[8], ms, ARGV[3]); redis.call('ZADD', KEYS[9], 0, ARGV[3]); redis.call('ZADD', KEYS[10], ms, ARGV[3])
redis.call('HINCRBY', KEYS[11], 'received', 1)
redis.call('HSET', KEYS[7], field, ARGV[3])
redis.call('XADD', KEYS[12], 'MAXLEN', '~', 100000, '*', 'incident', ARGV[3], 'model', ARGV[5], 'version', 0, 'from', '', 'state', 'received', 'fence', 0)
redis.call('XADD', KEYS[2], '*', 'incident', ARGV[3], 'model', ARGV[5], 'why', 'opened')
remember('opened', ARGV[3]); settle()
return {'opened', ARGV[3]}
