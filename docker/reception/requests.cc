// Wraps Orthanc's HTTP server: notices when a request has ended, and answers a request that the plugin refuses.
//
// Orthanc tells a plugin only of the beginning of a request, and answers a refusal by a bare 403.
//
// Rule 1: the note of a request is removed when the request ends. So a note that is found after Orthanc ended names the
// instance that Orthanc worked on at that moment (plugins/understudy/plugin/parking.py has the format).
// Rule 2: a request takes a turn like a store (parking.cc), until its answer begins. From then on the time depends on the
// reader and not on the instance: the note becomes `sends`, and does not count as other work.
// Rule 3: a person's search takes a place (places.cc), until its answer begins. The agent's own are few, and take none.
// Rule 4: only a refused request is answered here, in place of Orthanc's answer and never in addition to it.
#include <civetweb.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "reception.h"

namespace {

using namespace reception;

using Handler = int (*)(mg_connection *);
using Start = mg_context *(const mg_callbacks *, void *, const char **);
using Write = int(mg_connection *, const void *, size_t);

std::atomic<unsigned> threads{0};
Handler handle = nullptr;

// A thread keeps its slot. Orthanc has 50 threads that serve requests.
thread_local unsigned slot = SLOTS_OF_REQUESTS;
thread_local std::string noted;
thread_local bool in_turn = false, alone = false, waits = true;
thread_local std::string answer;
thread_local bool answered = false;
thread_local bool in_request = false;
thread_local bool begun = false; // whether Orthanc's own answer has begun
thread_local bool stores = false;
thread_local std::optional<Place> place;

const std::array SEARCHES = {"/tools/find", "/tools/lookup", "/tools/bulk-content", "/tools/count-resources"};
const std::array LISTS = {"/patients", "/studies", "/series", "/instances", "/changes", "/exports"};

// Says whether Orthanc answers the request by a search of its index, or by a list from it: of all, or of what is in a
// patient, study or series. Queries by QIDO-RS end with the same words.
bool is_search(const mg_request_info &request)
{
    std::string path = request.local_uri == nullptr ? "" : request.local_uri;
    while (!path.empty() && path.back() == '/')
        path.pop_back();
    const auto is_path = [&](const char *one) { return path == one; };
    const auto is_end = [&](const char *one) { return path.compare(path.rfind('/'), std::string::npos, one) == 0; };
    if (path.empty() || std::any_of(SEARCHES.begin(), SEARCHES.end(), is_path))
        return !path.empty();
    return std::strcmp(request.request_method, "GET") == 0 && std::any_of(LISTS.begin(), LISTS.end(), is_end);
}

void write_note(const std::string &text)
{
    if (text == noted)
        return;
    noted = text;
    if (slot == SLOTS_OF_REQUESTS)
        slot = std::min(threads.fetch_add(1), SLOTS_OF_REQUESTS);
    if (slot != SLOTS_OF_REQUESTS)
        write_slot(slot, text);
}

// Returns a note with its first word replaced by `how`.
std::string noted_as(const char *how, const std::string &text)
{
    return text.empty() ? text : how + text.substr(text.find(' '));
}

void leave_turn()
{
    if (in_turn)
        end_turn(alone);
    in_turn = false;
}

void note(const std::string &text)
{
    leave_turn();
    alone = text.rfind("alone ", 0) == 0;
    in_turn = !text.empty() && take_turn(alone, waits);
    waits = text.empty() || (waits && in_turn);
    write_note(in_turn ? text : noted_as("beside", text));
}

int refuse_search(mg_connection *connection)
{
    std::fprintf(stderr, "reception: search refused because=other searches took too long\n");
    constexpr char TEXT[] = R"({"error": "busy", "message": "Other searches took too long.", )"
                            R"("hint": "Search for less, or again later.", "details": []})";
    mg_printf(connection,
              "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
              "Content-Length: %zu\r\n\r\n%s",
              sizeof(TEXT) - 1, TEXT);
    return 503;
}

int handle_request(mg_connection *connection)
{
    answer.clear();
    answered = stores = begun = false;
    // The edge overwrites this header in each request of a person.
    const char *const person = mg_get_header(connection, "X-Understudy-User");
    if (person != nullptr && is_search(*mg_get_request_info(connection)))
        place.emplace(person);
    if (place && !place->taken()) {
        place.reset();
        return refuse_search(connection);
    }
    in_request = true;
    const int handled = reception::within_limits(connection, handle);
    in_request = false;
    place.reset();
    note("");
    answer.clear();
    stores = false;
    return handled;
}

} // namespace

bool uploading()
{
    return stores;
}

extern "C" void understudy_answer(int status, const char *json);

void reception::reads_on()
{
    if (noted.find(" decode/") == std::string::npos)
        note("");
}

void reception::refuse_request(int status, const std::string &reason)
{
    std::fprintf(stderr, "reception: request refused because=%s\n", reason.c_str());
    // Orthanc itself answers a question that came by DICOM.
    if (in_request && !begun && answer.empty())
        understudy_answer(status, (R"({"HttpStatus": )" + std::to_string(status) + R"(, "Message": ")" + reason + R"("})").c_str());
}

extern "C" {

// For the plugin: says that this thread's request stores an instance, which may use the whole budget (memory.cc).
void understudy_receive()
{
    stores = true;
}

// For the plugin: notes what this thread works on from now on, until its request ends or the plugin sends an empty text.
void understudy_note(const char *text)
{
    note(text);
}

// For the plugin: sets the answer to this thread's request, after the plugin's filter has refused it.
void understudy_answer(int status, const char *json)
{
    answer = "HTTP/1.1 " + std::to_string(status) +
             " Refused\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: " +
             std::to_string(std::strlen(json)) + "\r\n\r\n" + json;
}

mg_context *mg_start(const mg_callbacks *callbacks, void *data, const char **options)
{
    // This callback handles a request from beginning to end.
    mg_callbacks ours = *callbacks;
    handle = ours.begin_request;
    ours.begin_request = handle_request;
    return reception::replaced<Start>("mg_start")(&ours, data, options);
}

int mg_write(mg_connection *connection, const void *content, size_t size)
{
    static auto *const write = reception::replaced<Write>("mg_write");
    place.reset();
    if (!noted.empty()) {
        leave_turn();
        write_note(noted_as("sends", noted));
    }
    if (answer.empty() || begun) {
        begun = true;
        return write(connection, content, size);
    }
    if (!answered) {
        answered = true;
        if (write(connection, answer.data(), answer.size()) < 0)
            return -1;
    }
    return static_cast<int>(size);
}
}
