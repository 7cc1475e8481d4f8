-- The parts of the association gate that HAProxy's own rules cannot say: does an entry of the allow-list hold, and
-- what hears a device that is refused. Orthanc never sees a refused association.

-- DICOM pads AE titles with blanks (PS3.8 9.3.2); some devices pad with zeros.
core.register_converters("ae_title", function(bytes)
    return (bytes:gsub("[\0 ]+$", ""):gsub("^ +", ""))
end)

-- For logs and reports: what is no printable ASCII, or would have to be escaped, becomes a question mark.
core.register_converters("printable", function(text)
    return (text:gsub("[^ -~]", "?"):gsub('["\\]', "?"))
end)

-- While this file is there, a volume is full to its last mark. It is looked for here, so that neither the agent nor
-- Orthanc has to run for the gate to be shut.
local mark = ...
local full = false
core.register_task(function()
    while true do
        local file = io.open(mark, "r")
        full = file ~= nil
        if file then file:close() end
        core.msleep(500)
    end
end)

-- txn.allowed holds what the allow-list says of the calling AE title: NETWORK|CALLED,NETWORK|CALLED and so on, where
-- CALLED is a called AE title in hexadecimal or * for any. Sets txn.verdict to `known`, or to what does not match, and
-- txn.full to whether nobody is let in.
core.register_action("gate", {"tcp-req"}, function(txn)
    local source = core.parse_addr(txn.f:src())
    local called = txn:get_var("txn.called_hex") or ""
    local verdict = "calling"
    for network, wanted in (txn:get_var("txn.allowed") or ""):gmatch("([^|,]+)|([^|,]+)") do
        if core.match_addr(source, core.parse_addr(network)) then
            if wanted == "*" or wanted == called then
                verdict = "known"
                break
            end
            verdict = "called"
        end
    end
    txn:set_var("txn.verdict", verdict)
    txn:set_var("txn.full", full)
end, 0)

-- A-ASSOCIATE-RJ: type 3, length 4, result, source, reason (PS3.8 9.3.4).
local function refusal(name, result, source, reason)
    local pdu = string.char(3, 0, 0, 0, 0, 4, 0, result, source, reason)
    core.register_service(name, "tcp", function(applet)
        applet:send(pdu)
    end)
end

-- Rejected for good by the service user: calling or called AE title not recognised.
refusal("refuse_calling", 1, 1, 3)
refusal("refuse_called", 1, 1, 7)
-- Rejected for now by the presentation service: local limit exceeded. Modalities keep the images and try again.
refusal("refuse_for_now", 2, 3, 2)
