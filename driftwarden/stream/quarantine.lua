-- quarantine: one unreadable entry -> dead letter, in the same step that settles it (only the call that acks writes)
-- KEYS: 1 intake 2 dead letters
-- ARGV: group, entry id, reason, field, got, expected, event source, event id
-- The entry is copied here and not sent back by the client: repeated fields, bytes and size arrive as they came.
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1] -- nil where the group is gone
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return '' end
local flat, lengths = entry and entry[2] or {}, {}
for i, part in ipairs(flat) do lengths[i] = #part end
local shape, raw = cjson.encode(lengths), table.concat(flat)
if #flat == 2 and flat[1] == 'event' then shape, raw = 'event', flat[2] end
local letter = redis.call('XADD', KEYS[2], '*', 'kind', 'event', 'entry', ARGV[2], 'reason', ARGV[3], 'field', ARGV[4],
  'got', ARGV[5], 'expected', ARGV[6], 'source', ARGV[7], 'event_id', ARGV[8],
  'deliveries', pending and pending[4] or 1, 'shape', shape, 'raw', raw)
redis.call('XDEL', KEYS[1], ARGV[2])
return letter
