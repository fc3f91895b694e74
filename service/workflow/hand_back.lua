-- hand back: give up a lease without a commit; another worker takes the incident up at once, at its last committed state
-- KEYS: 1 activations 2 wf 3 timers ; ARGV: group, entry, fence, incident, model, not before ms (0: at once)
local h = redis.call('HMGET', KEYS[2], 'fence', 'entry', 'handed')
if h[3] == ARGV[3] then return 'OK' end -- the same call again: its first reply was lost
if h[1] ~= ARGV[3] or h[2] ~= ARGV[2] then return 'FENCED' end
redis.call('HSET', KEYS[2], 'run', 0, 'lease', 0, 'owner', '', 'entry', '', 'wake', 0, 'handed', ARGV[3])
if tonumber(ARGV[6]) > 0 then
  local t = redis.call('TIME')
  redis.call('ZADD', KEYS[3], 'LT', t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[6]), ARGV[4] .. '|' .. ARGV[5])
else
  redis.call('XADD', KEYS[1], '*', 'incident', ARGV[4], 'model', ARGV[5], 'why', 'handed-back')
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]); redis.call('XDEL', KEYS[1], ARGV[2])
return 'OK'
