// Stands between Orthanc and its HTTP server: knows when a request has ended, and answers one that the plugin refuses.
//
// Orthanc tells a plugin of the beginning of a request alone, and answers a refusal by a bare 403.
//
// Rule 1: a note of what a request works on is gone when the request is. So a note that is found after Orthanc ended
// names what it worked on at that moment (plugins/understudy/plugin/parking.py has the format).
// Rule 2: what a request works on has a turn like a store (parking.cc), until its answer begins. How slow the reader of an
// answer is says nothing of the instance: the note then is `sends`, and keeps nobody else from being blamed.
// Rule 3: only what the plugin refused is answered here, in place of Orthanc's answer and never beside it.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "reception.h"

struct mg_context;

namespace {

using namespace reception;

using Handler = int (*)(mg_connection *);
using Start = mg_context *(void *, void *, const char **);
using Write = int(mg_connection *, const void *, size_t);

std::atomic<unsigned> threads{0};
Handler handle = nullptr;

// A thread keeps its slot; Orthanc has 50 that serve requests.
thread_local unsigned slot = SLOTS_OF_REQUESTS;
thread_local std::string noted;
thread_local bool in_turn = false, alone = false, waits = true;
thread_local std::string answer;
thread_local bool answered = false;
thread_local bool in_request = false;
thread_local bool begun = false; // Orthanc's own answer
thread_local bool stores = false;

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

// What is noted, in another way.
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

int handle_request(mg_connection *connection)
{
    answer.clear();
    answered = stores = begun = false;
    in_request = true;
    const int handled = reception::within_limits(connection, handle);
    in_request = false;
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
    // A question that came by DICOM is answered by Orthanc.
    if (in_request && !begun && answer.empty())
        understudy_answer(status, (R"({"HttpStatus": )" + std::to_string(status) + R"(, "Message": ")" + reason + R"("})").c_str());
}

extern "C" {

// For the plugin: the request of this thread stores an instance, which may have all of the memory (memory.cc).
void understudy_receive()
{
    stores = true;
}

// For the plugin: what this thread works on from now on, until its request has ended or an empty text comes.
void understudy_note(const char *text)
{
    note(text);
}

// For the plugin: how the request of this thread is answered after its filter has said no.
void understudy_answer(int status, const char *json)
{
    answer = "HTTP/1.1 " + std::to_string(status) +
             " Refused\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: " +
             std::to_string(std::strlen(json)) + "\r\n\r\n" + json;
}

mg_context *mg_start(void *callbacks, void *data, const char **options)
{
    // The first of the callbacks handles a request from its beginning to its end (civetweb.h, begin_request).
    auto *const begin_request = static_cast<Handler *>(callbacks);
    handle = *begin_request;
    *begin_request = handle_request;
    return reception::replaced<Start>("mg_start")(callbacks, data, options);
}

int mg_write(mg_connection *connection, const void *content, size_t size)
{
    static auto *const write = reception::replaced<Write>("mg_write");
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
