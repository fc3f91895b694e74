-- letter: a dead letter, once however often it is written; what it is about is settled, on another slot, by the next step
-- KEYS: 1 dead letters 2 once ; ARGV: ttl ms of once, then the fields of the letter
local before = redis.call('GET', KEYS[2])
if before then return before end
local letter = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('SET', KEYS[2], letter, 'PX', ARGV[1])
return letter
