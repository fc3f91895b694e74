-- performance: one performance report -> the model's list, and an activation of each of its incidents that waits for one
-- KEYS: 1 activations 2 seen 3 reports 4 verifying ; ARGV: entry, model, raw, ttl ms, reports max
local seen = redis.call('GET', KEYS[2])
if seen then -- the same entry again: it was admitted, and not acknowledged yet
  return string.match(seen, '|([^|]*)$') == ARGV[1] and 'performance' or 'duplicate'
end
redis.call('SET', KEYS[2], 'performance||' .. ARGV[1], 'PX', ARGV[4])
redis.call('RPUSH', KEYS[3], ARGV[3]); redis.call('LTRIM', KEYS[3], -tonumber(ARGV[5]), -1)
for _, incident in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  redis.call('XADD', KEYS[1], '*', 'incident', incident, 'model', ARGV[2], 'why', 'performance')
end
return 'performance'
