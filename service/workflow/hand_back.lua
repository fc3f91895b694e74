-- hand back: give up a lease without a commit; another worker takes the incident up at once, at its last committed state
-- KEYS: 1 activations 2 wf ; ARGV: group, entry, fence, incident, model
local h = redis.call('HMGET', KEYS[2], 'fence', 'entry', 'handed')
if h[3] == ARGV[3] then return 'OK' end -- the same call again: its first reply was lost
if h[1] ~= ARGV[3] or h[2] ~= ARGV[2] then return 'FENCED' end
redis.call('HSET', KEYS[2], 'run', 0, 'lease', 0, 'owner', '', 'entry', '', 'wake', 0, 'handed', ARGV[3])
redis.call('XADD', KEYS[1], '*', 'incident', ARGV[4], 'model', ARGV[5], 'why', 'handed-back')
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]); redis.call('XDEL', KEYS[1], ARGV[2])
return 'OK'
