// Counts the refusals that happen before the plugin is called, in one small file that the agent reads.
//
// A line is `COUNT LAST CALLING REASON DETAIL`: how often, the last time in seconds since 1970, the calling AE title, the
// reason in one word, and printable details. Calling AE title, reason and SOP class (the first detail) identify a row.
//
// Rule 1: no caller waits for the disk: a separate thread writes, at most once a second.
// Rule 2: the file has at most ROWS lines. The row with the oldest refusal is removed first, strangers before listed
// devices. Its count is added to a row for the reason alone, with OTHERS in place of a title, so that no count is lost.
// Rule 3: the file is replaced by rename, so that a reader never sees half of it.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "reception.h"

namespace reception {

namespace {

constexpr size_t ROWS = 200;
constexpr size_t DETAIL_BYTES = 400;
constexpr char OTHERS[] = "*";

class Refusals {
  public:
    Refusals()
    {
        const char *file = std::getenv("UNDERSTUDY_REFUSALS");
        if (file == nullptr)
            return;
        file_ = file;
        std::ifstream before(file_);
        uint64_t count;
        long long last;
        std::string calling, reason, detail;
        while (before >> count >> last >> calling >> reason >> detail)
            rows_[key(calling, reason, detail.substr(0, detail.find(',')))] = {count, last, detail};
    }

    void count(const std::string &calling, const std::string &reason, const std::string &about, const std::string &detail)
    {
        if (file_.empty())
            return;
        const std::lock_guard<std::mutex> lock(mutex_);
        Row &row = rows_[key(calling, reason, "class=" + about)];
        ++row.count;
        row.last = std::time(nullptr);
        row.detail = ("class=" + about + ',' + detail).substr(0, DETAIL_BYTES);
        while (rows_.size() > ROWS)
            forget_one();
        changed_ = true;
        if (!writes_) {
            writes_ = true;
            std::thread([this] { write_for_ever(); }).detach();
        }
        wake_.notify_one();
    }

  private:
    struct Row {
        uint64_t count = 0;
        long long last = 0;
        std::string detail;
    };

    using Rows = std::map<std::string, Row>;

    // Returns the calling AE title of a row.
    static std::string title(const Rows::value_type &row) { return row.first.substr(0, row.first.find(' ')); }

    static std::tuple<bool, bool, long long> rank(const Rows::value_type &row)
    {
        return {title(row) == OTHERS, settings().known.count(title(row)) != 0, row.second.last};
    }

    void forget_one()
    {
        const auto worst = std::min_element(
            rows_.begin(), rows_.end(), [](const auto &one, const auto &other) { return rank(one) < rank(other); });
        const size_t reason = worst->first.find(' ') + 1;
        const Row gone = worst->second;
        const std::string others = key(OTHERS, worst->first.substr(reason, worst->first.find(' ', reason) - reason), "class=-");
        rows_.erase(worst);
        Row &row = rows_[others];
        row.count += gone.count;
        row.last = std::max(row.last, gone.last);
        row.detail = "class=-";
    }

    static std::string key(const std::string &calling, const std::string &reason, const std::string &about)
    {
        return calling + ' ' + reason + ' ' + about;
    }

    void write_for_ever()
    {
        for (;;) {
            std::string text;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [this] { return changed_; });
                changed_ = false;
                for (const auto &[key, row] : rows_)
                    text += std::to_string(row.count) + ' ' + std::to_string(row.last) + ' ' + key.substr(0, key.rfind(' ')) +
                            ' ' + row.detail + '\n';
            }
            if (!write_whole(file_, text))
                std::fprintf(stderr, "reception: the refusals could not be written\n");
            std::this_thread::sleep_for(std::chrono::seconds(1));
        }
    }

    std::string file_;
    std::mutex mutex_;
    std::condition_variable wake_;
    Rows rows_;
    bool changed_ = false, writes_ = false;
};

} // namespace

void count_refusal(const std::string &calling, const char *reason, const std::string &about, const std::string &detail)
{
    // Never destroyed: its thread runs until the process ends.
    static auto *const refusals = new Refusals;
    refusals->count(calling, reason, about.empty() ? "-" : about, detail.empty() ? "-" : detail);
}

} // namespace reception
