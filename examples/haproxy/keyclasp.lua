-- Asks keyclasp whether a request may pass, and what the upstream shall know. For `http-request lua.keyclasp`,
-- with what the key has to be in the variable txn.keyclasp_route. Sets txn.keyclasp_allowed, or answers.

local keyclasp = "http://127.0.0.1:7413/forward-auth?style=haproxy&"
local timeout = 2000

local identity = {
    "x-keyclasp-owner", "x-keyclasp-owner-kind", "x-keyclasp-key-id", "x-keyclasp-realm", "x-keyclasp-scopes",
}
-- Fields that can hold a key.
local holders = { "authorization", "x-api-key", "api-key" }
-- Fields of the connection or of the body, which do not go along with the question.
local left_out = {
    ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["host"] = true, ["keep-alive"] = true,
    ["te"] = true, ["transfer-encoding"] = true, ["upgrade"] = true,
}

local function list(values)
    local all = {}
    for index = 0, #values do
        if values[index] ~= nil then table.insert(all, values[index]) end
    end
    return all
end

core.register_action("keyclasp", { "http-req" }, function(txn)
    local question = {}
    for name, values in pairs(txn.http:req_get_headers()) do
        if not left_out[name] then question[name] = list(values) end
    end
    -- These take the place of what a client sent under the names.
    question["x-forwarded-method"] = { txn.f:method() }
    question["x-forwarded-uri"] = { txn.f:pathq() }
    question["x-forwarded-host"] = { txn.f:req_hdr("host") or "" }
    question["x-forwarded-for"] = { txn.f:src() }

    local answer = core.httpclient():get({
        url = keyclasp .. txn:get_var("txn.keyclasp_route"), headers = question, timeout = timeout,
    })
    local told = function(name)
        local values = answer.headers and answer.headers[name]
        return values and list(values)[1]
    end

    if answer and answer.status == 200 then
        for _, name in ipairs(identity) do
            local value = told(name)
            if value and value ~= "" then txn.http:req_set_header(name, value) end
        end
        -- The key ends here: of the fields that can hold one, those that hold none are named in the answer.
        local keep = ", " .. (told("x-keyclasp-keep") or "") .. ","
        for _, name in ipairs(holders) do
            if not string.find(keep, ", " .. name .. ",", 1, true) then txn.http:req_del_header(name) end
        end
        if not string.find(keep, ", cookie,", 1, true) then
            local others = told("x-keyclasp-cookie")
            if others then txn.http:req_set_header("cookie", others) else txn.http:req_del_header("cookie") end
        end
        local target = told("x-keyclasp-uri")
        if target then txn.http:req_set_uri(target) end
        txn:set_var("txn.keyclasp_allowed", true)
    elseif answer and told("content-type") == "application/problem+json" then
        local reply = txn:reply({ status = answer.status, body = answer.body or "" })
        for _, name in ipairs({ "content-type", "www-authenticate", "retry-after" }) do
            local value = told(name)
            if value then reply:add_header(name, value) end
        end
        txn:done(reply)
    end
end)
