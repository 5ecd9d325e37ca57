-- Counts the responses and their durations by method and status, for serving/telemetry/metrics.py.
-- A second after a response the totals are written to a file, a line for each method and status:
-- METHOD STATUS COUNT... SECONDS
-- with a count per bucket, one above them, and the sum of the durations.
local METHODS = {} -- those of OpenTelemetry's conventions; any other is recorded as _OTHER
for name in ("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH"):gmatch("%a+") do
    METHODS[name] = name
end

return function(bounds, path)
    local totals, is_scheduled = {}, false

    local function write()
        is_scheduled = false
        local file = assert(io.open(path .. ".new", "w"))
        for key, total in pairs(totals) do
            file:write(key, " ", table.concat(total, " "), " ", total.seconds, "\n")
        end
        assert(file:close())
        assert(os.rename(path .. ".new", path))
    end

    -- Called in nginx's log phase.
    return function()
        local var = ngx.var
        if var.is_health == "1" then
            return
        end
        local key = (METHODS[var.method] or "_OTHER") .. " " .. var.status
        local total = totals[key]
        if not total then
            total = { seconds = 0 }
            for index = 1, #bounds + 1 do
                total[index] = 0
            end
            totals[key] = total
        end
        local seconds, bucket = tonumber(var.request_time), 1
        while bucket <= #bounds and seconds > bounds[bucket] do
            bucket = bucket + 1
        end
        total[bucket] = total[bucket] + 1
        total.seconds = total.seconds + seconds
        if not is_scheduled then
            is_scheduled = ngx.timer.at(1, write)
            if not is_scheduled then
                write() -- nginx is about to end
            end
        end
    end
end
