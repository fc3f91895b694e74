-- place: on which shard an event was first seen, whatever model a second one of the same identity names
-- KEYS: 1 identity ; ARGV: shard, ttl ms
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return ARGV[1] end
return redis.call('GET', KEYS[1])
