-- successor (included, no script of its own): the events that an incident which ends has not weighed open the next one, so
-- that none of them ends with it. `k`: keys, events (of the ending one), next, next_events, next_keys (of the successor),
-- index, ids, model_index, counts, transitions, activations, wf. `weighed`: how many of its events it has dealt with.
-- Nothing is written where it returns a reply: the caller asks again with an id for the successor. Else whether it opened.
local function open_successor(k, id, successor, model, weighed, opened)
  local unseen = redis.call('LRANGE', k.keys, weighed, -1)
  if #unseen == 0 then return nil, false end
  if successor == '' then return {'UNSEEN', unseen[1]}, false end
  if redis.call('EXISTS', k.next) == 1 then return {'COLLISION', unseen[1]}, false end
  local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
  local about, bytes = redis.call('HMGET', k.wf, 'environment', 'correlation'), 0
  for i, raw in ipairs(redis.call('LRANGE', k.events, weighed, -1)) do
    bytes = bytes + #raw
    redis.call('RPUSH', k.next_events, raw); redis.call('RPUSH', k.next_keys, unseen[i])
  end
  redis.call('LTRIM', k.events, 0, weighed - 1); redis.call('LTRIM', k.keys, 0, weighed - 1)
  redis.call('HSET', k.next, 'identity', unseen[1], 'model', model, 'environment', about[1] or '', 'correlation', about[2] or '',
    'state', 'received', 'version', 0, 'fence', 0, 'doc', '{}', 'done', 0, 'run', 0, 'lease', 0, 'crashes', 0, 'wake', 0,
    'bytes', bytes, 'opened', opened, 'updated', now, 'predecessor', id)
  redis.call('ZADD', k.index, now, successor); redis.call('ZADD', k.ids, 0, successor); redis.call('ZADD', k.model_index, now, successor)
  redis.call('HINCRBY', k.counts, 'received', 1)
  redis.call('XADD', k.transitions, 'MAXLEN', '~', 100000, '*', 'incident', successor, 'model', model, 'version', 0, 'from', '', 'state', 'received', 'fence', 0)
  redis.call('XADD', k.activations, '*', 'incident', successor, 'model', model, 'why', 'opened')
  redis.call('HSET', k.wf, 'successor', successor)
  return nil, true
end
