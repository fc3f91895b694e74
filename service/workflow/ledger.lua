-- reserve: count one action against every cap, or none at all
-- KEYS: 2 the books of the past (`books.py`: model -> sealed JSON {entries, before}; `#` -> sealed ms of the latest action in them)
--       1 ledger hash (incident -> 64 hex digits, a space, JSON {model, models, action, cost, at, state, failed, undo}; `<incident>#<n>`: its earlier effects)
-- ARGV: 1 incident 2 model 3 action 4 cost_microusd 5 at_ms (the decision's moment) 6 day_start_ms
--       7 day cap 8 model-day cap 9 model rate max 10 model rate window_ms 11 global rate max 12 global rate window_ms
--       13 model concurrency 14 global concurrency 15 the new entry, sealed        ('' where the policy sets no such cap)
-- An entry that is 'released' had no effect and counts nowhere; 'running' counts as concurrent.
local function read(sealed)
  local ok, found = pcall(cjson.decode, string.sub(sealed, 66))
  return ok and found or nil
end
local function decode(sealed) -- what cannot even be read stops every reservation; who sealed it, the caller checks
  local entry = read(sealed)
  return type(entry) == 'table' and type(entry.at) == 'number' and type(entry.cost) == 'number'
    and (entry.models == nil or type(entry.models) == 'table') and entry or nil
end
local own = redis.call('HGET', KEYS[1], ARGV[1])
local earlier
if own then
  local entry = decode(own)
  if not entry then return 'unreadable' end
  if entry.state == 'running' then return 'OK' end
  if entry.state == 'done' then earlier = own end -- a further effect of the same incident (retry, undo): both count
end
local cost, at, day = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local spent, rate_global, run_global = 0, 0, 0
local mine = {[ARGV[2]] = {spent = 0, rate = 0, run = 0}} -- of each model that it concerns
local others = decode(ARGV[15]).models or {}
for _, model in ipairs(others) do mine[model] = {spent = 0, rate = 0, run = 0} end
local function count(e) -- `times`, `own`: it is the sum of so many, none of them later, all of which count
  if e.state ~= 'released' then
    local concerns = {[e.model or ''] = true}
    for _, model in ipairs(e.models or {}) do concerns[model] = true end
    for model in pairs(concerns) do
      local of = mine[model]
      if of and e.at >= day then of.spent = of.spent + e.cost end
      if of and ARGV[10] ~= '' and e.at > at - tonumber(ARGV[10]) then of.rate = of.rate + (e.times or 1) end
      if of and e.state == 'running' then of.run = of.run + 1 end
    end
    if e.at >= day then spent = spent + e.cost end
    if ARGV[12] ~= '' and e.at > at - tonumber(ARGV[12]) then rate_global = rate_global + (e.own or 1) end
    if e.state == 'running' then run_global = run_global + 1 end
  end
end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] ~= ARGV[1] and string.sub(all[i], 1, #ARGV[1] + 1) ~= ARGV[1] .. '#' then
    local e = decode(all[i + 1])
    if not e then return 'unreadable' end
    count(e)
  end
end
local latest = redis.call('HGET', KEYS[2], '#')
latest = latest and tonumber(read(latest)) or math.huge -- nobody says: all are looked through
if latest >= math.min(day, at - (tonumber(ARGV[10]) or 0), at - (tonumber(ARGV[12]) or 0)) then
  local books, seen = redis.call('HGETALL', KEYS[2]), {} -- the policy looks further back than when that was put away
  for i = 1, #books, 2 do
    local book = books[i] == '#' and {entries = {}} or read(books[i + 1])
    if type(book) ~= 'table' or type(book.entries) ~= 'table' then return 'unreadable' end
    local sum = book.before or {}
    if sum.last then count({model = books[i], at = sum.last.at, cost = sum.cost, times = sum.times, own = sum.own}) end
    for key, e in pairs(book.entries) do -- what concerned several models stands in the book of each
      if not seen[key] and string.sub(key, 1, #ARGV[1] + 1) ~= ARGV[1] .. '#' then count(e) end
      seen[key] = true
    end
  end
end
if ARGV[7] ~= '' and spent + cost > tonumber(ARGV[7]) then return 'cost-per-day' end
local worst = {spent = 0, rate = 0, run = 0}
for _, of in pairs(mine) do
  for name, count in pairs(of) do worst[name] = math.max(worst[name], count) end
end
if ARGV[8] ~= '' and worst.spent + cost > tonumber(ARGV[8]) then return 'cost-per-model-per-day' end
if ARGV[9] ~= '' and worst.rate >= tonumber(ARGV[9]) then return 'rate-per-model' end
if ARGV[11] ~= '' and rate_global >= tonumber(ARGV[11]) then return 'rate-global' end
-- One action at a time changes a model, whatever the policy says. A model's slot is not enough: it is written without a seal,
-- may be lost with a replica that was behind, and an incident over several models holds that of its lead alone.
if worst.run >= math.min(1, tonumber(ARGV[13]) or 1) then return 'concurrency-per-model' end
if ARGV[14] ~= '' and run_global >= tonumber(ARGV[14]) then return 'concurrency-global' end
if earlier then
  local n = 1
  while redis.call('HEXISTS', KEYS[1], ARGV[1] .. '#' .. n) == 1 do n = n + 1 end
  redis.call('HSET', KEYS[1], ARGV[1] .. '#' .. n, earlier)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[15])
return 'OK'
