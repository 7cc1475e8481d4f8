-- Lets a request go on to Orthanc or to the agent when its turn comes. Each person and each address has a share of the
-- connections. Requests beyond a share wait here, without a connection.
--
-- Rule 1: a person may have no more requests running than connections are free. So the last connection is always kept for
-- a person who has none, however many people fill their shares.
-- Rule 2: HAProxy counts (conn_cur), not this file: it notices the end of every request, even of one that waits here.

-- The most running requests of a person, of an address, and of all together. Orthanc has 50 HTTP threads and the agent 40. A
-- browser runs ten requests at a time (tune.h2.fe.max-concurrent-streams).
local OF_A_PERSON, OF_AN_ADDRESS, OF_ALL = 10, 20, 40

local BACKENDS = {orthanc = {"orthanc_http"}, agent = {"agent", "agent_pages"}}

local LONGEST_WAIT = 30000
-- In milliseconds. The pauses are short at first; the longer a request waits, the less often it checks.
local FIRST_PAUSE, LONGEST_PAUSE = 20, 250

local function free(txn, backends)
    local left = OF_ALL
    for _, backend in ipairs(backends) do left = left - txn.f:be_conn(backend) end
    return left
end

-- Sets txn.turn when the request may go on, and leaves it unset when it has waited for too long. The track-sc rules that
-- follow at once count the request.
core.register_action("take_turn", {"http-req"}, function(txn)
    local person, address = txn:get_var("txn.person"), txn:get_var("txn.address")
    local backends = BACKENDS[txn:get_var("txn.service")]
    local waited, pause = 0, FIRST_PAUSE
    -- HAProxy runs this for all requests that come in one moment before it counts the first: sixty got through. After a
    -- pause it counts each request before it runs the next.
    core.msleep(1)
    while true do
        if txn.c:table_conn_cur(person, "http_people") < math.min(OF_A_PERSON, free(txn, backends))
            and txn.c:table_conn_cur(address, "http_addresses") < OF_AN_ADDRESS then
            txn:set_var("txn.turn", true)
            return
        end
        if waited >= LONGEST_WAIT then return end
        core.msleep(pause)
        waited = waited + pause
        pause = math.min(2 * pause, LONGEST_PAUSE)
    end
end, 0)
