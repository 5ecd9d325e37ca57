-- Reads a request's body within a deadline, which nginx alone does not have: it waits as long as
-- a byte comes now and then, and closes the connection without a word where none does.
local DEADLINE_S = 30
local PIECE = 65536
local IN_MEMORY = 524288 -- of a larger body the rest lies in /tmp

local left = tonumber(ngx.var.http_content_length)
if not left or left == 0 then
    return -- no body, or one in chunks: nginx reads it itself
end
local socket, problem = ngx.req.socket()
if not socket then
    ngx.log(ngx.INFO, "body left to nginx: ", problem)
    return
end
ngx.req.init_body(math.min(left, IN_MEMORY))
local ends = ngx.now() + DEADLINE_S
while left > 0 do
    local patience = ends - ngx.now()
    if patience <= 0 then
        return ngx.exec("@e408")
    end
    socket:settimeout(patience * 1000)
    local piece, failure = socket:receiveany(math.min(left, PIECE))
    if failure == "timeout" then
        return ngx.exec("@e408")
    elseif not piece then
        return ngx.exit(499) -- the client is gone
    end
    ngx.req.append_body(piece)
    left = left - #piece
end
ngx.req.finish_body()
