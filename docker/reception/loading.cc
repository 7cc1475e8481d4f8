// Lets the threads that load instances for readers wait for memory.
//
// DICOMweb keeps the metadata of a series in a file. It leaves out, without an error, an instance that it cannot load, so
// readers would not see that instance until the series changes. It writes its metadata while nobody waits.
//
// Rule 1: a thread that answers a request or a command never waits here, nor does one that runs Python: it holds the lock of
// the interpreter. The other threads load files, parse them and write metadata. They hold nothing that a reception needs.
// Rule 2: at most LOADERS_THAT_WAIT wait for a large block at the same time, so that the others can load small instances.
// Rule 3: every wait ends. A thread that waited in vain does not wait again for a while. A large block is then refused; the
// elements of metadata are not. No wait delays Orthanc's stop.
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "reception.h"

bool receiving();

namespace reception {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds PATIENCE(20), PATIENCE_OF_WRITERS(120), AFTER_A_VAIN_WAIT(60);
constexpr std::chrono::milliseconds BETWEEN(100);
constexpr unsigned LOADERS_THAT_WAIT = 2;

std::atomic<unsigned> waiting{0};
thread_local Clock::time_point impatient_until{};

bool runs_python()
{
    // Absent until Orthanc has loaded its plugin for Python.
    auto *const holds_lock = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_Check"));
    return holds_lock != nullptr && holds_lock() != 0;
}

template <typename Condition> bool comes(Condition condition, std::chrono::seconds patience)
{
    if (Clock::now() < impatient_until)
        return condition();
    const auto end = Clock::now() + patience;
    bool found = false;
    while (!(found = condition()) && Clock::now() < end && !stopping())
        std::this_thread::sleep_for(BETWEEN);
    if (!found)
        impatient_until = Clock::now() + AFTER_A_VAIN_WAIT;
    return found;
}

} // namespace

bool loads() { return !answers() && !receiving(); }

bool memory_comes(uint64_t bytes)
{
    if (!loads() || runs_python())
        return false;
    const bool waits = waiting.fetch_add(1) < LOADERS_THAT_WAIT;
    const bool found = waits && comes([&] { return memory_left(bytes); }, PATIENCE);
    waiting.fetch_sub(1);
    return found;
}

void wait_for_elements()
{
    if (!elements_left(true) && !runs_python())
        comes([] { return elements_left(true); }, PATIENCE_OF_WRITERS);
}

} // namespace reception
