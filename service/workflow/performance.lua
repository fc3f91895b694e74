-- performance: one performance report -> the model's list, and an activation of each of its incidents that waits for one
-- KEYS: 1 intake 2 activations 3 seen 4 reports 5 verifying ; ARGV: group, entry, model, raw, ttl ms, reports max
local seen = redis.call('GET', KEYS[3])
local fresh = not seen
if fresh then
  redis.call('SET', KEYS[3], 'performance||' .. ARGV[2], 'PX', ARGV[5])
  redis.call('RPUSH', KEYS[4], ARGV[4]); redis.call('LTRIM', KEYS[4], -tonumber(ARGV[6]), -1)
  for _, incident in ipairs(redis.call('SMEMBERS', KEYS[5])) do
    redis.call('XADD', KEYS[2], '*', 'incident', incident, 'model', ARGV[3], 'why', 'performance')
  end
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]); redis.call('XDEL', KEYS[1], ARGV[2])
if fresh or string.match(seen, '|([^|]*)$') == ARGV[2] then return 'performance' end
return 'duplicate'
