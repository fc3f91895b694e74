-- timers: every timer that is due becomes an activation, in one step
-- KEYS: 1 timers 2 activations ; ARGV: limit, ahead ms
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[2])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
for _, member in ipairs(due) do
  local incident, model = string.match(member, '^(.-)|(.*)$')
  redis.call('XADD', KEYS[2], '*', 'incident', incident, 'model', model, 'why', 'timer')
  redis.call('ZREM', KEYS[1], member)
end
return #due
