// Keeps every library in place until the process ends, and ends it without their destructors.
//
// Orthanc unloads its plugins when it stops. A thread of Python that then still waits, for a lock or for the network,
// would come back to code that is no longer there: that is a segmentation fault in an orderly stop.
//
// The plugin for Python frees the changes that came after its end a second time in a destructor (its OnChangeCallback.cpp
// clears the list's elements and not the list). That corrupts the heap at the end of a busy Orthanc's orderly stop.
#include <cstdio>
#include <cstdlib>

#include "reception.h"

namespace {

// Orthanc's own work is done: what follows are destructors of static objects alone.
void end(int status, void *)
{
    reception::ended_in_order();
    std::fflush(nullptr);
    _exit(status);
}

} // namespace

// What is registered last runs first: behind every plugin, so at each call.
extern "C" int dlclose(void *) noexcept
{
    on_exit(end, nullptr);
    return 0;
}
