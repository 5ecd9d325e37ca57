-- The requests that wrk sends and the summary that it prints. Arguments: a file with a request body in each line,
-- which are sent in turn, and the requests per second of all clients; with 0 each client sends its next request after each response.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s, us; } now_t; int gettimeofday(now_t *now, void *zone);")

local threads, now = {}, ffi.new("now_t")

local function milliseconds()
  ffi.C.gettimeofday(now, nil)
  return tonumber(now.s) * 1000 + tonumber(now.us) / 1000
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wrk.headers["Content-Type"] = "application/json"
  local requests, sent = {}, 0
  for body in io.lines(args[1]) do
    table.insert(requests, wrk.format("POST", nil, nil, body))
  end
  function request()
    sent = sent + 1
    return requests[sent % #requests + 1]
  end
  refused = 0
  local rate, next_send = tonumber(args[2]), milliseconds()
  if rate > 0 then
    -- All connections share one schedule with random intervals: the next free connection takes the next
    -- time slot, so that the rate does not depend on the response times.
    function delay()
      next_send = next_send - 1000 * math.log(1 - math.random()) / rate
      return math.max(next_send - milliseconds(), 0)
    end
  end
end

function response(status)
  if status == 429 then refused = refused + 1 end
end

function done(summary, latency)
  local errors, refused = summary.errors, 0
  for _, thread in ipairs(threads) do refused = refused + thread:get("refused") end
  print(string.format(
    '\n{"requests": %d, "microseconds": %d, "failed": %d, "refused": %d, "p50": %d, "p99": %d}',
    summary.requests, summary.duration,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout, refused,
    latency:percentile(50), latency:percentile(99)))
end
