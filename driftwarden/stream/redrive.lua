-- redrive: put what a dead letter holds back into the intake, once however often it is asked
-- KEYS: 1 dead letters 2 hash of redriven ids 3 intake ; ARGV: letter id
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then return {'OK', before, 1} end
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return {'GONE'} end
local f = {}
for i = 1, #letter[2], 2 do f[letter[2][i]] = letter[2][i + 1] end
if f['kind'] ~= 'event' then return {'NOT_AN_EVENT', f['incident'] or ''} end
local flat = {}
if f['shape'] == 'event' then flat = {'event', f['raw']} else
  local at = 1
  for i, length in ipairs(cjson.decode(f['shape'])) do flat[i] = string.sub(f['raw'], at, at + length - 1); at = at + length end
end
if #flat == 0 then return {'EMPTY'} end
if #flat > 4000 then return {'TOO_MANY', #flat / 2} end
local entry = redis.call('XADD', KEYS[3], '*', unpack(flat))
redis.call('HSET', KEYS[2], ARGV[1], entry)
return {'OK', entry, 0}
