// Limits the memory that Orthanc uses to answer readers.
//
// For a reader Orthanc parses an object, and writes all its elements as JSON. Both allocate small blocks, which cannot be
// refused one by one (memory.cc). Two readers of objects with 990,000 elements ended Orthanc.
//
// Rule 1: if there is no memory for the next elements, parsing or writing fails. By HTTP the answer is 503.
// Rule 2: an object that arrives by HTTP is stored only if there is memory for its elements, as with C-STORE.
// Rule 3: Orthanc's own threads, which parse for readers, and those of DICOMweb, which write about a whole series, are not
// refused: a result that lacks an instance would be kept for good. Those of DICOMweb wait for memory (loading.cc), and
// Orthanc's configuration limits what its own parse and keep.
#include <new>
#include <string>

#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dcdatset.h>
#include <dcmtk/dcmdata/dcsequen.h>

#include "reception.h"

bool receiving();
bool uploading();

namespace reception {

namespace {

using GetElement = DcmElement *(DcmItem *, unsigned long);
using GetItem = DcmItem *(DcmSequenceOfItems *, unsigned long);

GetElement *const get_element = replaced<GetElement>("_ZN7DcmItem10getElementEm");
GetItem *const get_item = replaced<GetItem>("_ZN18DcmSequenceOfItems7getItemEm");

constexpr char REASON[] = "there is no memory now for the elements of an object: other requests have it, or it has too many";

// The work of one thread for one request or command.
class Question {
  public:
    explicit Question(bool by_http) : by_http_(by_http) { present = this; }
    ~Question() { present = nullptr; }
    Question(const Question &) = delete;
    Question &operator=(const Question &) = delete;

    void begin()
    {
        elements_ = 0;
        told_ = false;
    }

    // One command may retrieve a whole study. It must not fail because of the sum of its ordinary images.
    void begin_data_set()
    {
        of_data_set_ = 0;
        if (!by_http_)
            elements_ = 0;
    }

    bool parses()
    {
        if (!uploading())
            return one_more();
        ++of_data_set_;
        return of_data_set_ <= FREE_ELEMENTS || of_data_set_ % STEP_OF_ELEMENTS != 0 ||
               to_be_stored_.hold(of_data_set_ * STORED_BYTES) || refused();
    }

    bool one_more() { return elements_fit(++elements_) || refused(); }

    static thread_local Question *present;

  private:
    // Reported once: Orthanc may ask for the next element all the same.
    bool refused()
    {
        if (!told_) {
            refuse_request(503, REASON);
            if (uploading())
                count_refusal("-", "memory", "-", "instance=-");
        }
        told_ = true;
        return false;
    }

    const bool by_http_;
    bool told_ = false;
    uint64_t elements_ = 0;    // parsed and written so far
    uint64_t of_data_set_ = 0; // elements of the data set that will be stored
    Reserve to_be_stored_;
};

thread_local Question *Question::present = nullptr;

// The elements that this thread, which answers nobody, has written as JSON.
thread_local uint64_t written = 0;

// An object that is being stored has its memory already. Throws, because Orthanc would take a null pointer for an absent
// element and leave it out.
void make_one_more()
{
    if (Question::present != nullptr && !receiving() && !uploading() && !Question::present->one_more())
        throw std::bad_alloc();
    if (loads() && ++written % STEP_OF_ELEMENTS == 0)
        wait_for_elements();
}

} // namespace

int with_memory(mg_connection *connection, int (*handle)(mg_connection *))
{
    give_back_memory();
    int handled = 0;
    {
        Question question(true);
        handled = handle(connection);
    }
    give_back_memory();
    return handled;
}

void question_begins()
{
    static thread_local Question question(false);
    question.begin();
    give_back_memory();
}

void question_begins_data_set()
{
    if (Question::present != nullptr)
        Question::present->begin_data_set();
}

bool answers() { return Question::present != nullptr; }

bool question_may_parse_element() { return Question::present == nullptr || Question::present->parses(); }

} // namespace reception

// Orthanc asks for the elements of an item, and for the items of a sequence, one by one.
DcmElement *DcmItem::getElement(const unsigned long num)
{
    reception::make_one_more();
    return reception::get_element(this, num);
}

DcmItem *DcmSequenceOfItems::getItem(const unsigned long num)
{
    reception::make_one_more();
    return reception::get_item(this, num);
}
