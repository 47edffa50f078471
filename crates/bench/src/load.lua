-- What wrk asks, and how it tells what came of it. Before this text stand, as globals: `users`, pairs of id and token;
-- `messages`, pairs of id and conversation; `conversations`, their number; `method`, `path` and `body`, lists of texts and
-- of the numbers of holes in them; `among`, how many of the users ask; `seed`.
--
-- Invariant: the same seed asks the same.

local words = {
  "the", "a", "and", "to", "of", "is", "it", "that", "you", "we", "they", "have", "was", "will", "can", "not",
  "what", "when", "there", "about", "coffee", "order", "please", "thanks", "great", "maybe", "tomorrow", "today",
}
local random = math.random
local user, message

local function conversation() return string.format("conv%011d", random(0, conversations - 1)) end

-- 3 to 24 words, about as long as what people type.
local function sentence()
  local text = {}
  for word = 1, random(3, 24) do text[word] = words[random(#words)] end
  return table.concat(text, " ")
end

local holes = {
  function() return user[1] end,
  conversation,
  sentence,
  function() return message[1] end,
  function() return message[2] end,
}

local function fill(parts)
  local text = {}
  for place, part in ipairs(parts) do
    text[place] = type(part) == "number" and holes[part]() or part
  end
  return table.concat(text)
end

function init() math.randomseed(seed) end

function request()
  user = users[random(among)]
  if #messages > 0 then message = messages[random(#messages)] end
  local headers = { Authorization = "Bearer " .. user[2] }
  if not body then return wrk.format(method, fill(path), headers) end
  headers["Content-Type"] = "application/json"
  return wrk.format(method, fill(path), headers, fill(body))
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    'figures {"requests":%d,"micros":%d,"p50Micros":%d,"p99Micros":%d,"failed":%d,"refused":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
