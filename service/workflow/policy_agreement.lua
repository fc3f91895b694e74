-- policy_agreement: announce the policy that one process holds, and tell what every live process holds, in one step
-- KEYS: 1 policies (hash: process -> `<ms> <holding>`) ; ARGV: process, holding, ttl ms, ahead ms
-- An empty process announces and removes nothing: it only looks
-- ms is this server's time: hosts whose clocks differ must not take each other for dead
-- What has no time, or one that is still to come, is told once without a holding, with which nobody agrees, and removed
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[4])
local ttl, announces = tonumber(ARGV[3]), ARGV[1] ~= ''
if announces then redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', now, ARGV[2])) end
local all, told = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local at, holding = string.match(all[i + 1], '^(%d+) (.*)$')
  local age = at and now - tonumber(at)
  if age and age >= -ttl and age <= ttl then
    told[#told + 1] = all[i]; told[#told + 1] = holding
  else
    if not age or age < -ttl then told[#told + 1] = all[i]; told[#told + 1] = '' end
    if announces then redis.call('HDEL', KEYS[1], all[i]) end
  end
end
return told
