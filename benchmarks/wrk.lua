-- What wrk sends and prints. Arguments: the file of the request body, and the mean pause of a
-- client before each request in seconds (exponentially distributed; 0: none).

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
  file:close()
  refused = 0
  local pause_s = tonumber(args[2])
  if pause_s > 0 then
    function delay()
      return -1000 * pause_s * math.log(1 - math.random())
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
