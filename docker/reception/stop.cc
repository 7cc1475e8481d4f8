// Takes nothing more once Orthanc is asked to stop, and ends the process in order.
//
// Orthanc tells its plugins of every change before it stops its DICOM server, and waits until there is none left: while
// devices go on sending there always is one. So what arrives is finished, and nothing new begins (associations.cc, uploads.cc).
//
// Every library stays in place until the process ends, and the process ends without their destructors.
//
// Orthanc unloads its plugins when it stops. A thread of Python that then still waits, for a lock or for the network,
// would come back to code that is no longer there: that is a segmentation fault in an orderly stop.
//
// The plugin for Python frees the changes that came after its end a second time in a destructor (its OnChangeCallback.cpp
// clears the list's elements and not the list). That corrupts the heap at the end of a busy Orthanc's orderly stop.
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

// Orthanc's own work is done: what follows are destructors of static objects alone.
void end(int status, void *)
{
    reception::ended_in_order();
    std::fflush(nullptr);
    _exit(status);
}

} // namespace

bool reception::stopping() { return asked_to_stop; }

// Orthanc has one handler for all signals that stop it.
extern "C" SignalHandler *signal(int number, SignalHandler *handler) noexcept
{
    using Signal = SignalHandler *(int, SignalHandler *);
    static auto *const install = reception::replaced<Signal>("signal");
    if ((number != SIGTERM && number != SIGINT && number != SIGQUIT) || handler == SIG_DFL || handler == SIG_IGN)
        return install(number, handler);
    orthancs_handler = handler;
    return install(number, notice);
}

// What is registered last runs first: behind every plugin, so at each call.
extern "C" int dlclose(void *) noexcept
{
    on_exit(end, nullptr);
    return 0;
}
