-- processes: one process tells how it is, and is told how every live process is, in one step
-- KEYS: 1 processes (hash: process -> `<ms> <ttl ms> <JSON>`) ; ARGV: process, told, ttl ms, ahead ms
-- An empty process tells and removes nothing: it only looks
-- ms is this server's time: ages are right whatever the hosts' clocks say. What is older than its ttl, or still to come, is gone
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[4])
local tells = ARGV[1] ~= ''
if tells then redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s %s', now, ARGV[3], ARGV[2])) end
local all, told = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local at, ttl, text = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
  local age = at and now - tonumber(at)
  if age and math.abs(age) <= tonumber(ttl) then
    told[#told + 1] = all[i]; told[#told + 1] = string.format('%.0f', math.max(0, age)); told[#told + 1] = text
  elseif tells then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return {string.format('%.0f', now), told}
