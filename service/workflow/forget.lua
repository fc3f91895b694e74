-- forget: a closed incident whose time is over leaves this Redis in one step: state, events, their identities, index entries
-- KEYS: 1 wf 2 wf:events 3 wf:keys 4 wf:signals 5 index 6 ids 7 counts 8 removed 9 timers 10 verifying
--       ; index of each model that it has events of
-- ARGV: incident, model, kept for ms ; models of its events
-- Nothing is written where it says other than OK: CHANGED is not what the caller saw, KEPT is still of use
local h = redis.call('HMGET', KEYS[1], 'state', 'done', 'updated', 'run', 'letter')
if not h[1] then return 'GONE' end
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
if h[2] ~= '1' then return 'KEPT' end
if now - tonumber(h[3] or now) < tonumber(ARGV[3]) then return 'KEPT' end
if h[4] == '1' or h[5] then return 'KEPT' end -- somebody has it in hand, or its dead letter is to be written
if redis.call('HLEN', KEYS[4]) > 0 then return 'KEPT' end -- somebody asked something of it, and nobody has heard it yet
if redis.call('ZSCORE', KEYS[9], ARGV[1] .. '|' .. ARGV[2]) then return 'KEPT' end
if redis.call('SISMEMBER', KEYS[10], ARGV[1]) == 1 then return 'KEPT' end
local whose, listed = {ARGV[2]}, {[ARGV[2]] = true}
for _, key in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
  local owner = string.match(key, '|(.*)$')
  if owner and not listed[owner] then listed[owner] = true; whose[#whose + 1] = owner end
end
if table.concat(whose, ' ') ~= table.concat(ARGV, ' ', 4) then return 'CHANGED' end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
for i = 11, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('HINCRBY', KEYS[7], h[1], -1)
redis.call('INCR', KEYS[8])
return 'OK'
