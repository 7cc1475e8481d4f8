-- Connects HAProxy to people.lua: the current list decides who may sign in.
--
-- Rule 1: this file reads the list twice a second. So the removal of a person, or a new password or role, takes effect
-- within a second, without a restart and without a running agent.
-- Rule 2: a person who signed in is remembered as long as the list's entry for that person is unchanged, and for a working
-- day at most. So that person is not asked for the password again when somebody else guesses at the name, or when a
-- colleague is added.
-- Rule 3: a list that cannot be read changes nothing: a disk that fails must not lock everybody out.
local people = require("people")

local file = ...

-- A password is hashed with a thousand rounds. That is right once, but too slow for each of the hundreds of images of a
-- study. So the digest of each correct header is remembered with its person.
local SECONDS, MOST = 12 * 3600, 4096

local text, list = nil, nil
local known, number = {}, 0
local complained = false

local function unchanged(people_before, people_now, name)
    local before, now = people_before[name], people_now[name]
    return now and now.hash == before.hash and now.role == before.role
end

-- Returns the people who are remembered with a new list, and their number.
local function kept(found)
    local remembered, count = {}, 0
    for digest, person in pairs(known) do
        if unchanged(list, found, person.name) then
            remembered[digest] = person
            count = count + 1
        end
    end
    return remembered, count
end

local function look()
    local opened = io.open(file, "r")
    local content = opened and opened:read("a")
    if opened then opened:close() end
    if content and content == text then return end
    local found = content and people.parse(content)
    if found then
        known, number = kept(found)
        text, list, complained = content, found, false
    elseif not complained then
        complained = true
        core.Alert("the list of people cannot be read: who may sign in is as before")
    end
end

look()
if not list then error(file .. " is not a list of people") end

core.register_task(function()
    while true do
        core.msleep(500)
        look()
    end
end)

local function let_in(txn, name, role)
    txn:set_var("txn.user", name)
    txn:set_var("txn.role", role)
end

-- Sets txn.user and txn.role if the same header was right within the working day.
core.register_action("recognise", {"http-req"}, function(txn)
    local found = known[txn.c:sha2(txn.sf:req_hdr("authorization"), 256)]
    if found and core.now().sec < found.ends then let_in(txn, found.name, found.role) end
end, 0)

-- Sets txn.user and txn.role if txn.pair is the name and the password of a person.
core.register_action("identify", {"http-req"}, function(txn)
    -- The list may change during the hash; then the result goes into the old table and is forgotten.
    local remembered = known
    local name, role = people.identify(list, txn:get_var("txn.pair") or "", function(bytes)
        return txn.c:sha2(bytes, 512)
    end)
    if not name then return end
    let_in(txn, name, role)
    if number >= MOST then known, number = {}, 0 end
    number = number + 1
    local digest = txn.c:sha2(txn.sf:req_hdr("authorization"), 256)
    remembered[digest] = {name = name, role = role, ends = core.now().sec + SECONDS}
end, 0)
