-- Chooses one of several models by `parameters.model` of a request, and removes it from the body: the model would
-- reject a parameter that it does not know.
local byte, find, sub = string.byte, string.find, string.sub
local BACKSLASH, COLON, COMMA, QUOTE = byte("\\:,\"", 1, 4)
local OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT = byte("[]{}", 1, 4)
local MARK = "\239\187\191" -- a byte order mark
local JSON_TYPE = "^%s*application/json%s*;?"

-- Returns the position of a string's last quote; `position` is that of its first.
local function find_string_end(body, position)
    while true do
        position = find(body, '"', position + 1, true)
        if not position then
            return nil
        end
        local first = position
        while byte(body, first - 1) == BACKSLASH do
            first = first - 1
        end
        if (position - first) % 2 == 0 then
            return position
        end
    end
end

-- Returns the position of a value's last byte.
local function find_value_end(body, position)
    local depth = 0
    while true do
        local char = byte(body, position)
        if not char then
            return nil
        elseif char == QUOTE then
            position = find_string_end(body, position)
            if not position or depth == 0 then
                return position
            end
        elseif char == OPEN_ARRAY or char == OPEN_OBJECT then
            depth = depth + 1
        elseif char == CLOSE_ARRAY or char == CLOSE_OBJECT then
            depth = depth - 1
            if depth <= 0 then
                return depth == 0 and position or position - 1 -- a number ends before the bracket
            end
        elseif char == COMMA and depth == 0 then
            return position - 1
        end
        position = position + 1
    end
end

-- Returns the last member of a name in the object at `position`, and how many there are. A member has the positions
-- of its first byte, of its value, and of its last byte; nil if the text is no object.
local function find_member(body, position, name)
    local found, count = nil, 0
    if sub(body, position, position) ~= "{" then
        return nil, 0
    end
    position = find(body, "%S", position + 1)
    while position and byte(body, position) == QUOTE do
        local first, last = position, find_string_end(body, position)
        local colon = last and find(body, "%S", last + 1)
        if not colon or byte(body, colon) ~= COLON then
            return nil, 0
        end
        local value = find(body, "%S", colon + 1)
        local stop = value and find_value_end(body, value)
        if not stop then
            return nil, 0
        end
        if sub(body, first + 1, last - 1) == name then
            found, count = { first = first, value = value, last = stop }, count + 1
        end
        position = find(body, "%S", stop + 1)
        if position and byte(body, position) == COMMA then
            position = find(body, "%S", position + 1)
        end
    end
    return found, count
end

-- Returns the text of `parameters.model`, and the body without it; nil if there is none, "" and the error's text if
-- it cannot be followed.
local function take_model(body)
    if not find(body, '"model"', 1, true) then
        return nil
    end
    local first = find(body, "%S", sub(body, 1, #MARK) == MARK and #MARK + 1 or 1)
    local parameters = first and find_member(body, first, "parameters")
    local model, count = nil, 0
    if parameters then
        model, count = find_member(body, parameters.value, "model")
    end
    if not model then
        return nil
    end
    if count > 1 then
        return "", "is given " .. count .. " times"
    end
    if byte(body, model.value) ~= QUOTE then
        return "", "is not a string"
    end
    -- With the comma after it, or else before it.
    local before, after = sub(body, 1, model.first - 1), sub(body, model.last + 1)
    local rest, commas = after:gsub("^%s*,", "", 1)
    if commas == 0 then
        before = before:gsub(",%s*$", "", 1)
    end
    return sub(body, model.value + 1, model.last - 1), before .. rest
end

-- Answers 400.
local function reject(message)
    ngx.status = 400
    ngx.header["Content-Type"] = "application/json"
    ngx.print('{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"', message, '"}}')
    return ngx.exit(400)
end

local function read_file(path)
    local file = assert(io.open(path, "rb"))
    local content = file:read("*a")
    file:close()
    return content
end

-- `body_script` reads a body; `locations` has a location by each model's name; `list` is the text of the names;
-- `default` is the model of requests that choose none, or nil.
return function(body_script, locations, list, default)
    local read_body = assert(loadfile(body_script))

    -- Called in nginx's access phase; `name` is the model of the route, nil if the request chooses.
    return function(name)
        read_body()
        if name then
            return ngx.exec(locations[name])
        end
        if ngx.var.body_type:lower():find(JSON_TYPE) then
            ngx.req.read_body() -- one in chunks
            local file = ngx.req.get_body_file()
            local body = file and read_file(file) or ngx.req.get_body_data()
            local chosen, rest = take_model(body or "")
            if chosen == "" then
                return reject("parameters.model " .. rest .. "; expected one of " .. list)
            elseif chosen then
                if not locations[chosen] then
                    local shown = chosen:find("^[%w_.-]+$") and #chosen <= 100 and chosen or "this name"
                    return reject("parameters.model: no model " .. shown .. "; expected one of " .. list)
                end
                ngx.req.set_body_data(rest)
                return ngx.exec(locations[chosen])
            end
        end
        if not default then
            return reject("parameters.model: missing; expected one of " .. list)
        end
        return ngx.exec(locations[default])
    end
end
