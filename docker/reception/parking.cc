// Notes which instances are being processed. An instance that was being processed when Orthanc ended is a suspect.
//
// Rule 1: the notes outlive this process, and say at the next start which instances were being processed
// (plugins/understudy/plugin/parking.py has the format).
// Rule 2: a suspect is processed alone the next time. So a second end names the instance that causes it, and not those
// that came at the same moment.
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "reception.h"

namespace reception {

namespace {

// PATIENCE: seconds for which a thread waits for the work on a suspect, or a suspect for all other work.
// PATIENCE_OF_SUSPECTS: seconds for which a suspect waits for another suspect.
constexpr time_t PATIENCE = 2, PATIENCE_OF_SUSPECTS = 10;

// Hands out the slots for notes, and holds the list of suspects.
class Parking {
  public:
    Parking()
    {
        const char *folder = std::getenv("UNDERSTUDY_PARKING");
        if (folder == nullptr)
            return;
        folder_ = folder;
        suspects_ = folder_ + "/suspects";
        read();
    }

    // Returns how often Orthanc ended while this instance was being processed. Reads the list again before an instance is
    // refused, because a person may have released it meanwhile.
    unsigned ends(const std::string &uid)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        auto found = ends_.find(uid);
        if (found != ends_.end() && found->second >= PARKED_AT) {
            read();
            found = ends_.find(uid);
        }
        return found == ends_.end() ? 0 : found->second;
    }

    void forget(const std::string &uid)
    {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ends_.erase(uid);
        }
        take_off(uid);
    }

    // Returns the first free slot. There are never more slots than threads.
    unsigned take()
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto free = std::find(taken_.begin(), taken_.end(), false);
        const auto slot = static_cast<unsigned>(free - taken_.begin());
        if (free == taken_.end())
            taken_.push_back(true);
        else
            *free = true;
        return SLOTS_OF_REQUESTS + slot;
    }

    void give_back(unsigned slot)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        taken_[slot - SLOTS_OF_REQUESTS] = false;
    }

  private:
    void read()
    {
        ends_.clear();
        std::ifstream file(suspects_);
        unsigned ends;
        std::string when, calling, uid;
        while (file >> ends >> when >> calling >> uid)
            ends_[uid] = ends;
    }

    // The plugin and the command `understudy` change the list in the same way. If the disk refuses, the list is unchanged.
    void take_off(const std::string &gone) const
    {
        const int folder = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0)
            return;
        flock(folder, LOCK_EX);
        std::ifstream file(suspects_);
        std::string text, line;
        while (std::getline(file, line))
            if (line.substr(line.rfind(' ') + 1) != gone)
                text += line + '\n';
        // A list that could not be read to its end is not replaced.
        if (file.eof() && write_whole(suspects_, text))
            fsync(folder);
        close(folder);
    }

    std::string folder_, suspects_;
    std::mutex mutex_;
    std::unordered_map<std::string, unsigned> ends_;
    std::vector<bool> taken_;
};

int open_notes()
{
    const char *folder = std::getenv("UNDERSTUDY_PARKING");
    return folder == nullptr ? -1 : open((std::string(folder) + "/on-the-way").c_str(), O_WRONLY | O_CLOEXEC);
}

const int notes = open_notes();

Parking parking;
pthread_rwlock_t turn = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
// Suspects are processed one at a time. While they wait for each other, they hold up no other work.
pthread_mutex_t suspects = PTHREAD_MUTEX_INITIALIZER;

timespec in_seconds(time_t seconds)
{
    timespec until{};
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    return until;
}

} // namespace

unsigned ends_of(const std::string &uid) { return parking.ends(uid); }
void forget_ends_of(const std::string &uid) { parking.forget(uid); }
unsigned take_slot() { return parking.take(); }
void give_back_slot(unsigned slot) { parking.give_back(slot); }

void ended_in_order()
{
    if (notes >= 0 && ftruncate(notes, 0) != 0)
        std::fprintf(stderr, "reception: the notes could not be emptied: %s\n", std::strerror(errno));
}

void write_slot(unsigned slot, const std::string &text)
{
    std::array<char, SLOT_BYTES> record{};
    text.copy(record.data(), record.size() - 1);
    const auto position = static_cast<off_t>((slot + 1) * SLOT_BYTES);
    // A disk that refuses the note must not stop the work.
    if (notes >= 0 && pwrite(notes, record.data(), record.size(), position) < 0)
        return;
}

bool take_turn(bool alone, bool waits)
{
    if (!alone) {
        const timespec until = in_seconds(waits ? PATIENCE : 0);
        return pthread_rwlock_clockrdlock(&turn, CLOCK_MONOTONIC, &until) == 0;
    }
    const timespec first = in_seconds(waits ? PATIENCE_OF_SUSPECTS : 0);
    if (pthread_mutex_clocklock(&suspects, CLOCK_MONOTONIC, &first) != 0)
        return false;
    const timespec until = in_seconds(waits ? PATIENCE : 0);
    if (pthread_rwlock_clockwrlock(&turn, CLOCK_MONOTONIC, &until) == 0)
        return true;
    pthread_mutex_unlock(&suspects);
    return false;
}

void end_turn(bool alone)
{
    pthread_rwlock_unlock(&turn);
    if (alone)
        pthread_mutex_unlock(&suspects);
}

} // namespace reception
