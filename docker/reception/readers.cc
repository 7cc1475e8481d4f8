// Holds what HTTP requests make of data sets to the memory of the container.
//
// For a reader Orthanc parses an object and writes all its elements as JSON. That takes ELEMENT_BYTES for each that is parsed
// and up to MADE_BYTES for each that is written, in blocks that are too small for memory.cc to see: two readers of objects
// with 990,000 elements ended Orthanc. An object that is stored by HTTP takes FACTOR times ELEMENT_BYTES, as by C-STORE.
//
// Rule 1: a parsed data set counts until the next one is parsed, and what was made of its elements until the request ends.
// Rule 2: who does not find that memory is refused at once: parsing fails, or writing does, and the answer is 503.
// Rule 3: what DICOMweb's own threads write of a whole series is not refused: it would keep for good what lacks an instance.
#include <new>
#include <string>

#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dcdatset.h>
#include <dcmtk/dcmdata/dcsequen.h>

#include "reception.h"

bool uploading();

namespace reception {

namespace {

// Measured as 690 bytes for /simplified-tags and 930 for /tags.
constexpr uint64_t MADE_BYTES = 1000;
// So many elements are counted at once.
constexpr uint64_t STEP = 100;

using GetElement = DcmElement *(DcmItem *, unsigned long);
using GetItem = DcmItem *(DcmSequenceOfItems *, unsigned long);

GetElement *const get_element = replaced<GetElement>("_ZN7DcmItem10getElementEm");
GetItem *const get_item = replaced<GetItem>("_ZN18DcmSequenceOfItems7getItemEm");

constexpr char REASON[] = "there is no memory now for the elements of an object: other requests have it, or it has too many";

// Of one request, by the thread that works on it.
class Reader {
  public:
    Reader() { present = this; }
    ~Reader() { present = nullptr; }
    Reader(const Reader &) = delete;
    Reader &operator=(const Reader &) = delete;

    bool parses()
    {
        // As of what comes by C-STORE.
        if (uploading() && parsed_ * ELEMENT_BYTES > settings().largest) {
            refuse_request(413, "the object has more elements than the memory suffices for");
            count_refusal("-", "large", "-", "instance=-,bytes=" + std::to_string(settings().largest));
            return false;
        }
        // What is made of its elements counts with them: Orthanc keeps an object that it has parsed, and would do so in vain.
        return fits(++parsed_, parsed_memory_, uploading() ? FACTOR * ELEMENT_BYTES : ELEMENT_BYTES + MADE_BYTES);
    }

    // What Orthanc makes of an object that was parsed before, or of one more than it has parsed now.
    bool makes() { return uploading() || ++made_ <= parsed_ || fits(made_ - parsed_, made_memory_, MADE_BYTES); }

    void begin()
    {
        parsed_ = 0;
        parsed_memory_.release();
    }

    static thread_local Reader *present;

  private:
    static bool fits(uint64_t number, Elements &memory, uint64_t each)
    {
        if (number <= FREE_ELEMENTS || number % STEP != 0 || memory.hold((number - FREE_ELEMENTS) * each))
            return true;
        refuse_request(503, REASON);
        if (uploading())
            count_refusal("-", "memory", "-", "instance=-");
        return false;
    }

    uint64_t parsed_ = 0, made_ = 0;
    Elements parsed_memory_, made_memory_;
};

thread_local Reader *Reader::present = nullptr;

bool may_make_one_more() { return Reader::present == nullptr || Reader::present->makes(); }

} // namespace

int with_memory(mg_connection *connection, int (*handle)(mg_connection *))
{
    const Reader reader;
    return handle(connection);
}

void request_begins_data_set()
{
    if (Reader::present != nullptr)
        Reader::present->begin();
}

bool request_may_parse_element() { return Reader::present == nullptr || Reader::present->parses(); }

} // namespace reception

// Orthanc asks for the elements of an item, and for the items of a sequence, one by one.
DcmElement *DcmItem::getElement(const unsigned long num)
{
    return reception::may_make_one_more() ? reception::get_element(this, num) : nullptr;
}

DcmItem *DcmSequenceOfItems::getItem(const unsigned long num)
{
    if (!reception::may_make_one_more())
        throw std::bad_alloc();
    return reception::get_item(this, num);
}
