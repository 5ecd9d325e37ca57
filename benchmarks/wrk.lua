-- What wrk sends and prints. Arguments: the file of the request body, and requests a second; 0: each
-- client sends its next request as soon as it has its answer.

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
  local file = assert(io.open(args[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
  file:close()
  refused = 0
  local rate, slot = tonumber(args[2]), milliseconds()
  if rate > 0 then
    -- Whichever connection is free takes the next moment of one schedule for all, at random
    -- distances, so that the rate does not depend on how quickly the server answers.
    function delay()
      slot = slot - 1000 * math.log(1 - math.random()) / rate
      return math.max(slot - milliseconds(), 0)
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
