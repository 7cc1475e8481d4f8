-- Decides by the allow-list which callers are let in, and counts the outcomes. Uses nothing of HAProxy.
local admission = {}

-- Returns a title's key in the table. It ignores case, because Orthanc may compare AE titles so (StrictAetComparison).
function admission.key(title)
    return (title:lower():gsub(".", function(byte) return string.format("%02X", byte:byte()) end))
end

local function hexadecimal(text)
    return (text:gsub(".", function(byte) return string.format("%02X", byte:byte()) end))
end

-- Returns the set of the fingerprints in the text, one a line.
function admission.revoked(text)
    local found = {}
    for fingerprint in text:gmatch("%x+") do found[fingerprint] = true end
    return found
end

-- Returns the verdict of the allow-list about an association. `entries` is the table's value under the title's key:
-- entries separated by commas, each NETWORK|CALLING|CALLED|CERTIFICATE (adapters/edge_config.py). NETWORK is `-` if the
-- device has no known address, and `~` if such a device may only store. CALLING and CALLED are hexadecimal; CALLED and
-- CERTIFICATE may be `*` for any. `comes_from` says whether the caller is in a network, `shows` whether it has a
-- certificate.
--
-- known: an entry matches. calling: no device has this title. called: the entry names another called title.
-- certificate: the entry asks for a certificate that the caller did not show. address: the title belongs to a device with
-- another address.
function admission.verdict(entries, calling, called, comes_from, shows)
    local found, claimed = nil, false
    for network, title, wanted, certificate in (entries or ""):gmatch("([^|,]+)|([^|,]+)|([^|,]+)|([^|,]+)") do
        claimed = claimed or network ~= "~"
        if network ~= "~" and network ~= "-" and comes_from(network) then
            if title ~= hexadecimal(calling) then
                found = found or "calling"
            elseif certificate ~= "*" and not shows(certificate) then
                found = "certificate"
            elseif wanted ~= "*" and wanted ~= hexadecimal(called) then
                found = found ~= "certificate" and "called" or found
            else
                return "known"
            end
        end
    end
    return found or (claimed and "address" or "calling")
end

-- Limits the time that Orthanc spends on the requests of strangers: it reads one request at a time, and needs 24 ms for 128
-- presentation contexts with ten transfer syntaxes each. `most` items may come at once, and `most` more each second.
function admission.budget(most)
    return {most = most, left = most, at = nil}
end

-- Takes the items of a request out of the budget. Returns false if not enough were left. `now` is in seconds.
function admission.spend(budget, items, now)
    -- A clock that was set back adds nothing to the budget.
    local passed = math.max(0, now - (budget.at or now))
    budget.left, budget.at = math.min(budget.most, budget.left + passed * budget.most), now
    if items > budget.left then return false end
    budget.left = budget.left - items
    return true
end

-- Counts by device and outcome, in memory. Devices of the allow-list have a book of their own, so that invented titles do
-- not displace them. Once a book has `most` lines, it counts all new callers in lines without a name.
function admission.counter(most)
    return {most = most, batch = 0, waiting = nil, books = {known = {}, others = {}}, lines = {known = 0, others = 0}}
end

function admission.count(counter, book, line, rest)
    local counts = counter.books[book]
    if not counts[line] then
        if counter.lines[book] >= counter.most then line = rest end
        if not counts[line] then counter.lines[book] = counter.lines[book] + 1 end
    end
    counts[line] = (counts[line] or 0) + 1
end

-- Returns the number of a batch and its lines, each with its count in front. Returns the same batch again until the caller
-- passes its number as `noted`. So no count is lost, and a caller that remembers the number adds no count twice.
function admission.take(counter, noted)
    if counter.waiting and counter.batch == noted then counter.waiting = nil end
    if not counter.waiting and next(counter.books.known) == nil and next(counter.books.others) == nil then
        return counter.batch, {}
    end
    if not counter.waiting then
        local lines = {}
        for _, name in ipairs({"known", "others"}) do
            -- The book is replaced before it is read, because HAProxy runs other callers in the middle of a long loop.
            local book = counter.books[name]
            counter.books[name], counter.lines[name] = {}, 0
            for line, number in pairs(book) do lines[#lines + 1] = number .. " " .. line end
        end
        counter.batch, counter.waiting = counter.batch + 1, lines
    end
    return counter.batch, counter.waiting
end

return admission
