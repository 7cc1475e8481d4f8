// Accepts nothing new once Orthanc is asked to stop, and makes the stop an orderly one.
//
// Before Orthanc stops its DICOM server, it tells its plugins of every change and waits until no change is left. While
// devices go on sending, this never ends. So a transfer that has begun is finished, and none begins (associations.cc,
// uploads.cc).
//
// Every library stays loaded until the process ends, and the process ends without running destructors.
//
// Orthanc unloads its plugins when it stops. A Python thread that still waits for a lock or for the network would return
// to code that is no longer loaded: a segmentation fault during an orderly stop.
//
// Orthanc's Python plugin frees the changes that came after its end a second time in a destructor (its OnChangeCallback.cpp
// clears the elements of the list and not the list). That corrupts the heap when a busy Orthanc stops.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "reception.h"

namespace {

using SignalHandler = void(int);

std::atomic<bool> asked_to_stop = false;
SignalHandler *orthancs_handler = nullptr;

void notice(int number)
{
    asked_to_stop = true;
    orthancs_handler(number);
}

// Orthanc's own work is done: only destructors of static objects would follow.
void end(int status, void *)
{
    reception::ended_in_order();
    std::fflush(nullptr);
    _exit(status);
}

} // namespace

bool reception::stopping() { return asked_to_stop; }

// Orthanc has one handler for all the signals that stop it.
extern "C" SignalHandler *signal(int number, SignalHandler *handler) noexcept
{
    using Signal = SignalHandler *(int, SignalHandler *);
    static auto *const install = reception::replaced<Signal>("signal");
    if ((number != SIGTERM && number != SIGINT && number != SIGQUIT) || handler == SIG_DFL || handler == SIG_IGN)
        return install(number, handler);
    orthancs_handler = handler;
    return install(number, notice);
}

// The function that is registered last runs first, so each call registers it again: it has to run before all others.
extern "C" int dlclose(void *) noexcept
{
    on_exit(end, nullptr);
    return 0;
}
