-- heartbeat: prolong the lease; fenced, and only while this entry is the running one: a late heartbeat must not bring back
-- the lease of a parked incident (it would swallow its wake-up), and a zombie must not steal the entry back
-- KEYS: 1 activations 2 wf ; ARGV: group, consumer, entry, fence, lease ms
local h = redis.call('HMGET', KEYS[2], 'fence', 'entry')
if h[1] ~= ARGV[4] or h[2] ~= ARGV[3] then return 'FENCED' end
local t = redis.call('TIME')
redis.call('HSET', KEYS[2], 'lease', t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[5]))
redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return 'OK'
