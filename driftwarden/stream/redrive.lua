-- redrive: put what a dead letter holds back into the intake, once however often it is asked
-- KEYS: 1 intake 2 hash of redriven ids ; ARGV: letter id, then the fields of the entry
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then return {before, 1} end
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('HSET', KEYS[2], ARGV[1], entry)
return {entry, 0}
