-- successor (included, no script of its own): the events that an incident which ends has not weighed open the next one, so
-- that none of them ends with it. It opens under the model of the first of them, which need not be the one that ends.
-- `k`: keys, events (of the ending one), next, next_events, next_keys (of the successor), next_model (hash of its model),
-- indexes (of incidents of each of `models`), index, ids, counts, transitions, activations, wf. `lead`: model of the ending one.
-- `models`: whose events these are, the successor's own model first. `weighed`: how many of its events it has dealt with.
-- Nothing is written where it returns a reply: the caller asks again with an id for the successor, and with those models.
-- Else whether it opened.
local function open_successor(k, id, lead, successor, models, weighed, opened)
  local unseen = redis.call('LRANGE', k.keys, weighed, -1)
  if #unseen == 0 then return nil, false end
  local whose, listed, owners = {}, {}, {}
  for i, key in ipairs(unseen) do
    local identity, owner = string.match(key, '^([^|]*)|?(.*)$')
    if owner == '' then owner = lead end
    unseen[i], owners[i] = identity, owner
    if not listed[owner] then listed[owner] = true; whose[#whose + 1] = owner end
  end
  if successor == '' or table.concat(whose, ' ') ~= table.concat(models, ' ') then return {'UNSEEN', unseen[1], unpack(whose)}, false end
  if redis.call('EXISTS', k.next) == 1 then return {'COLLISION', unseen[1], unpack(whose)}, false end
  local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
  local model = whose[1]
  local about, bytes = redis.call('HMGET', k.wf, 'environment', 'correlation'), 0
  for i, raw in ipairs(redis.call('LRANGE', k.events, weighed, -1)) do
    bytes = bytes + #raw
    redis.call('RPUSH', k.next_events, raw)
    redis.call('RPUSH', k.next_keys, owners[i] == model and unseen[i] or unseen[i] .. '|' .. owners[i])
  end
  redis.call('LTRIM', k.events, 0, weighed - 1); redis.call('LTRIM', k.keys, 0, weighed - 1)
  local left = {[lead] = true}
  for _, key in ipairs(redis.call('LRANGE', k.keys, 0, -1)) do left[string.match(key, '|(.*)$') or lead] = true end
  for i, key in ipairs(k.indexes) do -- it is in the index of models that it has events of, and in no other
    if not left[models[i]] then redis.call('ZREM', key, id) end
  end
  redis.call('HSET', k.next, 'identity', unseen[1], 'model', model, 'environment', about[1] or '', 'correlation', about[2] or '',
    'state', 'received', 'version', 0, 'fence', 0, 'doc', '{}', 'done', 0, 'run', 0, 'lease', 0, 'crashes', 0, 'wake', 0,
    'bytes', bytes, 'joinable', 1, 'opened', opened, 'updated', now, 'predecessor', id)
  for i, field in ipairs(redis.call('HKEYS', k.wf)) do -- a group whose events go on goes on with them
    local place = string.match(field, '^group:') and tonumber(redis.call('HGET', k.wf, field))
    if place and place > weighed then
      redis.call('HSET', k.wf, field, successor)
      redis.call('HSET', k.next, field, place - weighed)
    end
  end
  redis.call('ZADD', k.index, now, successor); redis.call('ZADD', k.ids, 0, successor)
  for _, key in ipairs(k.indexes) do redis.call('ZADD', key, now, successor) end
  redis.call('HINCRBY', k.counts, 'received', 1)
  redis.call('XADD', k.transitions, 'MAXLEN', '~', 100000, '*', 'incident', successor, 'model', model, 'version', 0, 'from', '', 'state', 'received', 'fence', 0)
  redis.call('XADD', k.activations, '*', 'incident', successor, 'model', model, 'why', 'opened')
  redis.call('HSET', k.wf, 'successor', successor)
  return nil, true
end

-- Later events of the successor's model join it, unless another incident of that model is open; whether they do.
local function open_to(model, field, id, successor)
  local open = redis.call('HGET', model, field) or ''
  if open ~= '' and open ~= id then return false end
  redis.call('HSET', model, field, successor)
  return true
end
