-- put_away: values leave one hash, and others are written beside it, in one step; nothing where any of them is not as it was seen
-- KEYS: 1 the hash that values leave 2 the hash that is written, on the same slot
-- ARGV: n ; n times field, value as it was seen ; then for each field that is written: field, value as it was seen ('' none), new
local from = 2 + 2 * tonumber(ARGV[1])
for i = 2, from - 1, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then return 'CHANGED' end
end
for i = from, #ARGV, 3 do
  if (redis.call('HGET', KEYS[2], ARGV[i]) or '') ~= ARGV[i + 1] then return 'CHANGED' end
end
for i = 2, from - 1, 2 do redis.call('HDEL', KEYS[1], ARGV[i]) end
for i = from, #ARGV, 3 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2]) end
return 'OK'
