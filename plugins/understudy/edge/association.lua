-- Examines a whole A-ASSOCIATE-RQ (DICOM PS3.8 9.3.2, PS3.7 D.3.3), and makes the PDU that refuses it.
-- Uses nothing of HAProxy: bytes go in, a verdict comes out.
--
-- Rule 1: Orthanc accepts every request that passes here at once. When DCMTK in Orthanc refuses a request itself, its only
-- accepting thread waits for the caller.
-- Rule 2: a request that devices send and Orthanc accepts is not refused. So titles may end at a zero, UIDs may be padded,
-- and unknown items are ignored.
local association = {}

local CONTEXT_NAME = "1.2.840.10008.3.1.1.1"
local FIXED = 68
local LONGEST_UID = 64
-- The most transfer syntaxes of a whole request. The names of DICOM have 17 characters or more, so not even this many fit
-- into 64 KB. With short names 12,000 would fit, and Orthanc would need four times as long.
local MOST_SYNTAXES = 3000

-- Source 2 is the provider of the presentation service (PS3.8 9.3.8). Reasons 1, 2 and 6 are used here.
local function abort(reason) return string.char(7, 0, 0, 0, 0, 4, 0, 0, 2, reason) end

-- Result, source and reason have the numbers of PS3.8 9.3.4.
local function reject(result, source, reason)
    return string.char(3, 0, 0, 0, 0, 4, 0, result, source, reason)
end

association.UNKNOWN_PDU = abort(1)
association.UNEXPECTED_PDU = abort(2)
association.INVALID_PDU = abort(6)
association.NO_REASON = reject(1, 1, 1)
association.CONTEXT_NAME_NOT_SUPPORTED = reject(1, 1, 2)
association.CALLING_NOT_RECOGNISED = reject(1, 1, 3)
association.CALLED_NOT_RECOGNISED = reject(1, 1, 7)
association.VERSION_NOT_SUPPORTED = reject(1, 2, 2)
-- A transient rejection: modalities keep the images and try again.
association.LIMIT_EXCEEDED = reject(2, 3, 2)

-- Raises a refusal, so that each check is one line. `answer` is the PDU. `reason` is the text for the operator; it never
-- repeats bytes of the caller.
local function refuse(answer, reason, ...)
    error({answer = answer, reason = string.format(reason, ...)}, 0)
end

local function broken(reason, ...) refuse(association.INVALID_PDU, reason, ...) end

-- An AE title ends at the first zero byte, as in DCMTK, and blanks around it are padding (PS3.5 6.2).
local function title(field)
    return (field:match("^[^\0]*"):gsub("^ +", ""):gsub(" +$", ""))
end

-- For logs and reports: replaces each character that is not printable ASCII, or would need escaping, by a question mark.
function association.printable(text)
    return (text:gsub("[^ -~]", "?"):gsub('["\\]', "?"))
end

-- Visits the items in `body`. Each has a type, a reserved byte, a length and content; together they have to fill `body`.
local function each_item(body, what, visit)
    local position = 1
    while position <= #body do
        if #body - position < 3 then broken("%d bytes behind the last item of the %s", #body - position + 1, what) end
        local kind, length = string.unpack(">BxI2", body, position)
        local first = position + 4
        position = first + length
        if position > #body + 1 then broken("an item is longer than the %s", what) end
        visit(kind, body:sub(first, position - 1))
    end
end

-- Returns a UID without its padding. A UID of odd length is often padded, by a zero or, wrongly, by a blank.
local function uid(content, what)
    -- Checked before the pattern, which needs quadratic time for a long run of blanks with something behind it.
    if #content > LONGEST_UID then broken("a UID of %d bytes as the %s", #content, what) end
    local bare = content:gsub("[\0 ]+$", "")
    if not bare:match("^%d[%d.]*$") then broken("the %s is no UID", what) end
    return bare
end

-- `size` counts the transfer syntaxes of the whole request.
local function context(content, numbers, size)
    if #content < 4 then broken("a presentation context of %d bytes", #content) end
    local number, abstract, transfers = content:byte(1), 0, 0
    if number % 2 == 0 then refuse(association.NO_REASON, "a presentation context with the even ID %d", number) end
    if numbers[number] then refuse(association.NO_REASON, "two presentation contexts with the ID %d", number) end
    numbers[number] = true
    each_item(content:sub(5), "presentation context", function(kind, value)
        if kind == 0x30 then
            uid(value, "abstract syntax")
            abstract = abstract + 1
        elseif kind == 0x40 then
            uid(value, "transfer syntax")
            transfers, size.syntaxes = transfers + 1, size.syntaxes + 1
            if size.syntaxes > MOST_SYNTAXES then
                refuse(association.NO_REASON, "more than %d transfer syntaxes", MOST_SYNTAXES)
            end
        end
    end)
    if abstract ~= 1 then broken("a presentation context with %d abstract syntaxes", abstract) end
    if transfers == 0 then broken("a presentation context without a transfer syntax") end
end

-- Checks a sub-item that begins with the length of a UID and the UID. At least `least` bytes follow, or exactly `exactly`.
local function class_and_more(content, what, least, exactly)
    if #content < 2 then broken("a %s of %d bytes", what, #content) end
    local length = string.unpack(">I2", content)
    local rest = #content - 2 - length
    if rest < least or (exactly and rest ~= exactly) then broken("a %s whose lengths do not add up", what) end
    uid(content:sub(3, 2 + length), "class of the " .. what)
end

local function user_identity(content)
    if #content < 6 then broken("a user identity of %d bytes", #content) end
    local first = string.unpack(">I2", content, 3)
    if #content < 6 + first then broken("a user identity whose lengths do not add up") end
    local second = string.unpack(">I2", content, 5 + first)
    if #content ~= 6 + first + second then broken("a user identity whose lengths do not add up") end
end

local function of_length(what, length)
    return function(content)
        if #content ~= length then broken("a %s of %d bytes", what, #content) end
    end
end

-- Other sub-items are ignored (PS3.7 D.3.3: unrecognised sub-items are ignored).
local USER_ITEMS = {
    [0x51] = of_length("maximum length", 4),
    [0x52] = function(content) uid(content, "implementation class") end,
    [0x53] = of_length("asynchronous operations window", 4),
    [0x54] = function(content) class_and_more(content, "role selection", 2, 2) end,
    -- PS3.7 allows 16 characters. Some devices send more, and DCMTK accepts up to the length of a UID.
    [0x55] = function(content)
        if #content > LONGEST_UID then broken("an implementation version name of %d bytes", #content) end
    end,
    [0x56] = function(content) class_and_more(content, "extended negotiation", 0) end,
    [0x57] = function(content) class_and_more(content, "common extended negotiation", 0) end,
    [0x58] = user_identity,
    -- This is the answer to a user identity; DCMTK would read it as a request.
    [0x59] = function() broken("the answer to a user identity in a request") end,
}
-- A request may have several of these, one for each SOP class.
local REPEATED = {[0x54] = true, [0x56] = true, [0x57] = true}

local function user_information(content)
    local seen = {}
    each_item(content, "user information", function(kind, value)
        local check = USER_ITEMS[kind]
        if not check then return end
        if seen[kind] and not REPEATED[kind] then broken("two user information items of type %02XH", kind) end
        seen[kind] = true
        check(value)
    end)
end

-- Returns the number of presentation contexts and transfer syntaxes together.
local function variable_part(body)
    local names, contexts, information, numbers, size = 0, 0, 0, {}, {syntaxes = 0}
    local name
    each_item(body, "request", function(kind, content)
        if kind == 0x10 then
            if #content > LONGEST_UID then broken("an application context of %d bytes", #content) end
            -- Only zeros count as padding here, blanks do not: Orthanc compares the rest.
            names, name = names + 1, content:gsub("\0+$", "")
        elseif kind == 0x20 then
            contexts = contexts + 1
            context(content, numbers, size)
        elseif kind == 0x21 then
            broken("the answer to a presentation context in a request")
        elseif kind == 0x50 then
            information = information + 1
            user_information(content)
        end
    end)
    if names > 1 or information > 1 then broken("an item that may be there once is there twice") end
    if name ~= CONTEXT_NAME then refuse(association.CONTEXT_NAME_NOT_SUPPORTED, "another application context than DICOM's") end
    if contexts == 0 then refuse(association.NO_REASON, "no presentation context") end
    return contexts + size.syntaxes
end

-- PS3.5 6.2 forbids backslash and control characters. Some devices send letters beyond ASCII, which Orthanc accepts.
local function check_title(text, answer, whose)
    if text == "" then refuse(answer, "a blank %s AE title", whose) end
    if text:find("[%c\\]") then refuse(answer, "a character that no AE title may hold in the %s AE title", whose) end
end

-- Returns {calling=, called=, items=, answer=, reason=}: the AE titles, as far as they were read, and the number of
-- presentation contexts and transfer syntaxes. A refused request also has the PDU that refuses it, and the reason for the
-- operator. `bytes` may contain more than the request.
function association.examine(bytes)
    local found = {calling = "", called = ""}
    local good, refusal = pcall(function()
        local kind = bytes:byte(1)
        if kind ~= 1 then
            local known = kind and kind >= 2 and kind <= 7
            refuse(known and association.UNEXPECTED_PDU or association.UNKNOWN_PDU, "something else than DICOM")
        end
        local length = #bytes >= 6 and string.unpack(">I4", bytes, 3) or 0
        if length > 0xFFFF then refuse(association.NO_REASON, "a request of %d bytes", length) end
        if length < FIXED then broken("a request of %d bytes", length) end
        if #bytes < 6 + length then broken("a request that ends after %d of %d bytes", #bytes - 6, length) end
        found.called, found.calling = title(bytes:sub(11, 26)), title(bytes:sub(27, 42))
        if string.unpack(">I2", bytes, 7) % 2 == 0 then
            refuse(association.VERSION_NOT_SUPPORTED, "another protocol version than DICOM's")
        end
        check_title(found.called, association.CALLED_NOT_RECOGNISED, "called")
        check_title(found.calling, association.CALLING_NOT_RECOGNISED, "calling")
        found.items = variable_part(bytes:sub(7 + FIXED, 6 + length))
    end)
    if not good then
        -- An error that is no refusal is a fault of this file; it refuses the request too.
        local known = type(refusal) == "table"
        found.answer = known and refusal.answer or association.INVALID_PDU
        found.reason = known and refusal.reason or "a request that could not be examined"
    end
    return found
end

return association
