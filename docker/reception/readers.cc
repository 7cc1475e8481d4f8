// Holds what the questions of readers make of data sets to the memory of the container.
//
// For a reader Orthanc parses an object, and writes all its elements as JSON. Both take small blocks, which nobody can be
// refused one by one (memory.cc): two readers of objects with 990,000 elements ended Orthanc.
//
// Rule 1: who finds no memory for the next elements is refused: parsing fails, or writing does. By HTTP the answer is 503.
// Rule 2: an object that is stored by HTTP has to find the memory of its elements before it is stored, as by C-STORE.
// Rule 3: Orthanc's own threads, which parse for readers, and DICOMweb's, which write of a whole series, are not refused:
// what lacks an instance would be kept for good. How much they parse at a time, and keep, is in Orthanc's configuration.
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

// What one thread works on for somebody who asks.
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

    // One command retrieves a whole study, and is not to fail for the sum of its ordinary images.
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
    // Told once: Orthanc may ask for the next element all the same.
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
    uint64_t elements_ = 0;    // that were parsed and written
    uint64_t of_data_set_ = 0; // of the one that is to be stored
    Reserve to_be_stored_;
};

thread_local Question *Question::present = nullptr;

// What is being stored has its memory. A null pointer would be an element that is not there: Orthanc would leave it out.
void make_one_more()
{
    if (Question::present != nullptr && !receiving() && !uploading() && !Question::present->one_more())
        throw std::bad_alloc();
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
