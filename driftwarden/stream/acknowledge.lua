-- acknowledge: the second step of what came in: entries that were admitted, or have their dead letter, are settled
-- KEYS: 1 intake ; ARGV: group, entries...
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
