-- Connects HAProxy to the two modules that decide: association.lua examines a request, admission.lua consults the
-- allow-list and counts. Orthanc never sees a refused association.
local association = require("association")
local admission = require("admission")

-- The file that exists if a volume is so full that intake is refused; the file of the allow-list; whether strangers may
-- store; the file of the revoked certificates.
local mark, list, strangers, revocations = ...
local devices = Map.new(list, Map._str)

-- The most lines of counts that are kept until the agent takes them, for listed devices and for all others each.
local MOST_LINES = 2000
local counter = admission.counter(MOST_LINES)
-- So that no batch number is used twice, even after a restart of the edge.
counter.batch = os.time() * 1000000

-- The most presentation contexts and transfer syntaxes of strangers in a second. A request with fewer than SMALL costs
-- Orthanc no more than any other and is not counted, so a flood of large requests does not keep ordinary ones out.
local MOST_ITEMS, SMALL = 4000, 100
local budget = admission.budget(MOST_ITEMS)

local function too_much(items)
    local now = core.now()
    return items >= SMALL and not admission.spend(budget, items, now.sec + now.usec / 1000000)
end

-- The edge itself looks for the file, so the gate shuts even if neither the agent nor Orthanc runs.
local full = false
-- SHA-256 fingerprints, in hexadecimal. The edge reads this file too; a file that cannot be read changes nothing.
local revoked = {}
local function look_for_revocations()
    local file = io.open(revocations, "r")
    local lines = file and file:read("a")
    if file then file:close() end
    if lines then revoked = admission.revoked(lines) end
end
look_for_revocations()
core.register_task(function()
    while true do
        local file = io.open(mark, "r")
        full = file ~= nil
        if file then file:close() end
        look_for_revocations()
        core.msleep(500)
    end
end)

local ANSWERS = {
    refused_calling = association.CALLING_NOT_RECOGNISED,
    refused_address = association.CALLING_NOT_RECOGNISED,
    refused_certificate = association.CALLING_NOT_RECOGNISED,
    refused_called = association.CALLED_NOT_RECOGNISED,
    refused_limit = association.LIMIT_EXCEEDED,
    refused_full = association.LIMIT_EXCEEDED,
}

-- Sets txn.calling and txn.called for log and report, txn.known, and txn.outcome by the request and the allow-list.
core.register_action("examine", {"tcp-req"}, function(txn)
    -- Asks only for the bytes that are there. Without a length, HAProxy would wait for a caller that is silent or gone.
    local length = txn.f:req_len() or 0
    local bytes = length > 0 and txn.req:data(0, length) or ""
    local found = bytes == "" and {calling = "", called = ""} or association.examine(bytes)
    local outcome, known = "accepted", false
    if bytes == "" then
        outcome, found.reason = "no_association", "no word within two seconds"
    elseif found.answer then
        outcome = bytes:byte(1) == 1 and "refused_request" or "no_association"
    else
        local source = core.parse_addr(txn.f:src())
        local verdict = admission.verdict(
            devices:lookup(admission.key(found.calling)), found.calling, found.called,
            function(network) return core.match_addr(source, core.parse_addr(network)) end,
            function(certificate)
                return certificate == "F" .. (txn:get_var("txn.fingerprint") or "")
                    or certificate == "C" .. (txn:get_var("txn.subject") or "")
            end)
        known = verdict == "known"
        local refused = verdict == "address" or verdict == "certificate"
        if refused or (not known and strangers == "refused") then outcome = "refused_" .. verdict end
        if revoked[txn:get_var("txn.fingerprint") or ""] then
            known, outcome, found.reason = false, "refused_certificate", "its certificate is revoked"
        end
        if outcome == "accepted" and not known and too_much(found.items) then
            outcome, found.reason = "refused_limit", "too many large requests of strangers at a time"
        end
    end
    txn:set_var("txn.calling", association.printable(found.calling))
    txn:set_var("txn.called", association.printable(found.called))
    txn:set_var("txn.known", known)
    txn:set_var("txn.full", full)
    txn:set_var("txn.outcome", outcome)
    if found.answer then txn:set_var("txn.answer", found.answer) end
    txn:set_var("txn.reason", found.reason or "")
end, 0)

-- Counts the final outcome, and prepares the answer to a refused association.
core.register_action("conclude", {"tcp-req"}, function(txn)
    local function text(name) return txn:get_var("txn." .. name) or "" end
    local outcome, tls = text("outcome"), txn.f:ssl_fc() and "1" or "0"
    -- `examine` did not reach its end. Whatever the reason is, the caller is refused and counted.
    if outcome == "" then outcome = "no_association" end
    local line = {txn.f:src(), tls, outcome, text("calling"), text("called"), text("reason")}
    local rest = {"", "0", outcome, "", "", "callers beyond those that are told apart"}
    local book = txn:get_var("txn.known") and "known" or "others"
    admission.count(counter, book, table.concat(line, "\t"), table.concat(rest, "\t"))
    if ANSWERS[outcome] then txn:set_var("txn.answer", ANSWERS[outcome]) end
end, 0)

-- Counts an upload by HTTP that is refused because of its length. The caller has no AE title. Only users get this far.
core.register_action("count_upload", {"http-req"}, function(txn)
    local line = {txn.f:src(), "1", "refused_upload", "", "", "larger than an upload by HTTP may be"}
    local rest = {"", "1", "refused_upload", "", "", "callers beyond those that are told apart"}
    admission.count(counter, "known", table.concat(line, "\t"), table.concat(rest, "\t"))
end, 0)

-- Sends the answer that `conclude` prepared, and closes.
core.register_service("answer", "tcp", function(applet)
    applet:send(applet:get_var("txn.answer") or "")
end)

-- `show associations NUMBER`: returns the counts since the batch with that number, which the agent has stored. The first
-- line is the number of the new batch. The last line shows that the answer is complete.
local USAGE = "show associations NUMBER : the counts since the batch of that number"
core.register_cli({"show", "associations"}, USAGE, function(applet, _, _, noted)
    local number, lines = admission.take(counter, math.tointeger(tonumber(noted)))
    applet:send(string.format("%d\n%s\nend\n", number, table.concat(lines, "\n")))
end)
