-- trim: a backstop; settled entries are deleted one by one. Never past the lowest pending or undelivered id, never MAXLEN.
-- Consumers that hold nothing and were not seen for long are forgotten (only those: DELCONSUMER drops pending entries).
-- KEYS: 1 stream ; ARGV: group, idle ms
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local lowest
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local g = {}
  for i = 1, #group, 2 do g[group[i]] = group[i + 1] end
  if g['name'] == ARGV[1] then lowest = g['last-delivered-id'] end
end
if not lowest then return 0 end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > 0 then lowest = pending[2] end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local c = {}
  for i = 1, #consumer, 2 do c[consumer[i]] = consumer[i + 1] end
  if c['pending'] == 0 and c['idle'] > tonumber(ARGV[2]) then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], c['name']) end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', lowest)
