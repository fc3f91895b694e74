-- commit: one step of an incident; fenced, versioned, repeated under the same token without a second effect
-- KEYS: 1 activations 2 wf 3 model 4 queue 5 timers 6 transitions 7 wf:signals 8 wf:events 9 counts 10 verifying 11 wf:keys
--       12 index 13 ids 14 successor wf 15 successor wf:events 16 successor wf:keys 17 successor's model
--       18 queues ; index of each model that the successor has events of
-- ARGV: group, consumer, entry, incident, model, fence, version, token, state, disposition, due ms ('' none), lease ms,
--       doc, accepting, events seen, last signal delivered, successor ('' none), now, events weighed, seal of the doc, split,
--       how many models the successor has events of ; these models ; handled signals
-- include: successor
local ID, MODEL, MODELS = ARGV[4], ARGV[5], tonumber(ARGV[22])
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[2], 'fence', 'version', 'tok', 'wake', 'state', 'environment')
local seen = tonumber(ARGV[15])
local function done(version, successor)
  return {'OK', version, redis.call('LRANGE', KEYS[8], seen, -1), redis.call('HGETALL', KEYS[7]), successor or ''}
end
if h[3] == ARGV[8] then return done(h[2], redis.call('HGET', KEYS[2], 'successor') or '') end
if h[1] ~= ARGV[6] or h[2] ~= ARGV[7] then return {'FENCED', h[1] or '', h[2] or ''} end
local finish, release = ARGV[10] == 'finish', ARGV[10] == 'release'

local opened = false
if finish or ARGV[21] == '1' then
  local reply
  reply, opened = open_successor({wf = KEYS[2], keys = KEYS[11], events = KEYS[8], next = KEYS[14], next_events = KEYS[15],
    next_keys = KEYS[16], next_model = KEYS[17], indexes = {unpack(KEYS, 19)}, index = KEYS[12], ids = KEYS[13],
    counts = KEYS[9], transitions = KEYS[6], activations = KEYS[1]}, ID, MODEL, ARGV[17], {unpack(ARGV, 23, 22 + MODELS)},
    tonumber(ARGV[19]), ARGV[18])
  if reply then return reply end
end

local version = redis.call('HINCRBY', KEYS[2], 'version', 1)
redis.call('HSET', KEYS[2], 'state', ARGV[9], 'tok', ARGV[8], 'crashes', 0, 'doc', ARGV[13], 'done', finish and 1 or 0, 'updated', now, 'weighed', ARGV[19],
  'joinable', ARGV[14] == '1' and not finish and 1 or 0, 'mac', ARGV[20], 'sealed', version .. '|' .. ARGV[9])
if h[5] ~= ARGV[9] then redis.call('HINCRBY', KEYS[9], h[5], -1); redis.call('HINCRBY', KEYS[9], ARGV[9], 1) end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', 100000, '*', 'incident', ID, 'model', MODEL, 'version', version, 'from', h[5], 'state', ARGV[9], 'fence', ARGV[6])
for i = 23 + MODELS, #ARGV do redis.call('HDEL', KEYS[7], ARGV[i]) end

if ARGV[9] == 'verifying' and not finish then redis.call('SADD', KEYS[10], ID) else redis.call('SREM', KEYS[10], ID) end
local field = 'open:' .. (h[6] or '')
local followed = opened and open_to(KEYS[17], field, ID, ARGV[17]) and KEYS[17] == KEYS[3]
local open = redis.call('HGET', KEYS[3], field) or ''
if followed then -- its model's events join the successor now
elseif ARGV[14] == '1' and not finish then if open == '' then redis.call('HSET', KEYS[3], field, ID) end
elseif open == ID then redis.call('HDEL', KEYS[3], field) end
redis.call('ZREM', KEYS[5], ID .. '|' .. MODEL)

if ARGV[10] == 'go' then
  redis.call('HSET', KEYS[2], 'lease', now + tonumber(ARGV[12]))
  redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
  return done(version, ARGV[17])
end

redis.call('HSET', KEYS[2], 'run', 0, 'lease', 0, 'owner', '', 'entry', '', 'wake', 0)
if not finish then redis.call('ZADD', KEYS[5], now + tonumber(ARGV[11]), ID .. '|' .. MODEL) end
if finish then -- what was delivered had its hearing; what came since then is heard after the end
  local left = redis.call('HGETALL', KEYS[7])
  for i = 1, #left, 2 do
    if tonumber(string.match(left[i + 1], '^(%d+)|')) <= tonumber(ARGV[16]) then redis.call('HDEL', KEYS[7], left[i]) end
  end
end
if (finish or release) and redis.call('HGET', KEYS[3], 'active') == ID then
  local nx = redis.call('ZPOPMIN', KEYS[4])[1] or '' -- hand the slot over: never leave it open while somebody is queued
  if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SREM', KEYS[18], MODEL) end
  redis.call('HSET', KEYS[3], 'active', nx)
  if nx ~= '' then redis.call('XADD', KEYS[1], '*', 'incident', nx, 'model', MODEL, 'why', 'slot') end
end
if h[4] == '1' then redis.call('XADD', KEYS[1], '*', 'incident', ID, 'model', MODEL, 'why', 'wake') end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]); redis.call('XDEL', KEYS[1], ARGV[3])
return done(version, ARGV[17])
