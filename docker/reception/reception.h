// What the parts of the reception share. reception.cc explains the library.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_set>

struct T_ASC_Association;
struct mg_connection;

namespace reception {

// The function that one of these files replaces. Orthanc must not run without it.
template <typename Function> Function *replaced(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == nullptr) {
        std::fprintf(stderr, "reception: this image has no %s: build the image again\n", name);
        _exit(EXIT_FAILURE);
    }
    return reinterpret_cast<Function *>(found);
}

// A peer's text as one printable word: every byte except letters, digits and ._- becomes %XX.
std::string word(const char *text);

// So many times its size Orthanc takes while it stores an object; measured from 50 to 400 MB.
constexpr uint64_t FACTOR = 4;

// What DCMTK takes for an element or an item beside its value; on the wire it has 8 bytes.
constexpr uint64_t ELEMENT_BYTES = 200;
// What Orthanc takes more of it while it stores the object, in small blocks. Measured with 20,000 to 240,000 elements of the
// VRs LO, LT, OB, UN and US and with items.
constexpr uint64_t STORED_BYTES = 850;
// The elements of an ordinary image: they always have their memory. Of others so many are looked at together.
constexpr uint64_t FREE_ELEMENTS = 2000, STEP_OF_ELEMENTS = 100;

// Whether this thread may take so many bytes more, by what Orthanc has taken now (memory.cc).
bool memory_left(uint64_t bytes);
// ... and for this thread's elements, which are so many by now. They are looked at from time to time.
inline bool elements_fit(uint64_t number)
{
    return number <= FREE_ELEMENTS || number % STEP_OF_ELEMENTS != 0 || memory_left(0);
}
// Much may have been freed: the system has it back.
void give_back_memory();

// Replaces a file by rename, so that a reader never sees a half of it; false where the disk does not take it.
bool write_whole(const std::string &file, const std::string &text);

// The limits that `understudy prepare-orthanc` derived (adapters/orthanc_config.py). Orthanc ends where one is missing.
struct Settings {
    uint64_t largest = 0;  // bytes of one object
    uint64_t memory = 0;   // bytes that all receptions and all blocks of 1 MiB and more may take
    size_t associations = 0; // as many as the edge lets in
    size_t found = 0;           // answers to one query, Orthanc's LimitFindResults
    size_t found_instances = 0; // at the level IMAGE, Orthanc's LimitFindInstances
    std::unordered_set<std::string> known; // listed AE titles, as words
};
const Settings &settings();

// Counts a refusal for the operator. `calling` is a word; `about` names the SOP class; `detail` is printable.
void count_refusal(const std::string &calling, const char *reason, const std::string &about, const std::string &detail);

// One reception's share of the memory, from its first byte until it is stored or refused.
class Share {
  public:
    enum class Answer { taken, too_large, no_memory };

    // Strangers give way to listed devices and to people.
    explicit Share(bool listed);
    ~Share();
    Share(const Share &) = delete;
    Share &operator=(const Share &) = delete;

    // The reception is about to hold so many bytes more. The call may wait for other receptions.
    Answer grow(uint64_t bytes);
    // Orthanc is about to store the object, which takes several times its size.
    Answer store();
    // The object was thrown away.
    void release();

    uint64_t received() const { return received_; }
    // Whether others wait for memory while this reception holds some that is counted.
    bool is_waited_for() const;

  private:
    friend class Budget;
    const bool listed_;
    const uint64_t number_;
    uint64_t received_ = 0;
    bool storing_ = false;
    bool waiting_to_store_ = false;
    bool waiting_ = false;
};

// Memory that this thread is going to take in small blocks, as long as this lives.
class Reserve {
  public:
    Reserve() = default;
    ~Reserve() { release(); }
    Reserve(const Reserve &) = delete;
    Reserve &operator=(const Reserve &) = delete;

    // So many bytes in all; false where they are not there, and then it is as before.
    bool hold(uint64_t bytes);
    void release();

  private:
    uint64_t bytes_ = 0;
};

// What this thread reads from a peer, and how long it still waits for that.
class Reading {
  public:
    enum class Kind { request, command, identifier, data_set };

    // An identifier, which is what a command asks for, and a data set to be stored have a share of the memory.
    Reading(const T_ASC_Association *association, Kind kind, Share *share = nullptr);
    ~Reading();
    Reading(const Reading &) = delete;
    Reading &operator=(const Reading &) = delete;

    // The peer was too slow, its place was given to another one, or what it says is too large.
    bool ended() const { return ended_; }
    bool is_message() const { return kind_ == Kind::command || kind_ == Kind::identifier; }

  private:
    friend struct Network;
    const T_ASC_Association *const association_;
    const Kind kind_;
    Share *const share_;
    Reading *const outer_;
    double left_;
    uint64_t bytes_ = 0; // of a command or an identifier
    bool ended_ = false;
};

// This thread is about to parse so many bytes more of a command or an identifier; false where it is too large.
bool message_may_grow(uint64_t bytes);

// The notes of what this process works on: slots of so many bytes behind a header that is as long. Requests have the first
// of them, stores as many behind as there are threads for them (parking.cc).
constexpr size_t SLOT_BYTES = 256;
constexpr unsigned SLOTS_OF_REQUESTS = 128;
unsigned take_slot();
void give_back_slot(unsigned slot);
void write_slot(unsigned slot, const std::string &text);

// How often Orthanc ended while this instance was on its way; from so many times on it is refused.
constexpr unsigned PARKED_AT = 2;
unsigned ends_of(const std::string &uid);
void forget_ends_of(const std::string &uid);

// Whoever works on an instance has a turn: a suspect alone, all others beside each other. False where it did not come in
// time; then the work goes on without, and the note of it says so. Who has waited in vain once does not wait again.
bool take_turn(bool alone, bool waits);
void end_turn(bool alone);

// Handles an HTTP request, unless its body is too large: then this answers it (uploads.cc).
int within_limits(mg_connection *connection, int (*handle)(mg_connection *));

// Handles an HTTP request, as a question that may take memory as far as it is there (readers.cc).
int with_memory(mg_connection *connection, int (*handle)(mg_connection *));
// This thread begins to work on a command that came by DICOM.
void question_begins();
// This thread's question, if it has one, is about to parse a data set.
void question_begins_data_set();
// ... and another element of it; false where there is no memory for it.
bool question_may_parse_element();
// This thread's request is answered so, unless its answer has begun (requests.cc).
void refuse_request(int status, const std::string &reason);

// This thread's HTTP request reads on from its peer: the instances that came before are stored (requests.cc).
void reads_on();

// The body of this thread's HTTP request is about to be parsed; false where there is no memory for that. The call waits.
bool upload_may_be_parsed();

// Orthanc was asked to stop: nothing new is taken (stop.cc).
bool stopping();

// Orthanc has stopped by itself (stop.cc): nothing that was on its way is suspect.
void ended_in_order();

// Whether the command that this thread received last has no SOP Instance UID that DCMTK could hold.
bool &without_uid();

} // namespace reception
