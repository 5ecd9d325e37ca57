-- Reads a request's body with a deadline. nginx has none: it waits as long as a byte arrives now and
-- then, and closes the connection without a response if none does.
local DEADLINE_S = 30
local MAX_READ_BYTES = 65536
local MEMORY_BYTES = 524288 -- the rest of a larger body is written to /tmp

local remaining = tonumber(ngx.var.http_content_length)
if not remaining or remaining == 0 then
    return -- no body, or a chunked one, which nginx reads itself
end
local socket, reason = ngx.req.socket()
if not socket then
    ngx.log(ngx.INFO, "nginx reads the body: ", reason)
    return
end
ngx.req.init_body(math.min(remaining, MEMORY_BYTES))
local deadline = ngx.now() + DEADLINE_S
while remaining > 0 do
    local timeout_s = deadline - ngx.now()
    if timeout_s <= 0 then
        return ngx.exec("@e408")
    end
    socket:settimeout(timeout_s * 1000)
    local data, failure = socket:receiveany(math.min(remaining, MAX_READ_BYTES))
    if failure == "timeout" then
        return ngx.exec("@e408")
    elseif not data then
        return ngx.exit(499) -- the client has disconnected
    end
    ngx.req.append_body(data)
    remaining = remaining - #data
end
ngx.req.finish_body()
