-- wake: leave a signal for an incident, finished ones included, and activate it
-- KEYS: 1 wf 2 wf:signals 3 activations 4 once ; ARGV: incident, token, signal (JSON), why, ttl ms
local model = redis.call('HGET', KEYS[1], 'model')
if not model then return 'GONE' end
if not redis.call('SET', KEYS[4], 1, 'NX', 'PX', ARGV[5]) then return 'OK' end
local seq = redis.call('HINCRBY', KEYS[1], 'signals', 1)
redis.call('HSET', KEYS[2], ARGV[2], seq .. '|' .. ARGV[3])
redis.call('XADD', KEYS[3], '*', 'incident', ARGV[1], 'model', model, 'why', ARGV[4])
return 'OK'
