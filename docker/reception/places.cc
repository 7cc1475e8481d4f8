// Lets searches keep no store waiting.
//
// Orthanc's index does one thing at a time, in no order. A store needs it several times, and waits each time for most of
// the searches that wait for it, too: sixteen at once, of one reader, kept a store waiting for 2 s.
//
// Rule 1: Orthanc looks for the answers of SEARCHES_AT_ONCE searches at a time, one of each caller. The others wait in the
// order in which they came, and are refused after PATIENCE.
// Rule 2: a place is free again once the answer begins: how long that takes is up to its reader.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <unordered_set>

#include "reception.h"

namespace reception {

namespace {

constexpr size_t SEARCHES_AT_ONCE = 2;
constexpr std::chrono::seconds PATIENCE(30);

struct Searches {
    std::mutex mutex;
    std::condition_variable changed;
    std::list<const Place *> waiting;
    std::unordered_set<std::string> callers; // whose search is under way
};

// Never destroyed: threads use it until the process ends.
Searches &searches()
{
    static auto *const only = new Searches;
    return *only;
}

} // namespace

Place::Place(std::string caller) : caller_(std::move(caller))
{
    Searches &all = searches();
    std::unique_lock<std::mutex> lock(all.mutex);
    const auto in_queue = all.waiting.insert(all.waiting.end(), this);
    taken_ = all.changed.wait_for(lock, PATIENCE, [&] {
        const auto is_free = [&](const Place *one) { return all.callers.count(one->caller_) == 0; };
        return all.callers.size() < SEARCHES_AT_ONCE &&
               std::find_if(all.waiting.begin(), all.waiting.end(), is_free) == in_queue;
    });
    all.waiting.erase(in_queue);
    if (taken_)
        all.callers.insert(caller_);
    // The next one may have a place, too.
    all.changed.notify_all();
}

Place::~Place()
{
    if (!taken_)
        return;
    Searches &all = searches();
    const std::lock_guard<std::mutex> lock(all.mutex);
    all.callers.erase(caller_);
    all.changed.notify_all();
}

} // namespace reception
