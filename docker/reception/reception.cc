// Stands in Orthanc's process between the network and DCMTK's parser (LD_PRELOAD; docker/start.sh).
//
// DCMTK 3.7.0 recurses as deep as a data set is nested, keeps whatever a deflated one inflates to, and gives the whole
// association up at a data set that it cannot read: what came behind it on that association is never sent.
//
// Rule 1: a data set that is refused here is read to its end, kept nowhere and answered with 0xC000 (PS3.4 B.2.3);
// the association goes on.
// Rule 2: an ordinary store pays two writes into the page cache. What is written there outlives this process, and says
// at the next start which instances were on their way (plugins/understudy/plugin/parking.py has the format).
// Rule 3: an instance that was on its way when Orthanc ended is worked on alone the next time. So a second end names
// the one that causes it, and not those that came at the same moment.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <unordered_map>

#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dcdatset.h>
#include <dcmtk/dcmdata/dcistrma.h>
#include <dcmtk/dcmdata/dcsequen.h>
#include <dcmtk/dcmdata/dcxfer.h>
#include <dcmtk/dcmnet/dimse.h>

namespace {

// As in plugins/understudy/plugin/shape.py, which has to hold for the small stacks of Orthanc's HTTP threads.
constexpr unsigned MAX_DEPTH = 32;
constexpr offile_off_t MAX_INFLATED = 128 << 20;

constexpr Uint16 CANNOT_UNDERSTAND = 0xC000;

// Seconds after which nobody waits any longer for work that is done alone.
constexpr time_t PATIENCE = 2;

// The notes: SLOTS of SLOT_BYTES behind the header, which is as long. The plugin has the slots behind these.
constexpr unsigned SLOTS = 64;
constexpr size_t SLOT_BYTES = 256;

constexpr unsigned PARKED_AT = 2;

// The function that this file replaces; there is no intake without it.
template <typename Function> Function *replaced(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == nullptr) {
        std::fprintf(stderr, "reception: this DCMTK has no %s: build the image anew\n", name);
        _exit(EXIT_FAILURE);
    }
    return reinterpret_cast<Function *>(found);
}

using StoreProvider = OFCondition(T_ASC_Association *, T_ASC_PresentationContextID, T_DIMSE_C_StoreRQ *, const char *, int,
                                  DcmDataset **, DIMSE_StoreProviderCallback, void *, T_DIMSE_BlockingMode, int);
using NextPDV = OFCondition(DUL_ASSOCIATIONKEY **, DUL_PDV *);
using ReadDataset = OFCondition(DcmDataset *, DcmInputStream &, E_TransferSyntax, E_GrpLenEncoding, Uint32);
using ReadSequence = OFCondition(DcmSequenceOfItems *, DcmInputStream &, E_TransferSyntax, E_GrpLenEncoding, Uint32);

StoreProvider *const store_provider = replaced<StoreProvider>(
    "_Z19DIMSE_storeProviderP17T_ASC_AssociationhP17T_DIMSE_C_StoreRQPKciPP10DcmDataset"
    "PFvPvP21T_DIMSE_StoreProgressS2_PcS7_P18T_DIMSE_C_StoreRSPS7_ES8_20T_DIMSE_BlockingModei");
NextPDV *const next_pdv = replaced<NextPDV>("_Z11DUL_NextPDVPPvP7DUL_PDV");
ReadDataset *const read_dataset =
    replaced<ReadDataset>("_ZN10DcmDataset4readER14DcmInputStream16E_TransferSyntax16E_GrpLenEncodingj");
ReadSequence *const read_sequence =
    replaced<ReadSequence>("_ZN18DcmSequenceOfItems4readER14DcmInputStream16E_TransferSyntax16E_GrpLenEncodingj");

// What a peer says, as one printable word: all but letters, digits and ._- in percent signs.
std::string word(const char *text)
{
    std::string padded(text == nullptr ? "" : text), encoded;
    padded.erase(padded.find_last_not_of(' ') + 1);
    for (const unsigned char byte : padded) {
        const bool plain = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
                           byte == '.' || byte == '_' || byte == '-';
        std::array<char, 4> escaped{};
        std::snprintf(escaped.data(), escaped.size(), plain ? "%c" : "%%%02X", byte);
        encoded += escaped.data();
    }
    return encoded.empty() ? "-" : encoded;
}

// Notes what is on its way, and knows what was when Orthanc ended.
class Parking {
  public:
    Parking()
    {
        const char *folder = std::getenv("UNDERSTUDY_PARKING");
        if (folder == nullptr)
            return;
        notes_ = open((std::string(folder) + "/on-the-way").c_str(), O_WRONLY | O_CLOEXEC);
        suspects_ = std::string(folder) + "/suspects";
        read();
    }

    // Orthanc ends in good order: nothing that was on its way is suspect.
    ~Parking()
    {
        if (notes_ >= 0 && ftruncate(notes_, 0) != 0)
            std::fprintf(stderr, "reception: the notes could not be emptied: %s\n", std::strerror(errno));
    }

    // How often Orthanc ended while this instance was on its way. A person may have released it meanwhile.
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
        const std::lock_guard<std::mutex> lock(mutex_);
        ends_.erase(uid);
    }

    // SLOTS where all are taken: that store is not noted.
    unsigned take()
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        unsigned slot = 0;
        while (slot < SLOTS && taken_[slot])
            ++slot;
        if (slot < SLOTS)
            taken_[slot] = true;
        return slot;
    }

    void give_back(unsigned slot)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (slot < SLOTS)
            taken_[slot] = false;
    }

    void note(unsigned slot, const std::string &text) const
    {
        std::array<char, SLOT_BYTES> record{};
        text.copy(record.data(), record.size() - 1);
        const auto position = static_cast<off_t>((slot + 1) * SLOT_BYTES);
        // A disk that does not take it must not hinder the store.
        if (notes_ >= 0 && slot < SLOTS && pwrite(notes_, record.data(), record.size(), position) < 0)
            return;
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

    int notes_ = -1;
    std::string suspects_;
    std::mutex mutex_;
    std::unordered_map<std::string, unsigned> ends_;
    std::array<bool, SLOTS> taken_{};
};

Parking parking;
pthread_rwlock_t turn = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

// One C-STORE, from its request to its answer.
class Reception {
  public:
    Reception(const T_ASC_Association &association, const T_DIMSE_C_StoreRQ &request, DIMSE_StoreProviderCallback callback,
              void *data)
        : uid_(word(request.AffectedSOPInstanceUID)), calling_(word(association.params->DULparams.callingAPTitle)),
          callback_(callback), data_(data), slot_(parking.take())
    {
        const unsigned ends = parking.ends(uid_);
        suspect_ = ends > 0;
        if (ends >= PARKED_AT)
            refuse("it was on its way when Orthanc ended, " + std::to_string(ends) + " times: it is parked");
        else if (!suspect_)
            note("store");
        present = this;
    }

    ~Reception()
    {
        present = nullptr;
        note("");
        parking.give_back(slot_);
    }

    Reception(const Reception &) = delete;
    Reception &operator=(const Reception &) = delete;

    bool working() const { return working_; }

    // What follows of a data set that is refused is thrown away before DCMTK keeps or inflates it. At an odd fragment,
    // which PS3.8 does not know, DCMTK would stop listening in the middle of the data set.
    void take(DUL_PDV &fragment)
    {
        if (!refused_ && fragment.fragmentLength % 2 != 0)
            refuse("a fragment of it has an odd length");
        if (refused_)
            fragment.fragmentLength = 0;
    }

    OFCondition read(DcmDataset &dataset, DcmInputStream &stream, E_TransferSyntax syntax, E_GrpLenEncoding lengths,
                     Uint32 most)
    {
        if (!refused_) {
            const Step step(*this);
            const OFCondition read = read_dataset(&dataset, stream, syntax, lengths, most);
            const bool deflated = DcmXfer(syntax).getStreamCompression() != ESC_none;
            if (read.bad() && read != EC_StreamNotifyClient)
                refuse(read.text());
            else if (read == EC_StreamNotifyClient && stream.eos())
                refuse("it ends before its last element does");
            else if (deflated && stream.tell() > MAX_INFLATED)
                refuse("it inflates to more than " + std::to_string(MAX_INFLATED) + " bytes");
            else
                return read;
            dataset.clear();
        }
        return EC_StreamNotifyClient;
    }

    static void progressed(void *reception, T_DIMSE_StoreProgress *progress, T_DIMSE_C_StoreRQ *request, char *file,
                           DcmDataset **dataset, T_DIMSE_C_StoreRSP *response, DcmDataset **detail)
    {
        auto &self = *static_cast<Reception *>(reception);
        if (progress->state != DIMSE_StoreEnd) {
            self.callback_(self.data_, progress, request, file, dataset, response, detail);
        } else if (self.refused_) {
            response->DimseStatus = CANNOT_UNDERSTAND;
        } else {
            const Step step(self);
            self.callback_(self.data_, progress, request, file, dataset, response, detail);
            if (self.suspect_ && response->DimseStatus == STATUS_Success)
                parking.forget(self.uid_);
        }
    }

    static thread_local Reception *present;

  private:
    // Work on the data set, not waiting for the network: alone for a suspect, beside each other for all others.
    class Step {
      public:
        explicit Step(Reception &reception) : reception_(reception)
        {
            timespec until{};
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec += PATIENCE;
            const bool alone = reception.suspect_;
            locked_ = (alone ? pthread_rwlock_timedwrlock(&turn, &until) : pthread_rwlock_timedrdlock(&turn, &until)) == 0;
            reception.working_ = true;
            if (alone)
                reception.note("alone");
        }

        ~Step()
        {
            if (reception_.suspect_)
                reception_.note("");
            reception_.working_ = false;
            if (locked_)
                pthread_rwlock_unlock(&turn);
        }

        Step(const Step &) = delete;
        Step &operator=(const Step &) = delete;

      private:
        Reception &reception_;
        bool locked_;
    };

    void note(const char *what) const
    {
        parking.note(slot_, *what == 0 ? "" : std::string(what) + ' ' + calling_ + ' ' + uid_);
    }

    void refuse(const std::string &why)
    {
        refused_ = true;
        std::fprintf(stderr, "reception: c_store refused status=0x%04X calling=%s instance=%s because=%s\n",
                     CANNOT_UNDERSTAND, calling_.c_str(), uid_.c_str(), why.c_str());
    }

    const std::string uid_, calling_;
    const DIMSE_StoreProviderCallback callback_;
    void *const data_;
    const unsigned slot_;
    bool suspect_ = false;
    bool refused_ = false;
    bool working_ = false;
};

thread_local Reception *Reception::present = nullptr;

} // namespace

OFCondition DIMSE_storeProvider(T_ASC_Association *assoc, T_ASC_PresentationContextID presIdCmd, T_DIMSE_C_StoreRQ *request,
                                const char *imageFileName, int writeMetaheader, DcmDataset **imageDataSet,
                                DIMSE_StoreProviderCallback callback, void *callbackData, T_DIMSE_BlockingMode blockMode,
                                int timeout)
{
    Reception reception(*assoc, *request, callback, callbackData);
    return store_provider(assoc, presIdCmd, request, imageFileName, writeMetaheader, imageDataSet, Reception::progressed,
                          &reception, blockMode, timeout);
}

OFCondition DUL_NextPDV(DUL_ASSOCIATIONKEY **association, DUL_PDV *pdv)
{
    const OFCondition next = next_pdv(association, pdv);
    if (next.good() && Reception::present != nullptr)
        Reception::present->take(*pdv);
    return next;
}

// Also of what Orthanc parses while it works on a store, and of files: those are read as ever.
OFCondition DcmDataset::read(DcmInputStream &inStream, const E_TransferSyntax xfer, const E_GrpLenEncoding glenc,
                             const Uint32 maxReadLength)
{
    Reception *reception = Reception::present;
    if (reception == nullptr || reception->working())
        return read_dataset(this, inStream, xfer, glenc, maxReadLength);
    return reception->read(*this, inStream, xfer, glenc, maxReadLength);
}

// DCMTK calls this once for each level of nesting, whatever it reads.
OFCondition DcmSequenceOfItems::read(DcmInputStream &inStream, const E_TransferSyntax xfer, const E_GrpLenEncoding glenc,
                                     const Uint32 maxReadLength)
{
    static thread_local unsigned depth = 0;
    if (depth >= MAX_DEPTH)
        return errorFlag = makeOFCondition(OFM_dcmdata, 69, OF_error, "its sequences are nested deeper than 32");
    const struct Level {
        Level() { ++depth; }
        ~Level() { --depth; }
    } level;
    return read_sequence(this, inStream, xfer, glenc, maxReadLength);
}
