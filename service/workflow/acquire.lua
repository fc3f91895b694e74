-- acquire: take the model's slot and the incident's lease; mint a fencing token
-- KEYS: 1 activations 2 wf 3 model 4 queue 5 transitions 6 wf:signals 7 wf:events 8 counts 9 verifying 10 timers 11 wf:keys
--       12 index 13 ids 14 successor wf 15 successor wf:events 16 successor wf:keys 17 successor's model
--       18 queues ; index of each model that the successor has events of
-- ARGV: group, consumer, entry, incident, model, lease ms, crashes max, token, successor ('' none), now, dead letter that was
--       written ('' none) ; models of its events
-- A dead letter is on another slot: a crash loop leaves it in the incident, and nobody takes that up who has not written it
-- include: successor
-- fence = max(last + 1, time in us): monotonic even where Redis restarts with writes lost
-- XCLAIM here and elsewhere under pcall: where the group was destroyed, a new one hands every entry out again anyway
local function drop() redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]); redis.call('XDEL', KEYS[1], ARGV[3]) end
local function hand_over() -- never leave the slot open while somebody is queued
  local nx = redis.call('ZPOPMIN', KEYS[4])[1] or ''
  if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SREM', KEYS[18], ARGV[5]) end
  redis.call('HSET', KEYS[3], 'active', nx)
  if nx ~= '' then redis.call('XADD', KEYS[1], '*', 'incident', nx, 'model', ARGV[5], 'why', 'slot') end
end
local function granted(fence)
  return {'OK', fence, redis.call('HGETALL', KEYS[2]), redis.call('LRANGE', KEYS[7], 0, -1), redis.call('HGETALL', KEYS[6])}
end
-- settled while its reader slept: no handle any more, and whoever ran with it would be found by nobody if it died
if #redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3]) == 0 then return {'SETTLED'} end
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[2], 'state', 'done', 'lease', 'entry', 'run', 'crashes', 'atok', 'fence', 'weighed', 'done', 'environment', 'letter')
if h[12] and h[12] ~= ARGV[11] then return {'LETTER', h[12]} end
if h[12] then redis.call('HDEL', KEYS[2], 'letter') end
local active = redis.call('HGET', KEYS[3], 'active') or ''
local ended = h[2] == '1' and redis.call('HLEN', KEYS[6]) == 0
if not h[1] or ended then
  redis.call('ZREM', KEYS[4], ARGV[4])
  if active == ARGV[4] then hand_over() end
  drop(); return {h[1] and 'ENDED' or 'GONE'}
end
if active ~= '' and active ~= ARGV[4] then
  redis.call('ZADD', KEYS[4], 'NX', now, ARGV[4])
  redis.call('SADD', KEYS[18], ARGV[5])
  drop(); return {'QUEUED', active}
end
if tonumber(h[3] or 0) > now then
  if h[7] == ARGV[8] then return granted(h[8]) end -- the same call again: its first reply was lost
  if h[4] == ARGV[3] then return {'BUSY'} end
  redis.call('HSET', KEYS[2], 'wake', 1); drop(); return {'COALESCED'}
end
local crashes = tonumber(h[6] or 0)
if h[5] == '1' then crashes = crashes + 1 end
local looping, opened = crashes > tonumber(ARGV[7]), false
if looping and h[10] ~= '1' then -- what joined and was never weighed must not end with it; its first event always does, or it would go on for ever
  local reply
  reply, opened = open_successor({wf = KEYS[2], keys = KEYS[11], events = KEYS[7], next = KEYS[14], next_events = KEYS[15],
    next_keys = KEYS[16], next_model = KEYS[17], indexes = {unpack(KEYS, 19)}, index = KEYS[12], ids = KEYS[13],
    counts = KEYS[8], transitions = KEYS[5], activations = KEYS[1]}, ARGV[4], ARGV[5], ARGV[9], {unpack(ARGV, 12)},
    math.max(1, tonumber(h[9] or 0)), ARGV[10])
  if reply then return reply end
end
if h[5] == '1' then redis.call('HSET', KEYS[2], 'crashes', crashes) end
if h[4] and h[4] ~= '' and h[4] ~= ARGV[3] then redis.call('XACK', KEYS[1], ARGV[1], h[4]); redis.call('XDEL', KEYS[1], h[4]) end
if looping and h[10] == '1' then -- it had ended, and its last word killed whoever took it down: it stays as it is
  redis.call('HSET', KEYS[2], 'run', 0, 'lease', 0, 'entry', '', 'owner', '', 'wake', 0, 'crashes', 0)
  redis.call('DEL', KEYS[6])
  drop()
  if active == ARGV[4] then hand_over() end
  return {'FAILED', crashes}
end
if looping then
  local why = 'its workers died ' .. crashes .. ' times in state ' .. h[1]
  local version = redis.call('HINCRBY', KEYS[2], 'version', 1)
  local fence = string.format('%.0f', math.max(tonumber(h[8] or 0) + 1, t[1] * 1000000 + t[2]))
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 100000, '*', 'incident', ARGV[4], 'model', ARGV[5], 'version', version, 'from', h[1], 'state', 'failed', 'fence', fence)
  redis.call('HINCRBY', KEYS[8], h[1], -1); redis.call('HINCRBY', KEYS[8], 'failed', 1)
  local letter = cjson.encode({version = version, reason = 'crash-loop: ' .. why, got = crashes, expected = 'at most ' .. ARGV[7]})
  -- a new fence: a worker that was only slow must not commit any more; crashes start anew if an operator revives it
  redis.call('HSET', KEYS[2], 'state', 'failed', 'done', 1, 'run', 0, 'lease', 0, 'entry', '', 'owner', '', 'wake', 0, 'crashes', 0,
    'joinable', 0, 'tok', '', 'fence', fence, 'reason', 'crash-loop: ' .. why, 'updated', now,
    'letter', letter)
  redis.call('DEL', KEYS[6]); redis.call('SREM', KEYS[9], ARGV[4]); redis.call('ZREM', KEYS[10], ARGV[4] .. '|' .. ARGV[5])
  local field = 'open:' .. (h[11] or '')
  if opened then open_to(KEYS[17], field, ARGV[4], ARGV[9]) end
  if redis.call('HGET', KEYS[3], field) == ARGV[4] then redis.call('HDEL', KEYS[3], field) end
  drop(); hand_over()
  -- a worker has the last word: it closes the books
  local seq = redis.call('HINCRBY', KEYS[2], 'signals', 1)
  redis.call('HSET', KEYS[6], 'crash-loop', seq .. '|' .. cjson.encode({why = 'crash-loop', payload = why, at = ARGV[10]}))
  redis.call('XADD', KEYS[1], '*', 'incident', ARGV[4], 'model', ARGV[5], 'why', 'crash-loop')
  return {'FAILED', crashes, letter}
end
redis.call('HSET', KEYS[3], 'active', ARGV[4])
local fence = string.format('%.0f', math.max(tonumber(h[8] or 0) + 1, t[1] * 1000000 + t[2]))
redis.call('HSET', KEYS[2], 'owner', ARGV[2], 'lease', now + tonumber(ARGV[6]), 'entry', ARGV[3], 'run', 1, 'fence', fence, 'atok', ARGV[8],
  'wake', 0) -- all that came until now is in this reply
redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return granted(fence)
