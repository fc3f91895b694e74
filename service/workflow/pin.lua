-- pin: how many shards there are, and on which of them a model lives: what was said first holds for ever
-- KEYS: 1 shards ; ARGV: how many, then perhaps a model, and the shard that it would have now
redis.call('HSETNX', KEYS[1], '#', ARGV[1])
local count = redis.call('HGET', KEYS[1], '#')
if count ~= ARGV[1] or not ARGV[2] then return {count} end
redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3])
return {count, redis.call('HGET', KEYS[1], ARGV[2])}
