// Keeps the memory of all receptions together below the limit of the container.
//
// While Orthanc stores an object, it uses FACTOR times the object's size. So a reception may grow only as long as the
// largest one can still be stored while all others hold what they have received (the banker's algorithm).
//
// Rule 1: small objects never wait: the first FREE bytes of each object are outside the budget. This free part is smaller
// if there are so many associations that their free parts together would exceed FREE_TOGETHER.
// Rule 2: the oldest large reception is never refused in favour of a younger one, unless it is a stranger's and a listed
// device waits. So one of them always succeeds.
// Rule 3: every wait ends. Receptions that wait for each other are refused one at a time, strangers first, then the
// youngest. A reception that holds memory for which others wait has less time (associations.cc).
// Rule 4: while a listed device waits, strangers get no more memory.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <utility>

#include "reception.h"

namespace reception {

namespace {
constexpr uint64_t FREE = 1 << 20, FREE_TOGETHER = 64 << 20;
constexpr std::chrono::seconds PATIENCE(20), BETWEEN(2), LONGEST(120);
} // namespace

class Budget {
  public:
    void enter(Share &share)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        shares_.push_back(&share);
    }

    void leave(Share &share)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        shares_.remove(&share);
        changed_.notify_all();
    }

    void release(Share &share)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        share.received_ = 0;
        share.storing_ = share.waiting_to_store_ = false;
        changed_.notify_all();
    }

    Share::Answer grow(Share &share, uint64_t bytes)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        const uint64_t wanted = share.received_ + bytes;
        if (wanted > settings().largest)
            return Share::Answer::too_large;
        const bool good = wait(lock, share, [&] { return wanted <= free_ || (!gives_way(share) && fits(share, wanted)); });
        if (good)
            share.received_ = wanted;
        return good ? Share::Answer::taken : Share::Answer::no_memory;
    }

    Share::Answer store(Share &share)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        share.waiting_to_store_ = true;
        share.storing_ = wait(lock, share, [&] { return share.received_ <= free_ || may_store(share); });
        share.waiting_to_store_ = false;
        return share.storing_ ? Share::Answer::taken : Share::Answer::no_memory;
    }

    // Called by the thread of the share itself, so this share is not one of those that wait.
    bool is_waited_for(const Share &holding) const { return holding.received_ > free_ && waiting_ > 0; }

    uint64_t next()
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        return ++last_;
    }

  private:
    template <typename Condition> bool wait(std::unique_lock<std::mutex> &lock, Share &share, Condition condition)
    {
        if (condition())
            return true;
        using Clock = std::chrono::steady_clock;
        const auto began = Clock::now();
        bool good = false;
        share.waiting_ = true;
        ++waiting_;
        waiting_listed_ += share.listed_;
        while (!(good = condition())) {
            const auto passed = Clock::now() - began;
            const bool next = (!oldest(share) || gives_way(share)) && last(share) && Clock::now() - given_up_ >= BETWEEN;
            if (passed >= LONGEST || (passed >= PATIENCE && next)) {
                given_up_ = Clock::now();
                break;
            }
            changed_.wait_for(lock, std::chrono::milliseconds(500));
        }
        share.waiting_ = false;
        --waiting_;
        waiting_listed_ -= share.listed_;
        changed_.notify_all();
        return good;
    }

    // Says whether everything received fits into memory while the largest object is being stored.
    bool fits(const Share &growing, uint64_t wanted) const
    {
        uint64_t sum = 0, largest = 0;
        for (const Share *share : shares_) {
            const uint64_t bytes = share == &growing ? wanted : share->received_;
            if (bytes <= free_)
                continue;
            sum += bytes;
            largest = std::max(largest, bytes);
        }
        return sum + (FACTOR - 1) * std::max(largest, stored_now()) <= settings().memory;
    }

    uint64_t stored_now() const
    {
        uint64_t sum = 0;
        for (const Share *share : shares_)
            if (share->storing_ && share->received_ > free_)
                sum += share->received_;
        return sum;
    }

    bool may_store(const Share &storing) const
    {
        uint64_t sum = 0;
        for (const Share *share : shares_) {
            if (share->received_ > free_)
                sum += share->received_;
            if (share->waiting_to_store_ && share->received_ > free_ && share->number_ < storing.number_)
                return false;
        }
        return sum + (FACTOR - 1) * (stored_now() + storing.received_) <= settings().memory;
    }

    bool gives_way(const Share &share) const { return !share.listed_ && waiting_listed_ > 0; }

    bool oldest(const Share &asked) const
    {
        return std::none_of(shares_.begin(), shares_.end(), [&](const Share *share) {
            return share->received_ > free_ && share->number_ < asked.number_;
        });
    }

    bool last(const Share &asked) const
    {
        return std::none_of(shares_.begin(), shares_.end(), [&](const Share *share) {
            return share->waiting_ &&
                   std::make_pair(!share->listed_, share->number_) > std::make_pair(!asked.listed_, asked.number_);
        });
    }

    const uint64_t free_ = std::min(FREE, FREE_TOGETHER / std::max<uint64_t>(1, settings().associations));
    std::mutex mutex_;
    std::condition_variable changed_;
    std::chrono::steady_clock::time_point given_up_{};
    std::list<Share *> shares_;
    std::atomic<unsigned> waiting_{0};
    unsigned waiting_listed_ = 0;
    uint64_t last_ = 0;
};

namespace {
// Never destroyed: threads use it until the process ends.
Budget &budget()
{
    static auto *const only = new Budget;
    return *only;
}
} // namespace

Share::Share(bool listed) : listed_(listed), number_(budget().next()) { budget().enter(*this); }
Share::~Share() { budget().leave(*this); }
Share::Answer Share::grow(uint64_t bytes) { return budget().grow(*this, bytes); }
Share::Answer Share::store() { return budget().store(*this); }
void Share::release() { budget().release(*this); }
bool Share::is_waited_for() const { return budget().is_waited_for(*this); }

} // namespace reception
