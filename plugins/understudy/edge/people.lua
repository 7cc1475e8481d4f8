-- Finds the person with a name and a password in the list that adapters/keys.py writes. Uses nothing of HAProxy.
local people = {}

local FORM = "^%$6%$rounds=%d+%$[./%w]+%$[./%w]+$"

-- No person has this hash. A comparison with it takes as long as with a real one.
local NOBODY = "$6$rounds=1000$................$" .. ("."):rep(86)

-- Only this many characters of a password are compared. Our passwords have 24, and each character makes the hash slower.
local MOST_CHARACTERS = 128

-- The digits 0 to 63 of a hash. The hash has the least significant digit first (SHA-crypt, step 22).
local ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

-- Returns {role, hash} by name, or nil if a line does not have our form.
function people.parse(text)
    local roles, found = {}, {}
    local first, rest = text:match("^(userlist understudy)\n(.*)$")
    if not first then return nil end
    for line in rest:gmatch("[^\n]+") do
        local role, names = line:match("^ +group (%a+) ?(.*)$")
        local name, hash = line:match("^ +user (%S+) password (%S+)$")
        if role then
            for member in names:gsub("^users ", ""):gmatch("[^,]+") do roles[member] = role end
        elseif name and roles[name] then
            found[name] = {role = roles[name], hash = hash}
        else
            return nil
        end
    end
    return found
end

-- Returns the hash of a password, with the rounds and the salt of the hash `like`. `sha512` gives 64 bytes for any bytes.
-- The steps are those of "Unix crypt using SHA-256 and SHA-512", U. Drepper.
function people.crypt(password, like, sha512)
    local rounds, salt = like:match("^%$6%$rounds=(%d+)%$([^$]*)%$")
    local length = #password
    local function filled(bytes, size) return bytes:rep(size // #bytes + 1):sub(1, size) end
    local second = sha512(password .. salt .. password)
    local parts, bits = {password, salt, filled(second, length)}, length
    while bits > 0 do
        parts[#parts + 1] = bits % 2 == 1 and second or password
        bits = bits // 2
    end
    local digest = sha512(table.concat(parts))
    local long = filled(sha512(password:rep(length)), length)
    local short = filled(sha512(salt:rep(16 + digest:byte(1))), #salt)
    for round = 0, tonumber(rounds) - 1 do
        local odd = round % 2 == 1
        digest = sha512((odd and long or digest) .. (round % 3 ~= 0 and short or "")
            .. (round % 7 ~= 0 and long or "") .. (odd and digest or long))
    end
    local text = {}
    local function write(number, characters)
        for _ = 1, characters do
            text[#text + 1] = ALPHABET:sub(number % 64 + 1, number % 64 + 1)
            number = number // 64
        end
    end
    local high, middle, low = 0, 21, 42
    for _ = 1, 21 do
        write(digest:byte(high + 1) * 65536 + digest:byte(middle + 1) * 256 + digest:byte(low + 1), 4)
        high, middle, low = middle + 1, low + 1, high + 1
    end
    write(digest:byte(64), 2)
    return string.format("$6$rounds=%s$%s$%s", rounds, salt, table.concat(text))
end

-- Returns name and role if NAME:PASSWORD is right. It hashes once, whether the name exists or not.
function people.identify(list, pair, sha512)
    local name, password = pair:match("^([^:]*):(.*)$")
    local person = list[name]
    local hash = person and person.hash:match(FORM) or NOBODY
    if people.crypt((password or ""):sub(1, MOST_CHARACTERS), hash, sha512) == hash and person then
        return name, person.role
    end
end

return people
